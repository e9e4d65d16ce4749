from pathlib import Path

import numpy as np
import pytest

from models import shading_bench
from models.figures import Options, jackknife
from models.shading_bench import of_market, planted


@pytest.mark.parametrize("told", [True, False])
def test_the_landscape_earns_nearly_what_whoever_knows_the_law_does(told: bool) -> None:
    share, better = of_market(planted(12_000, seed=3), told=told)
    assert share.value > 0.9 * share.about["share_of_whoever_knows_the_law"]
    assert share.value < share.about["share_of_whoever_knows_the_law"] + 3 * share.se
    assert better.met


def test_worlds_differ_and_the_error_says_by_how_much() -> None:
    found = [list(of_market(planted(3_000, seed=seed), told=True)) for seed in (1, 2, 3)]
    share, better = shading_bench.over_worlds(found)
    values = [figures[0].value for figures in found]
    assert share.value == pytest.approx(np.mean(values))
    assert share.se == pytest.approx(np.std(values, ddof=1) / 3**0.5)
    assert share.about["worlds"] == values
    assert better.met is (better.value > 2 * better.se)


def test_a_market_that_cannot_be_read_shows_no_gain() -> None:
    market = planted(6_000, seed=4)
    noise = shading_bench.Market(
        "noise", market.contexts, np.random.default_rng(5).permutation(market.m), market.value, np.empty(0), np.empty(0)
    )
    _, better = of_market(noise, told=True)
    # The constant share still ignores how value and price compare; knowing that much is worth something, not all.
    _, known = of_market(market, told=True)
    assert better.value < 0.7 * known.value


def test_the_jackknife_error_of_a_ratio_is_that_of_repeated_draws() -> None:
    def draw(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        below = rng.exponential(1, 5_000)
        return np.column_stack((below * rng.uniform(0, 1, 5_000), below))

    found = [jackknife(draw(seed), lambda sums: sums[0] / sums[1]) for seed in range(200)]
    assert np.mean([se for _, se in found]) == pytest.approx(np.std([value for value, _ in found]), rel=0.15)


def test_logged_prices_are_those_of_the_log(shared: Path) -> None:
    market = shading_bench.logged(Options(shared / "data", rows=500), "DLF")
    assert len(market.m) == len(market.contexts) == len(market.value) == 500
    assert market.contexts[0].country == "CHN"
    assert 10_000 * 1 <= np.median(market.m) <= 10_000 * 300
