import json
import re

import numpy as np
import pytest

from loadtest import world
from loadtest.exchange import Answer, Bid, calls, judge, open_books, play
from loadtest.world import WorldConfig

EARTH = world.build(WorldConfig(seed=5, users=300, sites=40))
REQUESTS = world.draw_requests(EARTH, 400, "test")
CAMPAIGNS = {"travel": 0, "food": 4}
URL = "http://127.0.0.1:1"


class Notebook:
    """Takes the place of the network, which has tests of its own: keeps the trips."""

    def __init__(self):
        self.trips = []

    def deliver(self, trips):
        self.trips += trips
        return self

    def result(self, timeout):
        return None


def a_bid(body, dollars, campaign="travel"):
    request = json.loads(body)
    size = request["imp"][0]["banner"]["format"][0]
    bid = {
        "id": "b-" + request["id"],
        "impid": "1",
        "price": dollars,
        "cid": campaign,
        "crid": "c1",
        "adomain": ["shop.example"],
        "nurl": f"{URL}/win?t=x&p=${{AUCTION_PRICE}}",
        "burl": f"{URL}/bill?t=x&p=${{AUCTION_PRICE}}",
        "adm": f'<a href="{URL}/click?t=x"><img src="https://cdn.example/a.png"></a><img src="{URL}/imp?t=x">',
        "w": size["w"],
        "h": size["h"],
    }
    return json.dumps({"id": request["id"], "seatbid": [{"seat": "s", "bid": [bid]}], "cur": "USD"}).encode()


def constant(dollars, latency_us=1_000):
    return lambda bodies: [Answer(200, a_bid(body, dollars), latency_us) for body in bodies]


def test_a_bid_wins_iff_it_reaches_the_rival_and_the_floor():
    books = play(EARTH, REQUESTS, CAMPAIGNS, constant(3.0), Notebook(), batch=64)
    should_win = np.maximum(REQUESTS.rival_micros, REQUESTS.floor_micros) <= 3_000_000
    assert np.array_equal(books.campaign >= 0, should_win)
    paid = np.where(REQUESTS.second, np.maximum(REQUESTS.rival_micros, REQUESTS.floor_micros), 3_000_000)
    # a bid below the floor is refused before the auction, so its price stays out of the books
    assert np.array_equal(books.price_micros, np.where(should_win, paid, 0))


def test_the_books_add_up():
    books = play(EARTH, REQUESTS, CAMPAIGNS, constant(100.0), Notebook())
    assert books.won == 400
    assert books.spend_micros == sum(round(price / 1000) for price in books.price_micros.tolist())
    assert books.clicks == sum(world.clicks(EARTH, REQUESTS, i, "travel", 0) for i in range(400))


def test_every_win_is_told_in_order_with_the_price_filled_in():
    notebook = Notebook()
    books = play(EARTH, REQUESTS, CAMPAIGNS, constant(100.0), notebook)
    assert len(notebook.trips) == books.won
    for trip, price, click in zip(notebook.trips, books.price_micros, books.click, strict=True):
        assert [call.kind for call in trip] == ["win", "billing", "impression"] + ["click"] * int(click)
        told = re.search(r"p=([0-9.]+)$", trip[0].url)
        assert round(float(told.group(1)) * 1e6) == price


def test_the_same_requests_click_the_same_for_two_bidders_that_show_the_same_ads():
    cheap = play(EARTH, REQUESTS, CAMPAIGNS, constant(2.0), Notebook())
    rich = play(EARTH, REQUESTS, CAMPAIGNS, constant(50.0), Notebook())
    both = (cheap.campaign >= 0) & (rich.campaign >= 0)
    assert np.array_equal(cheap.click[both], rich.click[both])


def test_a_late_bid_takes_no_part():
    books = play(EARTH, REQUESTS, CAMPAIGNS, constant(100.0, latency_us=1000 * EARTH.config.tmax_ms + 1), Notebook())
    assert (books.won, books.late, books.prompt.sum()) == (0, 400, 0)


def test_an_answer_near_the_limit_counts_but_is_not_prompt():
    books = play(EARTH, REQUESTS, CAMPAIGNS, constant(100.0, latency_us=900 * EARTH.config.tmax_ms), Notebook())
    assert (books.won, books.late, books.prompt.sum()) == (400, 0, 0)


@pytest.mark.parametrize(
    ("answer", "rejected"),
    [(Answer(500, b"", 1), "status 500"), (Answer(0, b"", 1), "status 0"), (Answer(200, b"{", 1), "body is not JSON")],
)
def test_what_no_exchange_accepts_is_counted_and_pays_nothing(answer, rejected):
    books = play(EARTH, REQUESTS, CAMPAIGNS, lambda bodies: [answer] * len(bodies), Notebook())
    assert books.won == 0
    assert books.rejected == {rejected: 400}


def test_no_bid_is_no_fault():
    books = open_books(1, ["travel"])
    assert judge(EARTH, REQUESTS, 0, b"{}", Answer(204, b"", 1), CAMPAIGNS, books) == ()
    assert not books.rejected


def test_the_seat_lottery_offers_each_request_to_one_seat_and_all_seats_get_requests():
    offered = []

    def send(bodies):
        offered.extend(json.loads(body)["wseat"] for body in bodies)
        return [Answer(204, b"", 1)] * len(bodies)

    play(EARTH, REQUESTS, CAMPAIGNS, send, Notebook(), seats=["a", "b", "c"])
    counts = {seat: offered.count([seat]) for seat in "abc"}
    assert sum(counts.values()) == 400
    assert min(counts.values()) > 90


def test_only_the_bidders_own_images_are_loaded_and_one_link_is_clicked():
    bid = Bid(
        "b",
        "1",
        1.0,
        burl=f"{URL}/bill?t=1",
        adm=f'<a href="{URL}/click?a=1"></a><a href="{URL}/click?a=2"></a><img src="http://cdn.example/x.png">'
        f'<img src="{URL}/imp?t=1&amp;p=${{AUCTION_PRICE}}">',
    )
    trip = calls(bid, {"AUCTION_PRICE": "2.5"}, clicked=True)
    assert [(call.kind, call.url) for call in trip] == [
        ("billing", f"{URL}/bill?t=1"),
        ("impression", f"{URL}/imp?t=1&p=2.5"),
        ("click", f"{URL}/click?a=1"),
    ]
