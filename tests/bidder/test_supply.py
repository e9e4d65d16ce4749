import numpy as np
import pytest

from bidder import supply
from bidder.supply import Prices, Worths

PRICES = Prices(np.array([100.0, 200.0, 400.0]), np.array([0.5, 0.25, 0.25]))


def test_expected_cost_by_hand() -> None:
    bids = np.array([99.0, 100.0, 250.0, 400.0])
    assert PRICES.expected(bids, second_price=True).tolist() == [0.0, 50.0, 100.0, 200.0]
    assert PRICES.expected(bids, second_price=False).tolist() == [0.0, 50.0, 187.5, 400.0]


def test_the_curve_is_inverted() -> None:
    rng = np.random.default_rng(1)
    values = rng.lognormal(5, 1, 500)
    prices = Prices(np.arange(1.0, 501.0), np.full(500, 1 / 500))
    found = supply.curve(values, prices, second_price=True, most=100.0)
    for cost in (1.0, 20.0, 200.0):
        k = found.k(cost)
        assert prices.expected(k * values, second_price=True).mean() == pytest.approx(cost, rel=0.05)
        assert found.cost(k) == pytest.approx(cost)


def test_money_beyond_what_can_be_spent_gives_the_largest_multiplier_that_matters() -> None:
    found = supply.curve(np.array([100.0]), PRICES, second_price=True, most=50.0)
    assert found.k(1e9) * 100 >= 400  # wins everything
    assert supply.curve(np.array([100.0]), PRICES, second_price=True, most=1.0).k(1e9) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [np.array([]), np.array([0.0]), np.array([1e-9])])
def test_worthless_supply_costs_nothing(values: np.ndarray) -> None:
    assert supply.curve(values, PRICES, second_price=True, most=1.0).cost(0.5) <= 1e-9


def test_the_sample_keeps_the_shape_of_what_was_seen() -> None:
    worths = Worths((7.0,))
    assert worths.sample().tolist() == [7.0]
    renewals = [i for i in range(1, 5_001) if worths.add(float(i))]
    assert renewals[:4] == [16, 32, 64, 128]
    assert max(np.diff(renewals)) <= supply.REFRESH
    sample = worths.sample()
    assert len(sample) == supply.SAMPLE
    assert (sample[0], sample[-1]) == (1_001.0, 5_000.0)  # the latest 4,000
