import numpy as np
import pytest

from loadtest.uplift import Uplift, per_spend, uplift


def arms(rng, n, rate_a, rate_b, users=None):
    users = np.arange(n) if users is None else users
    draw = rng.random(n)
    spend = rng.integers(1_000, 9_000, n)
    return (draw < rate_a).astype(int), spend, (draw < rate_b).astype(int), spend, users


def test_twice_the_clicks_for_the_same_money_is_an_uplift_of_one():
    one, money = np.array([1, 1, 0, 0]), np.array([10, 10, 10, 10])
    half = np.array([1, 0, 0, 0])
    assert uplift(one, money, half, money, np.arange(4)).value == pytest.approx(1.0)


def test_the_same_arm_twice_has_no_uplift():
    one, money = np.array([1, 0, 1]), np.array([5, 6, 7])
    assert uplift(one, money, one, money, np.arange(3)).value == 0.0


def test_the_standard_error_of_one_click_in_each_arm_is_worked_out_by_hand():
    # log ratio of arm a: users (1 - 1/2, 0 - 1/2); of arm b: (0 - 1/2, 1 - 1/2); four squares of 1/2, ratio 1.
    money = np.array([10, 10])
    found = uplift(np.array([1, 0]), money, np.array([0, 1]), money, np.arange(2))
    assert found == Uplift(0.0, 1.0)


@pytest.mark.parametrize("hole", range(4))
def test_an_arm_without_clicks_or_spend_has_no_ratio(hole):
    parts = [np.array([1, 1]) for _ in range(4)]
    parts[hole] = np.array([0, 0])
    assert uplift(*parts, np.arange(2)) is None


def test_the_standard_error_is_the_spread_of_repeated_experiments():
    rng = np.random.default_rng(1)
    results = []
    for _ in range(300):
        a_clicks, a_spend, _, _, users = arms(rng, 4_000, 0.03, 0)
        _, _, b_clicks, b_spend, _ = arms(rng, 4_000, 0, 0.02)
        results.append(uplift(a_clicks, a_spend, b_clicks, b_spend, users))
    values = np.array([result.value for result in results])
    stated = np.mean([result.standard_error for result in results])
    assert stated == pytest.approx(values.std(), rel=0.15)
    assert values.mean() == pytest.approx(0.5, abs=0.05)


def test_repeating_every_user_does_not_make_the_result_look_surer():
    rng = np.random.default_rng(2)
    once = arms(rng, 2_000, 0.05, 0.04)
    twice = [np.repeat(part, 2) for part in once]
    assert uplift(*twice).standard_error == pytest.approx(uplift(*once).standard_error)


def test_no_difference_stays_within_two_standard_errors_about_19_times_in_20():
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        n = 2_000
        money = rng.integers(1_000, 9_000, n)
        a, b = ((rng.random(n) < 0.05).astype(int) for _ in range(2))
        inside += abs(uplift(a, money, b, money, np.arange(n)).errors) <= 2
    assert 0.92 < inside / 400 < 0.98


def test_nothing_spent_has_no_clicks_per_dollar():
    assert per_spend(0, 0) is None
    assert per_spend(3, 1_500_000) == 2.0
