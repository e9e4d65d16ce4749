"""The exchange of the simulated world: offers impressions, runs the auctions, tells the bidder what happened.

Requests go out through the driver in batches; while one batch is answered, the notices of the batch before are on
their way, so that budgets and contact counters follow as they would. A bid that comes after `tmax`, or that an
exchange would reject, takes no part. The exchange keeps its own books; nothing in them comes from the bidder.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest import auction, referee, world
from loadtest.auction import WON
from loadtest.courier import Call, Courier, Trip
from loadtest.world import Requests, World

CALL_TIMEOUT_S = 60.0
PROMPT = 0.8


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came back for one request. status 0: nothing; latency_us from the moment it should have been sent."""

    status: int
    body: bytes
    latency_us: int


class Bid(msgspec.Struct, frozen=True):
    """The fields of a bid an exchange works with (OpenRTB 2.6, 4.2.3); price is CPM in dollars."""

    id: str
    impid: str
    price: float
    cid: str = ""
    crid: str = ""
    adm: str = ""
    nurl: str = ""
    burl: str = ""


class _Seat(msgspec.Struct, frozen=True):
    bid: list[Bid]
    seat: str = ""


class _Response(msgspec.Struct, frozen=True):
    id: str
    seatbid: list[_Seat] = []


_RESPONSE = msgspec.json.Decoder(_Response)
_JSON = msgspec.json.Decoder()


class Books(msgspec.Struct):
    """What one run of n requests came to; every array is (n,), in the order of the requests.

    price_micros: CPM paid, 0 where nothing was won. bid_micros: CPM bid, 0 for none. campaign: index into
    `campaigns`, -1 where nothing was won. prompt: 1 where the answer came well within `tmax` (`PROMPT` of it), so that
    neither side can have dropped it for its time. rejected: why bids were refused. late: answers after `tmax`.
    """

    campaigns: tuple[str, ...]
    bid_micros: npt.NDArray[np.int64]
    price_micros: npt.NDArray[np.int64]
    campaign: npt.NDArray[np.int64]
    click: npt.NDArray[np.int64]
    prompt: npt.NDArray[np.int64]
    rejected: Counter[str]
    losses: Counter[int]
    late: int = 0

    @property
    def won(self) -> int:
        return int((self.campaign >= 0).sum())

    @property
    def clicks(self) -> int:
        return int(self.click.sum())

    @property
    def cost_micros(self) -> npt.NDArray[np.int64]:
        """(n,) what each impression cost: a thousandth of its CPM, to the nearest micro."""
        return (self.price_micros + 500) // 1000

    @property
    def spend_micros(self) -> int:
        return int(self.cost_micros.sum())


def open_books(n: int, campaigns: Sequence[str]) -> Books:
    def zeros() -> npt.NDArray[np.int64]:
        return np.zeros(n, dtype=np.int64)

    return Books(tuple(campaigns), zeros(), zeros(), zeros() - 1, zeros(), zeros(), Counter(), Counter())


def play(
    earth: World,
    requests: Requests,
    campaigns: Mapping[str, int | None],
    send: Callable[[list[bytes]], Sequence[Answer]],
    courier: Courier,
    batch: int = 1_000,
    seats: Sequence[str] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Books:
    """Run all requests; returns when every notice has been answered.

    campaigns: {campaign id: vertical its ads are for}, the part of the truth the exchange's audience needs.
    seats: when given, each request is offered to one of them, drawn by lot: a randomised experiment in which every
    campaign meets every kind of user. progress: called with the number of requests just finished.
    """
    n = len(requests.user)
    books = open_books(n, list(campaigns))
    delivered: Future[None] | None = None
    for start in range(0, n, batch):
        span = range(start, min(start + batch, n))
        bodies = [world.request_body(earth, requests, i, _seat(earth, requests, i, seats)) for i in span]
        answers = send(bodies)
        trips = [
            trip
            for i, body, answer in zip(span, bodies, answers, strict=True)
            if (trip := judge(earth, requests, i, body, answer, campaigns, books))
        ]
        if delivered is not None:
            delivered.result(CALL_TIMEOUT_S)
        delivered = courier.deliver(trips)
        progress(len(span))
    if delivered is not None:
        delivered.result(CALL_TIMEOUT_S)
    return books


def judge(
    earth: World,
    requests: Requests,
    i: int,
    body: bytes,
    answer: Answer,
    campaigns: Mapping[str, int | None],
    books: Books,
) -> Trip:
    """Settle request i, enter it in the books; returns the calls that follow from it (none unless won)."""
    books.prompt[i] = 0 <= answer.latency_us <= PROMPT * earth.config.tmax_ms * 1000
    if answer.status == 204:
        return ()
    if answer.latency_us > earth.config.tmax_ms * 1000:
        books.late += 1
        return ()
    if faults := referee.violations(_JSON.decode(body), answer.status, answer.body):
        books.rejected.update(faults)
        return ()
    found = _RESPONSE.decode(answer.body).seatbid
    if not found:
        return ()
    seat, bid = found[0].seat, found[0].bid[0]
    bid_micros = round(bid.price * 1e6)
    floor, rival = int(requests.floor_micros[i]), int(requests.rival_micros[i])
    outcome = auction.settle(bid_micros, floor, rival, bool(requests.second[i]))
    books.bid_micros[i] = bid_micros
    books.losses[outcome.loss] += 1
    if outcome.loss != WON:
        return ()
    clicked = world.clicks(earth, requests, i, bid.cid, campaigns.get(bid.cid))
    books.price_micros[i] = outcome.price_micros
    books.campaign[i] = books.campaigns.index(bid.cid)
    books.click[i] = clicked
    macros = {
        "AUCTION_ID": world.request_id(requests, i),
        "AUCTION_BID_ID": bid.id,
        "AUCTION_IMP_ID": bid.impid,
        "AUCTION_SEAT_ID": seat,
        "AUCTION_AD_ID": bid.crid,
        "AUCTION_PRICE": auction.dollars(outcome.price_micros),
        "AUCTION_CURRENCY": "USD",
        "AUCTION_MIN_TO_WIN": auction.dollars(outcome.min_to_win_micros),
    }
    return calls(bid, macros, clicked)


def calls(bid: Bid, macros: Mapping[str, str], clicked: bool) -> Trip:
    """Notices of a won bid in the order they happen: win, billing, the rendered ad's images, the click.

    Images from elsewhere than the bidder (the creative itself) are not fetched.
    """
    markup = auction.fill(bid.adm, macros)
    origin = bid.burl.split("/", 3)[:3] or bid.nurl.split("/", 3)[:3]
    trip = [Call(kind, auction.fill(url, macros)) for kind, url in (("win", bid.nurl), ("billing", bid.burl)) if url]
    trip += [Call("impression", url) for url in auction.images(markup) if url.split("/", 3)[:3] == origin]
    if clicked:
        trip += [Call("click", url) for url in auction.links(markup)[:1]]
    return tuple(trip)


def _seat(earth: World, requests: Requests, i: int, seats: Sequence[str]) -> str:
    if not seats:
        return ""
    draw = world.uniform(earth.config.seed, world.request_id(requests, i), "seat")
    return seats[int(draw * len(seats))]
