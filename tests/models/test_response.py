import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dmp.events import Click, Impression
from dmp.schema import User
from dmp.taxonomy import INTERESTS
from models import boosting, dataset, evaluate, features, frames, registry, response
from models.__main__ import app
from models.context import Ad, Context
from models.forest import sigmoid
from models.pairs import pair_values
from models.response import TooFewClicks
from tests.models.factories import ADS, BORN_US, DAY_US, MINUTE_US, bid, impressions, notice, over_days
from tests.stored import encode_all


def chance(model: registry.Model, user: User | None, ad: Ad) -> float:
    row = features.matrix(model.vocabulary, [(Context(exchange="x", domain="site3.example"), user, ad, BORN_US)])
    return float(model.calibrate(sigmoid(model.forest.predict(row)))[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return root, response.train(impressions(30_000), root, now_us=BORN_US, threads=1)


def test_a_planted_signal_is_found_and_calibrated(trained):
    root, report = trained
    assert report.refused == ""
    assert report.rows == (21_000, 4_500, 4_500)
    # 6/7 of the clicks but half of the rest are where interest meets ad: 6/7 / 2 + 1/2 / 2 = .679 is all there is.
    assert report.metrics.auc == pytest.approx(0.679, abs=0.03)
    assert report.over_base.value > 5 * report.over_base.se
    assert report.metrics.calibration == pytest.approx(1, abs=0.15)
    assert next(iter(report.importance)) in ("interest_score", "target_sum", "target_max")
    model = registry.load(root, "response")
    assert model.version == report.version
    assert chance(model, User({INTERESTS[0]: 80}), ADS[0]) == pytest.approx(0.05 * 12 / 7, rel=0.2)
    assert chance(model, User({INTERESTS[1]: 80}), ADS[0]) == pytest.approx(0.05 * 2 / 7, rel=0.35)


def test_a_contextual_bid_is_scored_between_the_two_kinds_of_users(trained):
    model = registry.load(trained[0], "response")
    low, high = chance(model, User({INTERESTS[1]: 80}), ADS[0]), chance(model, User({INTERESTS[0]: 80}), ADS[0])
    assert low < chance(model, None, ADS[0]) < high
    assert chance(model, None, ADS[0]) == pytest.approx(0.05, rel=0.35)


def test_the_same_rows_give_the_same_model(trained, tmp_path):
    again = response.train(impressions(30_000), tmp_path, now_us=BORN_US, threads=1)
    assert again == trained[1]


def test_the_model_card_tells_where_the_model_comes_from(trained):
    root, report = trained
    card = json.loads((root / "response" / report.version / "card.json").read_text())
    assert card["data"]["rows"] == {"train": 21_000, "validation": 4_500, "test": 4_500}
    assert card["data"]["split"] == "time"
    assert set(card["test_by_campaign"]) == {"travel", "sports"}
    assert [check["name"] for check in card["gate"] if not check["passed"]] == []
    assert card["gate"][0]["name"] == "log-loss gain over the constant click rate"
    curve = card["calibration_curve"]
    assert sum(line["rows"] for line in curve) == 4_500
    # Interest meets ad for half of the rows: they click six times as often.
    assert curve[-1]["observed"] / max(curve[0]["observed"], 0.005) > 2
    assert card["slices"]["hour"].keys() == {"07", "08"}  # 4,500 seconds from 07:05
    moved = {name for name, index in card["drift"].items() if index > 0.1}
    assert moved == {"hour"}  # a log of some hours: the test slice is of later ones
    told = " ".join(line["feature"] for lines in card["drivers"].values() for line in lines[:3])
    assert "interest_score" in told or "target_sum" in told or "target_max" in told
    odds = [line["odds"] for lines in card["drivers"].values() for line in lines if line["feature"] == "interest_score"]
    assert all(factor > 1 for factor in odds)
    manifest = registry.load(root, "response").manifest
    assert (manifest.from_us, manifest.to_us) == (BORN_US, BORN_US + 29_999 * 1_000_000)
    assert manifest.metrics["log_loss_gain"] == report.over_base.value


def test_pure_noise_is_refused_unless_forced(tmp_path):
    rows = impressions(8_000, signal=False)
    report = response.train(rows, tmp_path, now_us=BORN_US, threads=1)
    assert report.version is None
    assert "gain over the constant click rate" in report.refused
    assert registry.current(tmp_path, "response") is None
    forced = response.train(rows, tmp_path, now_us=BORN_US, threads=1, force=True)
    assert forced.refused == report.refused
    assert registry.load(tmp_path, "response").manifest.forced is True


def test_permuted_users_lose_the_signal(tmp_path):
    rows = impressions(12_000)
    users = [user for _, user, _, _ in rows.items]
    shuffled = iter(np.random.default_rng(1).permutation(len(users)))
    placebo = dataset.with_users(rows, lambda uid, user: users[next(shuffled)])
    report = response.train(placebo, tmp_path, now_us=BORN_US, threads=1, publish=False)
    assert abs(report.over_base.value) < 3 * report.over_base.se + 0.002
    assert report.version is None


def test_too_few_clicks_say_how_many_are_needed(tmp_path):
    with pytest.raises(TooFewClicks, match="20 are needed"):
        response.train(impressions(200, rate=0.01), tmp_path, now_us=BORN_US)
    with pytest.raises(TooFewClicks):
        response.train(impressions(2), tmp_path, now_us=BORN_US)


def test_time_splits_keep_the_order_and_hash_splits_keep_users_together():
    rows = impressions(400)
    train, valid, test = (np.flatnonzero(part).tolist() for part in response.split(frames.of_rows(rows)))
    assert train + valid + test == list(range(400))
    timeless = frames.of_rows(msgspec.structs.replace(rows, timed=False))
    tested = []
    for fold in range(response.FOLDS):
        parts = [np.flatnonzero(part).tolist() for part in response.split(timeless, fold)]
        assert sorted(i for part in parts for i in part) == list(range(400))
        owners = [{rows.uids[i] for i in part} for part in parts]
        assert sum(map(len, owners)) == len(set.union(*owners))
        tested += parts[2]
    assert sorted(tested) == list(range(400))


def test_the_last_day_judges_and_the_day_before_calibrates():
    frame = frames.of_rows(over_days(impressions(400), 5))
    days = frame.column("time_us") // DAY_US
    train, valid, test = (set(days[part].tolist()) for part in response.split(frame))
    assert train == {20_000, 20_001, 20_002}
    assert (valid, test) == ({20_003}, {20_004})


def test_the_forest_is_grown_again_from_validation_rows_which_chose_its_size(monkeypatch):
    monkeypatch.setattr(response, "FEW_CLICKS", 0)
    frame = frames.of_rows(impressions(12_000))
    train, valid, test = response.split(frame)
    grown = []
    fit = boosting.fit

    def watched(frame, encoder, rows, *args, **kwargs):
        grown.append((rows, kwargs, fit(frame, encoder, rows, *args, **kwargs)))
        return grown[-1][2]

    monkeypatch.setattr(boosting, "fit", watched)
    trained = response.fitted(frame, threads=1, baseline=False)
    (first, asked, stopped), (second, again, last) = grown
    assert (first == train).all()
    assert (second == (train | valid)).all()
    assert not (second & test).any()
    assert asked["patience"] > 0
    assert (again["patience"], again["trees"]) == (0, stopped.num_trees())
    assert trained.booster is last
    assert 0 < last.num_trees() <= stopped.num_trees()  # fewer where nothing is left to split


def test_rows_without_time_are_judged_by_folds_that_use_every_click_once(tmp_path):
    rows = msgspec.structs.replace(impressions(6_000), timed=False)
    report = response.train(rows, tmp_path, now_us=BORN_US, threads=1, publish=False)
    assert report.folds == 5
    assert (report.rows[2], report.clicks[2]) == (6_000, int(rows.clicks.sum()))
    assert report.metrics.auc == pytest.approx(0.679, abs=0.05)


def test_logged_vectors_are_what_the_trainer_computes(trained):
    """The row of a bid, from the request through the log to the matrix, is one row (1.8, skew)."""
    model = registry.load(trained[0], "response")
    items = impressions(200, seed=9).items
    X = features.matrix(model.vocabulary, items)
    for x, (context, user, ad, now_us) in zip(X, items, strict=True):
        mask = model.forest.request_mask(features.request_values(model.vocabulary, context, user, now_us))
        campaign = model.forest.campaign_masks(np.array([features.campaign_values(model.vocabulary, ad)]))
        pair = np.array([pair_values(ad, context, user, now_us)])
        assert model.forest.scores(mask, campaign, pair)[0] == model.forest.predict(x[None, :])[0]


def a_log(folder: Path, n: int) -> Path:
    rows = impressions(n)
    logged = []
    for i, (_, user, ad, _) in enumerate(rows.items):
        logged.append(bid(i, BORN_US + i, ad=ad, user=user))
        logged.append(notice(Impression, i, BORN_US + i))
        if rows.clicks[i]:
            logged.append(notice(Click, i, BORN_US + i + 5))
    logged.append(bid(n, BORN_US + 60 * MINUTE_US))
    folder.mkdir()
    (folder / "bids-1.mpk").write_bytes(encode_all(logged))
    return folder


def test_the_commands_train_list_and_roll_back(tmp_path, monkeypatch):
    log = a_log(tmp_path / "log", 6_000)
    monkeypatch.setenv("TAGBID_MODELS_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("TAGBID_MODELS_THREADS", "1")
    run = CliRunner()
    first = json.loads(run.invoke(app, ["train", str(log), "--json"], catch_exceptions=False).stdout)
    assert first["read"]["impressions"] == 6_000
    shown = run.invoke(app, ["train", str(log)], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "hashed logistic" in shown.stdout
    listed = json.loads(run.invoke(app, ["list", "--json"], catch_exceptions=False).stdout)
    assert [line["version"] for line in listed if line["live"]] != []
    assert listed[0]["version"] == first["version"]
    assert run.invoke(app, ["card"], catch_exceptions=False).exit_code == 0
    page = (tmp_path / "models" / "response" / listed[-1]["version"] / "card.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r"<(script|link|img|iframe)|url\((?!#)|@import|src=", page)  # nothing is fetched from anywhere
    assert json.loads(run.invoke(app, ["card", "--json"], catch_exceptions=False).stdout)["gate"]
    assert run.invoke(app, ["rollback", first["version"]], catch_exceptions=False).exit_code == 0
    assert registry.current(tmp_path / "models", "response") == first["version"]


def test_few_rows_train_as_often_as_they_weigh(monkeypatch):
    """Few rows train from the regression on whatever they weigh, each with the chance that is its weight."""
    seen = []
    fit_few = boosting.fit_few

    def spied(frame, encoder, train, *rest):
        seen.append(train)
        return fit_few(frame, encoder, train, *rest)

    monkeypatch.setattr(boosting, "fit_few", spied)
    frame = frames.of_rows(impressions(3_000))
    table = frame.parts[0](None)
    weights = np.where(np.arange(3_000) % 10 == 0, 0.0, np.where(np.arange(3_000) % 10 == 1, 0.5, 1.0))
    place = table.schema.get_field_index("weight")
    weighted = frames.in_memory(table.set_column(place, "weight", pa.array(weights)))
    response.fitted(weighted, threads=1, baseline=False)
    kept = seen[0]
    full = response.split(weighted)[0]
    assert not kept[weights == 0].any()
    assert np.array_equal(kept[weights == 1], full[weights == 1])
    assert kept[(weights == 0.5) & full].mean() == pytest.approx(0.5, abs=0.11)  # three standard errors of 210 rows


def test_evaluation_agrees_with_the_published_model(trained):
    root, report = trained
    rows = impressions(30_000)
    model = registry.load(root, "response")
    _, _, test = response.split(frames.of_rows(rows))
    X = features.matrix(model.vocabulary, [rows.items[i] for i in np.flatnonzero(test)])
    p = model.calibrate(sigmoid(model.forest.predict(X)))
    measured = msgspec.structs.asdict(evaluate.measure(rows.clicks[test], p))
    assert measured == pytest.approx(msgspec.structs.asdict(report.metrics), abs=1e-9)
