import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.auction import BELOW_FLOOR, LOST_TO_HIGHER_BID, WON, Outcome, dollars, fill, images, links, settle

MICROS = st.integers(0, 10**9)


@pytest.mark.parametrize(
    ("bid", "floor", "rival", "second", "outcome"),
    [
        (5_000_000, 1_000_000, 3_000_000, True, Outcome(WON, 3_000_000, 3_000_000)),
        (5_000_000, 1_000_000, 3_000_000, False, Outcome(WON, 5_000_000, 3_000_000)),
        (5_000_000, 4_000_000, 3_000_000, True, Outcome(WON, 4_000_000, 4_000_000)),
        (2_000_000, 1_000_000, 3_000_000, True, Outcome(LOST_TO_HIGHER_BID, 0, 3_000_000)),
        (2_000_000, 2_500_000, 1_000_000, False, Outcome(BELOW_FLOOR, 0, 2_500_000)),
        (3_000_000, 1_000_000, 3_000_000, True, Outcome(WON, 3_000_000, 3_000_000)),
    ],
)
def test_second_price_pays_the_best_other_bid_or_the_floor_and_first_price_pays_the_bid(
    bid, floor, rival, second, outcome
):
    assert settle(bid, floor, rival, second_price=second) == outcome


@given(MICROS, MICROS, MICROS, st.booleans())
def test_a_winner_pays_at_least_the_floor_and_never_more_than_its_bid(bid, floor, rival, second):
    outcome = settle(bid, floor, rival, second_price=second)
    if outcome.loss == WON:
        assert max(floor, rival) <= outcome.price_micros <= bid
        assert outcome.min_to_win_micros <= bid
    else:
        assert outcome.price_micros == 0
        assert outcome.min_to_win_micros > bid


@given(MICROS)
def test_a_price_macro_carries_the_exact_price(micros):
    whole, _, fraction = dollars(micros).partition(".")
    assert int(whole) * 1_000_000 + int(fraction.ljust(6, "0") or 0) == micros


def test_macros_are_replaced_anywhere_and_unknown_ones_become_empty():
    text = "http://b.example/win?t=abc&i=${AUCTION_IMP_ID}&m=${AUCTION_MBR}&p=${AUCTION_PRICE}"
    filled = fill(text, {"AUCTION_PRICE": "2.5", "AUCTION_IMP_ID": "1"})
    assert filled == "http://b.example/win?t=abc&i=1&m=&p=2.5"


def test_only_auction_macros_are_the_exchanges_to_fill():
    assert fill("${CLICK_URL}-$AUCTION_PRICE", {"AUCTION_PRICE": "1"}) == "${CLICK_URL}-$AUCTION_PRICE"


def test_the_browser_finds_images_and_links_in_any_quoting():
    markup = (
        "<div><a target=_blank href='https://b.example/click?t=1&amp;x=2'>"
        '<IMG width="300" SRC="https://cdn.example/a.png"></a>'
        "<img src='https://b.example/imp?t=1' width=1 height=1></div>"
    )
    assert images(markup) == ["https://cdn.example/a.png", "https://b.example/imp?t=1"]
    assert links(markup) == ["https://b.example/click?t=1&x=2"]
