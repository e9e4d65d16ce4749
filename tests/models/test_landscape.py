import json
import math
import shutil
from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import events
from dmp.events import Bid
from models import artefacts, landscape, landscape_fit, landscape_train
from models.artefacts import BadArtefact
from models.context import Context, decode_context, encode_context
from models.landscape import Landscape
from tests.models.price_world import Market, a_log, a_market, bids_of
from tests.stored import encode_all

NOW_US = 20_001 * 86_400_000_000


def shaded(land: Landscape | None, context: Context, quality: float, worth: float) -> landscape.Shaded:
    return landscape.shade(landscape.terms(land, context, quality), worth)


# ---- the shading table


@pytest.mark.parametrize(
    ("spread", "u", "share"),
    [(0.6, 1, 0.68), (0.6, 2, 0.54), (0.6, 4, 0.39), (1.0, 1, 0.55), (1.0, 2, 0.46), (1.0, 4, 0.37), (0.3, 1, 0.81),
     (0.3, 2, 0.60), (0.3, 4, 0.37)],
)  # fmt: skip
def test_the_table_has_the_published_values(spread: float, u: float, share: float) -> None:
    assert landscape.best_share(math.log(u), spread) == pytest.approx(share, abs=0.006)


def surplus(worth: float, bid: float, mu: float, spread: float) -> float:
    return (worth - bid) * landscape.phi((math.log(bid) - mu) / spread)


@given(st.floats(-4, 5), st.floats(0.08, 2.5), st.floats(10, 18))
def test_no_bid_earns_more_than_the_tables(log_u: float, spread: float, mu: float) -> None:
    worth = math.exp(mu + log_u)
    bid = landscape.optimum(worth, mu, spread)
    assert 0 < bid <= worth
    tried = worth * np.linspace(0.002, 0.999, 500)
    best = max(surplus(worth, b, mu, spread) for b in tried.tolist())
    assert surplus(worth, bid, mu, spread) >= best * 0.995 - 1e-9 * worth


@given(st.floats(1, 1e12), st.floats(1.01, 4), st.floats(0.08, 2.5))
def test_more_worth_is_never_bid_less(worth: float, factor: float, spread: float) -> None:
    assert landscape.optimum(worth * factor, 14.0, spread) >= landscape.optimum(worth, 14.0, spread) * (1 - 1e-9)


# ---- without a model


def test_on_nothing_a_constant_share_is_bid() -> None:
    found = shaded(None, Context(), math.nan, 1e6)
    assert (found.bid, found.how) == (850_000.0, "constant")


# ---- trained on a planted market


@pytest.fixture(scope="module")
def market() -> Market:
    return a_market(12_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, market: Market) -> Path:
    home = tmp_path_factory.mktemp("landscape")
    report = landscape_train.train(
        landscape_train.observations(a_log(home / "bidlog", market)), home / "models", now_us=NOW_US
    )
    assert report.version is not None, report.refused
    return home / "models"


@pytest.fixture
def land(root: Path) -> Landscape:
    return landscape.load(root)


def test_the_planted_prices_are_found(land: Landscape) -> None:
    fresh = a_market(2_000, seed=7)
    found = np.array([landscape.centre(land, context, math.nan) for context in fresh.contexts])
    assert np.corrcoef(found, fresh.mu)[0, 1] > 0.95
    assert abs((found - fresh.mu).mean()) < 0.05
    assert land.manifest.spreads["x/300x250"] == pytest.approx(0.3, rel=0.2)
    assert land.manifest.spreads["x/728x90"] == pytest.approx(0.7, rel=0.2)


def test_probabilities_of_winning_are_right(land: Landscape) -> None:
    fresh = a_market(4_000, seed=8)
    chances, won = [], []
    for context, m, bid in zip(fresh.contexts, fresh.m, bids_of(fresh, 9), strict=True):
        chances.append(landscape.chance_of(landscape.terms(land, context, math.nan), bid))
        won.append(bid >= m)
    p, w = np.array(chances), np.array(won)
    for part in np.array_split(np.argsort(p), 5):
        assert p[part].mean() == pytest.approx(w[part].mean(), abs=0.06)


def test_shading_earns_more_than_any_constant_share(land: Landscape) -> None:
    fresh = a_market(4_000, seed=10)
    worth = np.exp(np.random.default_rng(11).normal(14.3, 0.7, 4_000))
    made = [shaded(land, c, math.nan, v) for c, v in zip(fresh.contexts, worth.tolist(), strict=True)]
    assert {one.how for one in made} == {"model"}
    bids = np.array([one.bid for one in made])
    ours = float(((worth - bids) * (bids >= fresh.m)).sum())
    constant = max(float((worth * (1 - r) * (worth * r >= fresh.m)).sum()) for r in np.linspace(0.2, 1, 41))
    clairvoyant = float(np.maximum(worth - fresh.m, 0).sum())
    assert ours > 1.1 * constant
    assert ours > 0.55 * clairvoyant


def test_a_bid_is_never_above_its_worth(land: Landscape) -> None:
    for worth in (1.0, 1e4, 1e6, 1e9):
        assert shaded(land, Context(exchange="x"), math.nan, worth).bid <= worth
    assert shaded(land, Context(exchange="x"), math.nan, 0.0).bid == 0.0


def test_an_exchange_it_has_not_seen_gets_the_constant_share(land: Landscape) -> None:
    assert shaded(land, Context(exchange="y"), math.nan, 1e6).how == "constant"


def test_a_segment_without_a_model_gets_its_ratio(land: Landscape) -> None:
    poor = msgspec.structs.replace(land, manifest=msgspec.structs.replace(land.manifest, spreads={}))
    context = Context(exchange="x", width=300, height=250)
    found = shaded(poor, context, math.nan, 1.5e6)
    assert found.how == "segment"
    assert 0.2 * 1.5e6 <= found.bid <= 1.5e6
    assert shaded(poor, Context(exchange="x", width=1, height=1), math.nan, 1e6).how == "segment"


def test_where_only_a_part_of_the_bid_is_charged_more_is_bid(land: Landscape) -> None:
    mixed = msgspec.structs.replace(land, manifest=msgspec.structs.replace(land.manifest, paid={"x": 0.8}))
    context = Context(exchange="x", domain="s1.example", width=300, height=250, hour=3)
    plain, more = (shaded(one, context, math.nan, 2e6).bid for one in (land, mixed))
    assert plain < more <= 2e6


# ---- what a log says


def test_every_outcome_is_read_for_what_it_tells(tmp_path: Path) -> None:
    def bid(name: str, **fields: object) -> Bid:
        base = {"event_id": name, "time_us": 1, "exchange": "x", "auction_id": name, "imp_id": "1", "campaign": "c",
                "creative": "k", "price_micros": 100, "at": 1}  # fmt: skip
        return Bid(**(base | fields))

    def loss(name: str, reason: int, told: int = 0) -> events.Loss:
        return events.Loss(event_id=f"{name}:loss", bid_id=name, imp_id="1", time_us=2, campaign="c", creative="k",
                           reason=reason, min_to_win_micros=told)  # fmt: skip

    def win(name: str, paid: int) -> events.Win:
        return events.Win(event_id=f"{name}:win", bid_id=name, imp_id="1", time_us=2, campaign="c", creative="k",
                          price_micros=paid)  # fmt: skip

    records = [
        bid("first"), win("first", 100), bid("second", at=2), win("second", 60), bid("told"), loss("told", 102, 130),
        bid("untold"), loss("untold", 102), bid("liar"), loss("liar", 102, 90), bid("floor", floor_micros=120),
        loss("floor", 100), bid("blocked"), loss("blocked", 202), bid("silent"), bid("euro", currency="EUR"),
        bid("other", exchange="y"),
    ]  # fmt: skip
    (tmp_path / "b.mpk").write_bytes(encode_all(records))
    found = landscape_train.observations(tmp_path)
    told = [(round(math.exp(y)), int(kind)) for y, kind in zip(found.y, found.kind, strict=True)]
    # in order of bid id: first, floor, other (its exchange tells of no losses), second, silent, told, untold
    assert told == [(100, 2), (120, 0), (100, 1), (60, 0), (100, 1), (130, 0), (100, 1)]
    assert found.counts["contradicted"] == 1
    assert found.counts["other_losses"] == 1
    assert found.counts["other_currency"] == 1


@pytest.mark.parametrize(("told", "left_out"), [(1.0, True), (0.95, True), (0.2, False), (0.0, False)])
def test_losses_that_are_told_in_part_do_not_make_winning_look_cheap(
    tmp_path: Path, told: float, left_out: bool
) -> None:
    """ln m ~ N(14, .5). Wins are always told: were untold losses left out, m would seem lower than it is."""
    rng = np.random.default_rng(4)
    market = msgspec.structs.replace(a_market(4_000), m=np.exp(rng.normal(14, 0.5, 4_000)))
    logged = list(events.read_file(a_log(tmp_path, market) / "bids-1.mpk"))
    kept = [one for one in logged if not isinstance(one, events.Loss) or rng.random() < told]
    (tmp_path / "bids-1.mpk").write_bytes(encode_all(kept))
    found = landscape_train.observations(tmp_path)
    mu, spread = landscape_fit.marginal(found.y, found.kind)
    assert mu == pytest.approx(14, abs=0.05)
    assert spread == pytest.approx(0.5, abs=0.05)
    assert found.counts.get("outcome_unknown", 0) == (len(logged) - len(kept) if left_out else 0)


def test_bids_whose_notices_may_still_come_are_not_taken_for_lost(tmp_path: Path) -> None:
    market = a_market(1_000)
    records = []
    for event in events.read_file(a_log(tmp_path, market) / "bids-1.mpk"):
        if isinstance(event, events.Win):  # told 300 bids later; nothing of the last ones has come
            event = msgspec.structs.replace(event, time_us=event.time_us + 300)
        if not isinstance(event, events.Loss) and event.time_us < 20_000 * 86_400_000_000 + 1_000:
            records.append(event)
    (tmp_path / "bids-1.mpk").write_bytes(encode_all(records))
    found = landscape_train.observations(tmp_path)
    won = (bids_of(market) >= market.m)[:700]
    assert found.won.sum() == won.sum()
    assert len(found.won) == 700
    assert found.counts["too_young"] == 300


def test_an_exchange_that_charges_less_than_the_bid_is_noticed(tmp_path: Path) -> None:
    market = a_market(1_500)
    mixed = landscape_train.observations(a_log(tmp_path / "a", market, factor=0.9))
    paid, first = landscape_train.charged(mixed)
    assert paid["x"] == pytest.approx(0.9, abs=0.01)
    assert first == []
    honest = landscape_train.observations(a_log(tmp_path / "b", market))
    assert landscape_train.charged(honest) == ({}, [])


def test_second_price_that_charges_the_bid_is_noticed(tmp_path: Path) -> None:
    market = a_market(1_500)
    data = landscape_train.observations(a_log(tmp_path, market, at=1))
    said_second = msgspec.structs.replace(data, second=np.ones(len(data.y), dtype=bool))
    assert landscape_train.charged(said_second) == ({}, ["x"])


def test_an_exchange_that_was_found_out_is_found_out_again(tmp_path: Path) -> None:
    """It still says second price, but since the last landscape it is bid in, and logged, as first price."""
    path = a_log(tmp_path, a_market(1_500)) / "bids-1.mpk"
    said = [
        msgspec.structs.replace(
            one,
            shading="model",
            context=encode_context(msgspec.structs.replace(decode_context(one.context), at=2)),
        )
        if isinstance(one, Bid)
        else one
        for one in events.read_file(path)
    ]
    path.write_bytes(encode_all(said))
    assert landscape_train.charged(landscape_train.observations(tmp_path)) == ({}, ["x"])


def test_the_gates_error_is_that_of_what_comes_together(market: Market, tmp_path: Path) -> None:
    """The same bids ten times over tell no more than once."""
    data = landscape_train.observations(
        a_log(
            tmp_path,
            msgspec.structs.replace(
                market,
                contexts=market.contexts[:1_200],
                m=market.m[:1_200],
                mu=market.mu[:1_200],
                spread=market.spread[:1_200],
            ),
        )
    )
    cut = len(data.y) // 2
    X = landscape_train.matrix(landscape_train.vocabulary(data.contexts[:cut]), data.contexts, data.quality)
    fit = landscape_fit.fit(X[:cut], data.y[:cut], data.kind[:cut], data.segments[:cut])
    errors = []
    for times in (1, 10):
        more, rows = _repeated(data, times), np.repeat(X, times, axis=0)
        booster = lightgbm.Booster(model_str=fit.text)
        metrics, _ = landscape_train.judge(more, rows, more.segments, fit, booster, times * cut)
        errors.append(metrics["nll_gain_se"])
    assert errors[1] == pytest.approx(errors[0], rel=0.3)  # taken as independent it would be a third


def _repeated(data: landscape_train.Observations, times: int) -> landscape_train.Observations:
    """Every row so many times in a row."""
    changed = {
        name: np.repeat(value, times)
        for name, value in msgspec.structs.asdict(data).items()
        if isinstance(value, np.ndarray)
    }
    contexts = [context for context in data.contexts for _ in range(times)]
    return msgspec.structs.replace(data, contexts=contexts, **changed)


# ---- publication


def test_noise_is_refused_with_the_numbers(tmp_path: Path) -> None:
    market = a_market(3_000)
    shuffled = msgspec.structs.replace(
        market, contexts=[Context(exchange="x", domain=f"s{i % 7}.example") for i in range(3_000)],
        m=np.exp(np.random.default_rng(1).normal(14, 0.5, 3_000)),
    )  # fmt: skip
    data = landscape_train.observations(a_log(tmp_path / "log", shuffled))
    report = landscape_train.train(data, tmp_path / "models", now_us=NOW_US)
    assert report.version is None
    assert "log likelihood above one log-normal" in report.refused
    assert artefacts.current(tmp_path / "models", landscape.KIND) is None


def test_too_few_bids_are_refused(tmp_path: Path) -> None:
    data = landscape_train.observations(a_log(tmp_path / "log", a_market(999)))
    assert "1000 are needed" in landscape_train.train(data, tmp_path / "models", now_us=NOW_US).refused


def test_a_landscape_that_wins_other_than_it_says_is_refused() -> None:
    good = {"nll_gain": 0.1, "nll_gain_se": 0.01, "win_calibration": 1.0}
    assert landscape_train.refusal(good) == ""
    assert "1.160" in landscape_train.refusal(good | {"win_calibration": 1.16})


BREAKS = {
    "model": (lambda folder: (folder / "model.txt").write_text("tree"), "model.txt was changed"),
    "golden": (lambda folder: (folder / "golden.bin").unlink(), "golden.bin cannot be read"),
    "json": (lambda folder: (folder / "manifest.json").write_text("{"), "not a manifest"),
    "spread": (lambda folder: rewrite(folder, spreads={"x": 9.0}), "manifest.json was changed"),
    "kind": (lambda folder: rewrite(folder, kind="response"), "calls itself response/"),
}


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("how", BREAKS)
def test_a_changed_landscape_is_refused(root: Path, tmp_path: Path, how: str) -> None:
    copy = tmp_path / "models"
    shutil.copytree(root, copy)
    damage, why = BREAKS[how]
    damage(copy / landscape.KIND / (artefacts.current(copy, landscape.KIND) or ""))
    with pytest.raises(BadArtefact, match=why):
        landscape.load(copy)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spreads": {"x": 9.0}}, "a spread is not in"),
        ({"ratios": {"x": ([], [1.5])}}, "ratios"),
        ({"chances": {"x": ([0.5, 0.1], [0.0, 1.0])}}, "ascending"),
        ({"paid": {"x": 0.0}}, "share of the bid"),
        ({"signature": "another"}, "feature signature"),
    ],
)
def test_what_could_make_a_wild_bid_never_loads(root: Path, tmp_path: Path, changes: dict, why: str) -> None:
    version = artefacts.current(root, landscape.KIND) or ""
    manifest = msgspec.structs.replace(landscape.load(root).manifest, version="", **changes)
    name, sealed = artefacts.seal(manifest, NOW_US)
    files = {file: (root / landscape.KIND / version / file).read_bytes() for file in ("model.txt", "golden.bin")}
    files["manifest.json"] = sealed
    with pytest.raises(BadArtefact, match=why):
        artefacts.publish(tmp_path, landscape.KIND, name, files, lambda folder: landscape.read(folder, name), ())
    assert artefacts.current(tmp_path, landscape.KIND) is None


def test_wins_where_the_bid_is_charged_say_no_more_than_that(tmp_path: Path) -> None:
    data = landscape_train.observations(a_log(tmp_path, a_market(1_500), at=1))
    said_second = msgspec.structs.replace(
        data, second=np.ones(len(data.y), dtype=bool), kind=np.zeros(len(data.y), np.int8)
    )
    corrected = landscape_train._truly_first(said_second, ["x"])
    assert set(corrected.kind[data.won > 0]) == {landscape_fit.BELOW}
    assert set(corrected.kind[data.won == 0]) == {landscape_fit.EXACT}
    assert set(landscape_train._truly_first(said_second, []).kind) == {landscape_fit.EXACT}
