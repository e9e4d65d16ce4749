import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.offpolicy import BadPropensities, TooFewEffective, doubly_robust, effective_size, snips


def logged_world(seed: int, n: int = 4_000) -> tuple[np.ndarray, ...]:
    """Three choices with click rates .02, .05, .10, drawn with .6, .3, .1; the policy asked about prefers the last."""
    rng = np.random.default_rng(seed)
    rates, logging, policy = np.array([0.02, 0.05, 0.10]), np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.3, 0.6])
    choice = rng.choice(3, n, p=logging)
    reward = (rng.random(n) < rates[choice]).astype(float)
    return reward, logging[choice], policy[choice], choice, policy


TRUTH = 0.1 * 0.02 + 0.3 * 0.05 + 0.6 * 0.10  # .077


def test_the_same_policy_is_worth_what_the_log_earned() -> None:
    reward = np.array([1.0, 0.0, 0.0, 1.0] * 100)
    even = np.full(400, 0.25)
    found = snips(reward, even, even)
    assert found.value == 0.5
    assert found.effective == 400
    assert found.se == pytest.approx(math.sqrt(0.25 / 400))


def test_snips_by_hand() -> None:
    # weights 2, 1, 1 (target .5/.25, .25/.25, .25/.25); rewards 1, 0, 1: 3/4; sum w^2 (r-v)^2 = 4/16 + 9/16 + 1/16
    found = snips(np.array([1.0, 0, 1]), np.full(3, 0.25), np.array([0.5, 0.25, 0.25]), required=1)
    assert found.value == pytest.approx(0.75)
    assert found.se == pytest.approx(math.sqrt(14 / 16) / 4)
    assert found.effective == pytest.approx(16 / 6)


@pytest.mark.parametrize("estimator", ["snips", "doubly_robust"])
def test_intervals_hold_the_truth_as_often_as_they_say(estimator: str) -> None:
    held = 0
    for seed in range(200):
        reward, propensities, target, choice, policy = logged_world(seed)
        if estimator == "snips":
            found = snips(reward, propensities, target)
        else:
            model = np.array([0.03, 0.04, 0.08])  # wrong, but the propensities are right
            found = doubly_robust(reward, propensities, target, model[choice], np.full(len(reward), policy @ model))
        held += abs(found.value - TRUTH) <= 1.96 * found.se
    assert 180 <= held <= 199  # 190 expected, standard deviation 3.1


def test_doubly_robust_is_right_with_a_right_model_and_wrong_propensities() -> None:
    reward, _, target, choice, policy = logged_world(1, 40_000)
    truth = np.array([0.02, 0.05, 0.10])
    wrong = np.full(len(reward), 1 / 3)
    found = doubly_robust(reward, wrong, target, truth[choice], np.full(len(reward), policy @ truth))
    assert abs(found.value - TRUTH) < 3 * found.se
    assert abs(snips(reward, wrong, target).value - TRUTH) > 3 * found.se


def test_a_good_model_narrows_the_interval() -> None:
    rng = np.random.default_rng(5)
    x = rng.random(5_000)
    reward = x + rng.normal(0, 0.1, 5_000)
    propensities, target = np.full(5_000, 0.5), rng.choice([0.1, 0.9], 5_000)
    plain = snips(reward, propensities, target)
    helped = doubly_robust(reward, propensities, target, x, x)
    assert helped.se < 0.85 * plain.se  # what is left is how much the situations themselves differ


def test_too_little_in_common_is_refused_with_the_numbers() -> None:
    target = np.zeros(5_000)
    target[:150] = 1.0
    with pytest.raises(TooFewEffective, match="worth 150 observations, 200 are needed"):
        snips(np.zeros(5_000), np.full(5_000, 0.1), target)
    with pytest.raises(TooFewEffective):
        doubly_robust(np.zeros(5_000), np.full(5_000, 0.1), np.zeros(5_000), np.zeros(5_000), np.zeros(5_000))


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.1, math.nan])
def test_a_propensity_that_is_none_is_refused(propensity: float) -> None:
    with pytest.raises(BadPropensities):
        snips(np.zeros(2), np.array([0.5, propensity]), np.full(2, 0.5), required=0)


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(BadPropensities):
        snips(np.zeros(0), np.zeros(0), np.zeros(0))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_the_effective_size_is_between_none_and_all(w: list[float]) -> None:
    assert 0 <= effective_size(np.array(w)) <= len(w) * (1 + 1e-9)
