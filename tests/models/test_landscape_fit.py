import numpy as np
import pytest

from models import landscape_fit as lf
from models.landscape_fit import ABOVE, BELOW, EXACT


def censored(m: np.ndarray, bid: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(y, kind) of ln m and ln bid: exact where told, else which side it is on."""
    kind = np.where(told, EXACT, np.where(bid >= m, BELOW, ABOVE)).astype(np.int8)
    return np.where(told, m, bid), kind


@pytest.mark.parametrize("kind", [EXACT, ABOVE, BELOW])
@pytest.mark.parametrize("z", [-5.0, -1.0, 0.0, 0.7, 4.0])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_gradients_are_those_of_the_likelihood_by_finite_differences(kind: int, z: float, spread: float) -> None:
    y, kinds = np.array([1.0]), np.array([kind], dtype=np.int8)
    mu = y - z * spread
    step = 1e-4

    def loss(shift: float) -> float:
        return float(lf.negative_log_likelihood(y, kinds, mu + shift, spread)[0])

    gradient, hessian = lf.gradients(y, kinds, mu, spread)
    assert gradient[0] == pytest.approx((loss(step) - loss(-step)) / (2 * step), rel=1e-4, abs=1e-5)
    numeric = (loss(step) - 2 * loss(0) + loss(-step)) / step**2
    assert hessian[0] == pytest.approx(max(numeric, lf.MIN_HESSIAN), rel=1e-2, abs=2e-3)


def test_gradients_stay_finite_far_out() -> None:
    y = np.array([1e6, -1e6] * 3)
    kind = np.array([EXACT, EXACT, ABOVE, ABOVE, BELOW, BELOW], dtype=np.int8)
    gradient, hessian = lf.gradients(y, kind, np.zeros(6), 0.1)
    assert np.isfinite(gradient).all()
    assert (hessian >= lf.MIN_HESSIAN).all()


@pytest.mark.parametrize("told", [0.0, 0.5, 1.0])
def test_a_log_normal_is_found_behind_censoring(told: float) -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    m, bid = rng.normal(14, 0.5, n), rng.normal(14, 0.5, n)
    y, kind = censored(m, bid, rng.random(n) < told)
    mu, spread = lf.marginal(y, kind)
    assert mu == pytest.approx(14, abs=0.02)
    assert spread == pytest.approx(0.5, rel=0.04)


def test_a_small_segment_leans_on_its_exchange_and_is_taken_to_be_less_certain() -> None:
    rng = np.random.default_rng(2)
    y = np.concatenate((rng.normal(0, 0.4, 4_000), rng.normal(0, 1.2, 20)))
    names = ["x/300x250"] * 4_000 + ["x/1x1"] * 20
    found = lf.spreads(y, np.zeros(4_020, dtype=np.int8), np.zeros(4_020), names)
    assert found["x/300x250"] == pytest.approx(0.4, rel=0.03)
    own = float(np.sqrt((y[4_000:] ** 2).mean()))
    expected = (20 * own + 50 * found["x"]) / 70
    assert found["x/1x1"] == pytest.approx(expected * (1 + 1 / np.sqrt(140)), rel=0.03)


def test_an_exchange_with_few_results_gets_no_spread() -> None:
    assert lf.spreads(np.zeros(499), np.zeros(499, dtype=np.int8), np.zeros(499), ["x/1x1"] * 499) == {}


def test_turnbull_equals_kaplan_meier_where_that_applies() -> None:
    # deaths at 1, 2, 3; one lost from sight after 1: KM gives 1/4, then 3/4 * 1/2 twice
    lower, upper = np.array([0, 1, 1, 2]), np.array([0, 2, 1, 2])
    assert lf.turnbull(lower, upper, 3) == pytest.approx([0.25, 0.375, 0.375], abs=1e-3)


def test_the_best_ratio_of_a_known_market() -> None:
    # m / v uniform on [0, 1]: (1 - r) r is largest at one half
    rng = np.random.default_rng(3)
    value = np.full(20_000, 1e6)
    m, bid = rng.random(20_000) * 1e6 + 1, rng.uniform(0.2, 1, 20_000) * 1e6
    y, kind = censored(np.log(m), np.log(bid), rng.random(20_000) < 0.5)
    assert lf.best_ratio(y, kind, value) == pytest.approx(0.5, abs=0.06)
    _, kind = censored(np.log(m), np.log(bid), np.zeros(20_000, dtype=bool))
    assert lf.best_ratio(np.log(bid), kind, value) == pytest.approx(0.5, abs=0.1)


def test_ratios_by_value_and_only_where_there_is_evidence() -> None:
    rng = np.random.default_rng(4)
    value = np.concatenate((np.full(500, 1e6), np.full(500, 4e6)))
    y = np.log(rng.uniform(0.4e6, 0.6e6, 1_000))  # the price does not follow our value
    found = lf.ratios(y, np.zeros(1_000, dtype=np.int8), value, ["x/300x250"] * 950 + ["x/1x1"] * 50)
    assert set(found) == {"x", "x/300x250"}
    bounds, shares = found["x"]
    assert len(shares) == len(bounds) + 1
    assert shares[0] > 2 * shares[-1]
