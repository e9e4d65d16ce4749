from pathlib import Path

import numpy as np
import pytest

from bidder.agent import Agent, Info, Observation, Result
from bidder.supply import Prices
from loadtest import replay, replay_bench
from loadtest.replay import Log, NoReplay
from loadtest.replay_baselines import Baseline, Const, DynamicProgramme, Linear, Mcpc, Ortb, PacedLinear


def a_log(n: int = 6_000, seed: int = 1) -> Log:
    """Auctions with a click probability that is right and prices that do not depend on it, 1 to 300 fen."""
    rng = np.random.default_rng(seed)
    pctr = np.minimum(rng.lognormal(-6.0, 1.2, n), 0.5)
    price = np.clip(np.rint(rng.lognormal(4.0, 0.6, n)), 1, 300).astype(np.int64)
    levels, counts = np.unique(np.clip(np.rint(rng.lognormal(4.0, 0.6, 50_000)), 1, 300), return_counts=True)
    prices = Prices(levels * replay.FEN_MICROS, counts / counts.sum())
    return Log(
        name="made", price_micros=price * replay.FEN_MICROS, click=(rng.random(n) < pctr).astype(np.int64), pctr=pctr,
        train_prices=prices, train_cpm_micros=float((prices.levels * prices.shares).sum()),
        train_ctr=float(pctr.mean()),
    )  # fmt: skip


class Always(Baseline):
    """Bids the same, whatever the money: the replay's own books must stop nobody and count everything."""

    def offer(self, worth: float, left_micros: int) -> float:
        return 10**9

    def bid(self, seen: Observation) -> int | None:
        return int(self.offer(seen.value_micros, 0))  # without the cap by what is left


def test_a_bid_of_at_least_the_price_wins_and_pays_it() -> None:
    log = a_log(2_000)
    found = replay.play(log, "always", Always(), 1.0)
    assert found.wins.sum() == 2_000
    assert found.clicks.sum() == log.click.sum()
    assert found.spent_micros.sum() == log.price_micros.sum() // 1000
    assert found.overspent > 0  # the books are the replay's, not the agent's


def test_a_first_price_win_pays_the_bid() -> None:
    found = replay.play(a_log(1_000), "always", Always(), 1.0, second_price=False)
    assert found.spent_micros.sum() == 1_000 * 10**6


@pytest.mark.parametrize(
    "make", [Agent, Const, Linear, PacedLinear, Ortb, Mcpc, lambda: DynamicProgramme(2 * replay.FEN_MICROS)]
)
def test_no_strategy_spends_more_than_its_budget(make) -> None:
    for fraction in (1 / 4, 1 / 32):
        found = replay.play(a_log(3_000), "x", make(), fraction, episode=500)
        assert found.overspent == 0
        assert found.wins.sum() > 0


def test_pacing_uses_the_budget_and_beats_fixed_bids_where_scores_are_right() -> None:
    log = a_log(20_000)
    ours, fixed = ([replay.play(log, "x", make(), f) for f in (1 / 4, 1 / 16)] for make in (Agent, Const))
    assert all(outcome.budget_used >= replay.ENOUGH for outcome in ours)
    difference = replay.summed(ours) - replay.summed(fixed)
    assert difference.sum() > 2 * replay.bootstrap_se(difference)


def test_the_dynamic_programme_by_hand() -> None:
    # One price of 1 unit, two auctions, one unit of money, mean probability 1: it is worth a click now or later.
    agent = DynamicProgramme(1_000)
    agent.start(Info(1, 2.0, Prices(np.array([1_000.0]), np.array([1.0])), (1.0,), True, 1.0))
    assert agent.bid(Observation(0.9)) is None  # worse than the average that is to come
    agent.feedback(Result(False))
    assert agent.bid(Observation(0.1)) == 1_000  # the last auction: money is worth nothing afterwards


def test_ortb_bids_less_than_linearly() -> None:
    log = a_log(1_000)
    agent = Ortb()
    agent.start(Info(10**9, 1_000.0, log.train_prices, (1e5,), True, 1e6))
    low, high = (agent.offer(worth, 10**9) for worth in (1e5, 4e5))
    assert low < high < 4 * low


def test_the_bootstrap_error_is_that_of_a_sum() -> None:
    clicks = np.random.default_rng(1).poisson(2.0, 400)
    assert replay.bootstrap_se(clicks) == pytest.approx(np.sqrt(400 * 2.0), rel=0.15)
    assert replay.bootstrap_se(clicks) == replay.bootstrap_se(clicks)


def test_every_strategy_is_reported_at_every_budget_with_a_verdict() -> None:
    figures = list(replay_bench.of_log(a_log(600), decides=True, episode=200))
    assert len(figures) == len(replay_bench.AGENTS) * (len(replay.FRACTIONS) + 1) + 1
    assert figures[-1].met is (figures[-1].value >= -figures[-1].se)
    clicks = int(a_log(600).click.sum())
    assert f"The log holds {clicks} clicks" in replay_bench.reading(figures[-1])
    ours = [figure for figure in figures if figure.metric.startswith("clicks, tagbid at")]
    assert all(figure.about["overspent_episodes"] == 0 for figure in ours)


def test_what_cannot_be_replayed_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoReplay, match="ipinyou_replay does not hold the stream"):
        replay.read(tmp_path, "1458_first220k", 1458)
    with pytest.raises(NoReplay, match="one episode takes 1000"):
        replay.play(a_log(999), "x", Agent(), 0.5)


def test_the_real_stream_is_read_whole(shared: Path) -> None:
    log = replay.read(shared / "data", "1458_first220k", 1458)
    assert len(log.click) == 220_000
    assert log.click.sum() == 156
    assert log.train_cpm_micros == pytest.approx(212_400_241 / 3_083_056 * 10_000)
    assert log.train_prices.shares.sum() == pytest.approx(1)


def test_on_real_auctions_the_budget_is_used_and_never_exceeded(shared: Path) -> None:
    log = replay.read(shared / "data", "1458_first220k", 1458, 20_000)
    for fraction in replay.FRACTIONS:
        found = replay.play(log, "tagbid", Agent(), fraction)
        assert found.overspent == 0
        assert found.budget_used >= replay.ENOUGH
