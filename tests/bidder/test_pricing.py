import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.pricing import bid_currency, floor_micros, price_micros, value_micros

RATES = {"USD": 1.0, "EUR": 1.25, "JPY": 0.008}


def test_a_cpm_campaign_is_worth_its_price_whatever_the_click_probability() -> None:
    assert value_micros("cpm", 2_000_000, 0.5) == 2_000_000


def test_a_cpc_campaign_is_worth_the_clicks_expected_of_a_thousand_impressions() -> None:
    assert value_micros("cpc", 500_000, 0.004) == 2_000_000  # 4 clicks at 0.50


@pytest.mark.parametrize(("worth", "rounded"), [(0.0000005, 0), (0.0000015, 2), (0.0000025, 2)])
def test_value_is_rounded_half_to_even(worth: float, rounded: int) -> None:
    assert value_micros("cpc", 1, worth * 1000) == rounded


@pytest.mark.parametrize(
    ("bidfloor", "named", "currency", "micros"),
    [
        (None, None, "USD", 0),
        (0, "EUR", "USD", 0),
        (-1.0, None, "USD", 0),
        (0.1, None, "USD", 100_000),
        (0.7, "USD", "USD", 700_000),
        (1.0, "EUR", "USD", 1_250_000),
        (1.0, None, "EUR", 800_000),
        (100, "JPY", "EUR", 640_000),
        (0.0000001, None, "USD", 1),
        (1.0, "ZZZ", "USD", None),
        (1.0, "USD", "ZZZ", None),
    ],
)
def test_a_floor_is_converted_and_rounded_up(bidfloor: float, named: str, currency: str, micros: int | None) -> None:
    assert floor_micros(bidfloor, named, currency, RATES) == micros


@pytest.mark.parametrize(
    ("cur", "currency"),
    [(None, "USD"), ([], "USD"), (["EUR", "USD"], "USD"), (["ZZZ", "EUR"], "EUR"), (["ZZZ"], None)],
)
def test_a_bid_is_made_in_dollars_or_in_a_currency_with_a_rate(cur: list[str] | None, currency: str | None) -> None:
    assert bid_currency(cur, RATES) == currency


def test_a_second_price_auction_gets_the_truth_and_a_first_price_auction_the_shaded_price() -> None:
    assert price_micros(2_000_000, 0, 2, 1_700_000, 1e12) == 2_000_000
    assert price_micros(2_000_000, 0, 1, 1_700_000, 1e12) == 1_700_000


def test_shading_stops_a_tick_above_the_floor_and_a_floor_above_the_value_is_not_bid_on() -> None:
    assert price_micros(2_000_000, 1_800_000, 1, 1_700_000, 1e12) == 1_800_001
    assert price_micros(2_000_000, 2_000_000, 1, 1_700_000, 1e12) == 2_000_000
    assert price_micros(2_000_000, 2_000_001, 1, 1_700_000, 1e12) is None


def test_a_fixed_price_deal_is_bid_at_its_price_when_it_is_worth_it() -> None:
    assert price_micros(2_000_000, 1_500_000, 3, 1.0, 1e12) == 1_500_000
    assert price_micros(1_000_000, 1_500_000, 3, 1.0, 1e12) is None


def test_nothing_is_bid_above_the_ceiling() -> None:
    assert price_micros(2_000_000, 0, 2, 1_700_000, 1_000_000) == 1_000_000
    assert price_micros(2_000_000, 1_000_001, 2, 1.0, 1_000_000) is None


def test_a_price_of_nothing_is_no_bid() -> None:
    assert price_micros(0.4, 0, 2, 1.0, 1e12) is None


@given(
    st.floats(0, 1e10), st.integers(0, 10**10), st.sampled_from([1, 2, 3]), st.floats(0, 2e10), st.floats(0, 1e10)
)  # fmt: skip
def test_a_price_is_never_below_the_floor_nor_above_worth_or_ceiling(
    worth: float, floor: int, at: int, shaded: float, ceiling: float
) -> None:
    price = price_micros(worth, floor, at, shaded, ceiling)
    if price is not None:
        assert price > 0
        assert floor <= price <= min(worth, ceiling) + 0.5
