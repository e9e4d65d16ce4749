import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import pacing
from bidder.pacing import FULL, K_MAX, K_MIN, STOPPED, Pace

DAY_S = 86_400


def test_an_even_plan_spends_alike_and_follows_supply_for_four_fifths() -> None:
    supply = [0.0] * 144 + [2.0] * 144  # nothing before noon
    shares = pacing.plan("even", supply)
    assert shares[0] == pytest.approx(0.2 / 288)
    assert shares[200] == pytest.approx(0.2 / 288 + 0.8 / 144)
    assert math.fsum(shares) == pytest.approx(1)


def test_a_front_loaded_plan_spends_twice_as_fast_at_the_start_as_at_the_end() -> None:
    shares = pacing.plan("front")
    assert shares[0] / shares[-1] == pytest.approx(2)


def test_as_soon_as_possible_asks_for_all_money_at_once() -> None:
    assert pacing.target_spend(pacing.plan("asap"), 0, 10, 500.0) == pytest.approx(500 * 10 / 300)
    assert pacing.target_spend(pacing.plan("asap"), 600, 610, 500.0) == 500


def test_what_was_missed_is_asked_for_over_the_rest_of_the_day() -> None:
    shares = pacing.plan("even")
    half = DAY_S / 2
    assert pacing.target_spend(shares, half, half + 10, 1_000.0) == pytest.approx(1_000 * 10 / half)
    assert pacing.target_spend(shares, half, half + 10, 500.0) == pytest.approx(500 * 10 / half)


def test_supply_is_learnt_with_the_half_life_of_two_weeks() -> None:
    weight = 1 - 2**-0.5  # one week
    supply: tuple[float, ...] = (1.0,)
    for _ in range(2):
        supply = pacing.learnt(supply, [0.0], weight)
    assert supply[0] == pytest.approx(0.5)
    assert pacing.learnt((), [3.0], weight) == (3.0,)


@given(st.floats(0, DAY_S), st.floats(0, DAY_S), st.floats(0, DAY_S))
def test_plans_add_up_over_any_cut(a: float, b: float, c: float) -> None:
    start, middle, end = sorted((a, b, c))
    shares = pacing.plan("front", [1.0 + i % 7 for i in range(288)])
    whole = pacing.planned(shares, start, end)
    assert whole == pytest.approx(
        pacing.planned(shares, start, middle) + pacing.planned(shares, middle, end), abs=1e-12
    )


def test_one_step_by_hand() -> None:
    # (100 + 5) / (50 + 5) = 1.909; .3 ln = .194, clipped at .15
    assert pacing.budget_step(0.5, 100, 50, 5) == pytest.approx(0.5 * math.exp(0.15))
    # (100 + 5) / (120 + 5) = .84; .3 ln = -.0523
    assert pacing.budget_step(0.5, 100, 120, 5) == pytest.approx(0.5 * math.exp(0.3 * math.log(105 / 125)))


@given(st.floats(K_MIN, K_MAX), st.floats(0, 1e12), st.floats(0, 1e12), st.floats(0, 1e9))
def test_a_step_moves_the_right_way_by_no_more_than_its_bound(
    k: float, target: float, spent: float, slack: float
) -> None:
    after = pacing.budget_step(k, target, spent, slack)
    assert K_MIN <= after <= K_MAX
    assert abs(math.log(after / k)) <= pacing.MOST + 1e-12
    if spent > target:
        assert after <= k
    if spent < target:
        assert after >= k


def test_nothing_winds_up_at_the_cap() -> None:
    k = K_MAX
    for _ in range(1_000):
        k = pacing.budget_step(k, 100, 0, 5)
    assert pacing.budget_step(k, 100, 200, 5) < K_MAX  # the first overspend is answered at once


def test_the_step_finds_the_multiplier_that_spends_the_plan() -> None:
    rng = np.random.default_rng(3)
    k = 1.0
    for _ in range(200):  # spend grows with k squared: k = .5 spends a quarter
        k = pacing.budget_step(k, 25.0, 100 * k**2 * rng.uniform(0.9, 1.1), 1.25)
    assert k == pytest.approx(0.5, rel=0.1)


def test_the_smaller_of_two_multipliers_meets_both_aims() -> None:
    k_budget = k_target = 1.0
    for _ in range(500):  # a unit of spend buys 1 - k/2 conversions: cheap ones first
        k = min(k_budget, k_target)
        spent = 100 * k
        conversions = spent * (1 - k / 2)
        k_budget = pacing.budget_step(k_budget, 80.0, spent, 4.0)
        k_target = pacing.target_step(k_target, 1.25, spent, conversions)
    # cost per conversion 1 / (1 - k/2) = 1.25 at k = .4; the budget alone would allow .8
    assert min(k_budget, k_target) == pytest.approx(0.4, rel=0.1)


def test_a_cost_target_waits_for_evidence() -> None:
    assert pacing.target_step(0.5, 10.0, 29.0, 0.0) == 0.5
    assert pacing.target_step(0.5, 10.0, 31.0, 0.0) < 0.5
    assert pacing.target_step(0.5, 10.0, 31.0, 6.0) > 0.5


def test_with_slack_for_single_wins_a_lone_win_and_the_silence_around_it_cancel() -> None:
    k, win, target = 0.5, 100.0, 10.0  # a win every ten intervals is what is planned
    slack = pacing.slack(target, win)
    after = pacing.budget_step(k, target, win, slack)
    for _ in range(9):
        after = pacing.budget_step(after, target, 0.0, slack)
    assert after == pytest.approx(k, rel=0.02)
    bare = pacing.budget_step(k, target, win, pacing.slack(target, 0.0))
    for _ in range(9):
        bare = pacing.budget_step(bare, target, 0.0, pacing.slack(target, 0.0))
    assert bare > 1.9 * k


@pytest.mark.parametrize(("age_s", "keep"), [(0, 1.0), (60, 1.0), (120, 0.95), (180, 0.95**2), (600, 0.95**9)])
def test_a_stale_pace_loses_a_twentieth_a_minute(age_s: float, keep: float) -> None:
    assert pacing.faded(Pace(0.8, 0.6), age_s).k == pytest.approx(0.8 * keep)
    assert pacing.faded(Pace(0.8, 0.6), age_s).share == pytest.approx(0.6 * keep)


def test_after_ten_minutes_without_news_nothing_is_bid() -> None:
    assert pacing.faded(FULL, 600.1) == STOPPED


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_older_never_bids_more(a: float, b: float) -> None:
    young, old = sorted((a, b))
    assert pacing.faded(FULL, old).k <= pacing.faded(FULL, young).k


def test_a_solve_meets_the_cost_and_stops_at_the_cap() -> None:
    assert pacing.solve(lambda k: 100 * k**2, 1.0) == pytest.approx(0.1, rel=1e-5)
    assert pacing.solve(lambda k: 100 * k**2, 1e9) == K_MAX
    assert pacing.solve(lambda k: 100.0, 1.0) == pytest.approx(K_MIN, rel=1e-5)
