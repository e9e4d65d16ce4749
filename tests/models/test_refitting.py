import json
import time

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from dmp.events import Click, Impression
from models import frames, refitting, registry, response, upkeep
from models.__main__ import app
from models.dataset import Rows
from models.refitting import NothingNew
from models.upkeep import Job
from tests.models.factories import ADS, BORN_US, DAY_US, SECOND_US, bid, impressions, notice
from tests.models.test_upkeep import PATIENCE_S, at_work, line_with
from tests.stored import encode_all

OLD, NEW = 12_000, 9_000


def later(rows: Rows, by: int) -> Rows:
    """The same impressions, that many seconds later, as other rows of other bids."""
    items = [(context, user, ad, at + by * SECOND_US) for context, user, ad, at in rows.items]
    return msgspec.structs.replace(rows, items=items, keys=[f"l{key}" for key in rows.keys])


def turned(rows: Rows, seed: int) -> Rows:
    """As many clicks, but now by those whose interest is not what the ad is about."""
    met = np.array([ad.interest in user.tags for _, user, ad, _ in rows.items])
    chance = np.where(met, 2 / 7, 12 / 7) * 0.05
    return msgspec.structs.replace(rows, clicks=(np.random.default_rng(seed).random(len(rows)) < chance).astype(float))


def joined(one: Rows, other: Rows) -> Rows:
    return Rows(
        one.items + other.items, np.concatenate((one.clicks, other.clicks)), one.uids + other.uids,
        one.keys + other.keys, True, {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def old():
    return impressions(OLD)


@pytest.fixture
def root(old, trained, tmp_path):
    registry.publish(tmp_path, response.KIND, trained)
    return tmp_path


@pytest.fixture(scope="module")
def trained(old, tmp_path_factory):
    """A published model's artefact, to be published again for each test."""
    folder = tmp_path_factory.mktemp("models")
    response.train(old, folder, now_us=BORN_US, threads=1, force=True)
    model = registry.load(folder, response.KIND)
    width = model.forest.n_features
    proof = np.frombuffer((folder / "response" / model.version / "golden.bin").read_bytes()).reshape(-1, width + 1)
    return registry.Artefact(
        text=model.text, vocabulary=model.vocabulary, knots_x=model.manifest.knots_x, knots_y=model.manifest.knots_y,
        golden_rows=proof[:, :-1], golden_scores=proof[:, -1], created_us=BORN_US, from_us=BORN_US,
        to_us=model.manifest.to_us, rows=OLD, positives=600, metrics={}, card={},
        judged_from_us=model.manifest.judged_from_us,
    )  # fmt: skip


def structure(text):
    """What a refit must not touch."""
    return [line for line in text.splitlines() if line.startswith(("split_feature=", "threshold=", "num_leaves="))]


def test_a_world_that_turned_is_learnt_and_published_with_its_parent(old, root):
    parent = registry.load(root, response.KIND)
    frame = frames.of_rows(joined(old, later(turned(impressions(NEW, seed=1), 2), OLD)))
    found = refitting.refit(frame, root, now_us=BORN_US + DAY_US, force=True)
    assert found.gain.value > max(refitting.LEAST_GAIN, 2 * found.gain.se)
    model = registry.load(root, response.KIND)
    assert (model.version, model.manifest.parent) == (found.version, parent.version)
    assert structure(model.text) == structure(parent.text)
    assert model.text != parent.text
    assert model.vocabulary.same(parent.vocabulary)
    card = json.loads((root / "response" / model.version / "card.json").read_text())
    assert card["model"]["half_life_days"] == 7
    assert card["model"]["level_share"] == 0.05
    # 9,000 new rows, 6,000 of them refit; the next refit begins behind them.
    assert model.manifest.to_us == BORN_US + (OLD + 5_999) * SECOND_US
    assert model.manifest.judged_from_us == model.manifest.to_us + SECOND_US
    assert registry.rollback(root, response.KIND) == parent.version


def test_what_held_for_some_hours_only_is_not_worth_a_swap(old, root):
    """The newest third, which judges, is again as the training was."""
    before = registry.current(root, response.KIND)
    new = impressions(NEW, seed=1)
    clicks = np.where(np.arange(NEW) < NEW * refitting.REFIT_SHARE, turned(new, 2).clicks, new.clicks)
    frame = frames.of_rows(joined(old, later(msgspec.structs.replace(new, clicks=clicks), OLD)))
    found = refitting.refit(frame, root, now_us=BORN_US + DAY_US)
    assert found.version is None
    assert found.gain.value < 0
    assert "gain in normalised entropy over the live model" in found.refused
    assert "above 0.1%" in found.refused
    assert registry.current(root, response.KIND) == before


def test_without_a_model_or_news_there_is_nothing_to_refit(old, root, tmp_path):
    with pytest.raises(NothingNew, match="no live model"):
        refitting.refit(frames.of_rows(old), tmp_path / "empty", now_us=0)
    with pytest.raises(NothingNew, match="0 and 0 clicks in 0 impressions"):
        refitting.refit(frames.of_rows(old), root, now_us=0)


@pytest.mark.parametrize(("gain", "passed"), [(0.0011, True), (0.001, False), (0.0009, False), (-0.1, False)])
def test_a_tenth_of_a_percent_is_the_least_gain(gain, passed):
    assert refitting.enough(refitting.Gain(gain, 0.0)).passed is passed


def a_log(folder, last=0.2):
    """Of the hours after the training: four times the clicks there were. last: rate of the newest third."""
    rows, newest = (impressions(1_500, seed=3, rate=rate) for rate in (0.2, last))
    rows = msgspec.structs.replace(rows, clicks=np.concatenate((rows.clicks[:1_000], newest.clicks[1_000:])))
    start_us = BORN_US + OLD * SECOND_US
    logged = []
    for i, (_, user, ad, _) in enumerate(rows.items):
        at_us = start_us + i * SECOND_US
        logged += [bid(i, at_us, ad=ad, user=user), notice(Impression, i, at_us)]
        if rows.clicks[i]:
            logged.append(notice(Click, i, at_us + 5))
    logged.append(bid(5_000, start_us + 3_600 * SECOND_US, ad=ADS[0]))
    folder.mkdir()
    (folder / "bids-1.mpk").write_bytes(encode_all(logged))
    return folder


def test_the_command_publishes_what_the_gate_lets_pass_and_says_why_it_does_not(root, tmp_path, monkeypatch):
    fell, risen = a_log(tmp_path / "fell", last=0.05), a_log(tmp_path / "risen")
    monkeypatch.setenv("TAGBID_MODELS_MODELS_DIR", str(root))
    before = registry.current(root, response.KIND)

    def run(log):
        cache = ["--cache", str(log.with_suffix(".cache"))]
        ran = CliRunner().invoke(app, ["refit", str(log), "--json", *cache], catch_exceptions=False)
        return ran.exit_code, json.loads(ran.stdout)

    # Four times as many clicks are soon taken up; where they have gone again, that is seen.
    code, told = run(fell)
    assert (code, told["version"]) == (1, None)
    assert "above 0.1%" in told["refused"]
    assert registry.current(root, response.KIND) == before
    code, told = run(risen)
    assert (code, told["refused"], told["parent"]) == (0, "", before)
    assert registry.current(root, response.KIND) == told["version"]


def test_upkeep_refits_in_time_and_remembers_it(root, tmp_path):
    """The training is not due; what the refit finds is published, and the next one is an hour away."""
    a_log(tmp_path / "bidlog")
    upkeep.write(root, {"train": Job(time.time())})
    before = registry.current(root, response.KIND)
    with at_work(tmp_path, models_dir=".") as process:
        assert "1 published, 0 refused, 0 errors" in line_with(process, "refit: published")
        line_with(process, "next: refit at")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert registry.current(root, response.KIND) != before
    assert upkeep.read(root)["refit"].published == 1
