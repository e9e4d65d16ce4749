"""A market with known fakes, to measure `dmp.brushing`: honest orders that look odd, and five kinds of fraud.

Honest oddities: parcel lockers and carrier networks that many share, sales that bring a seller a rush of buyers and
lower prices, subscriptions at even gaps, keen buyers of one shop. Fraud: *farm* (accounts at few addresses buy from one
seller), *burst* (fresh accounts rush to a seller within an hour), *ring* (buyers and sellers that trade among
themselves, look around first and also buy elsewhere), *price* (items bought at a price far off), *script* (an account
that orders different things at even gaps).
"""

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from dmp import brushing
from dmp.brushing import DAY_US, HOUR_US
from dmp.engine import DuckEngine

KINDS = ("farm", "burst", "ring", "price", "script")
DAYS = 60
RINGS = 100  # at most
CALLED = 0.5  # weight up to which an order counts as called fake
START_US = 20_000 * DAY_US
EVENT_TYPES: dict[str, pa.DataType] = {
    "kind": pa.string(),
    "uid": pa.binary(16),
    "time_us": pa.int64(),
    "source": pa.string(),
    "event_id": pa.string(),
    "seller": pa.string(),
    "item": pa.string(),
    "value_micros": pa.int64(),
    "address": pa.string(),
    "ip": pa.string(),
}
"""Columns of `cleaned` that are judged."""


class Found(msgspec.Struct, frozen=True):
    """How well fakes were found.

    recall: {kind: share of its orders called fake}. false_positive_rate: share of honest orders called fake.
    honest_weight, fake_weight: what is left of each in all. codes: {code: (fakes, honest orders) it speaks of}.
    """

    orders: int
    fakes: int
    recall: dict[str, float]
    recall_all: float
    false_positive_rate: float
    honest_weight: float
    fake_weight: float
    codes: dict[str, tuple[int, int]]


class _Market:
    """Rows of events as they are made; every order remembers what it is."""

    def __init__(self, orders: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.orders = orders
        self.buyers = orders // 6
        self.sellers = max(20, orders // 300)
        self.items = 5 * self.sellers
        self.price = np.exp(self.rng.normal(3, 1, self.items + 50 * RINGS)) * 1e6
        self.popular = 1 / np.arange(1, self.sellers + 1)
        self.popular /= self.popular.sum()
        self.rows: list[dict[str, Any]] = []
        self.truth: dict[str, str] = {}
        self.known: set[int] = set()

    def look(self, buyer: int, at_us: int, times: int) -> None:
        for _ in range(times):
            self._add("view", buyer, at_us - int(self.rng.integers(60_000_000, 3 * DAY_US)))

    def buy(
        self, buyer: int, seller: int, at_us: int, truth: str = "", looks: int | None = None, item: int | None = None,
        address: str | None = None, ip: str | None = None, price: float = 1.0,
    ) -> None:  # fmt: skip
        rng = self.rng
        if truth == "" and buyer not in self.known:  # most honest buyers came by before they first bought
            self.known.add(buyer)
            self._add("view", buyer, at_us - int(rng.integers(0, 20 * DAY_US)))
        self.look(buyer, at_us, int(rng.integers(1, 7)) if looks is None else looks)
        what = 5 * seller + int(rng.integers(5)) if item is None else item
        value = self.price[what] * np.exp(rng.normal(0, 0.08)) * price
        locker, mobile = rng.random() < 0.05, rng.random() < 0.3
        where = f"locker{rng.integers(max(3, self.orders // 1000))}" if locker else f"home{buyer}"
        network = f"carrier{rng.integers(max(3, self.orders // 2000))}" if mobile else f"net{buyer}"
        event = self._add(
            "purchase", buyer, at_us, seller=f"s{seller}", item=f"i{what}", value_micros=int(value),
            address=where if address is None else address, ip=network if ip is None else ip,
        )  # fmt: skip
        self.truth[event] = truth

    def _add(self, kind: str, buyer: int, at_us: int, **fields: object) -> str:
        event = f"e{len(self.rows)}"
        row = {"kind": kind, "uid": buyer.to_bytes(16, "big"), "time_us": at_us, "source": "t", "event_id": event}
        self.rows.append(row | fields)
        return event

    def moment(self) -> int:
        return int(START_US + self.rng.integers(0, DAYS * DAY_US))


def market(orders: int, seed: int = 1, share: float = 0.01) -> tuple[pa.Table, dict[str, str]]:
    """(clean events, {event_id of an order: kind of fraud, "" for honest}).

    orders: honest ones, about. share: of each kind of fraud, against the honest orders.
    """
    m = _Market(orders, seed)
    _honest(m)
    each = min(200 * RINGS, max(200, int(share * orders)))
    for kind in (_farm, _burst, _ring, _price, _script):
        kind(m, each)
    rows = [{name: row.get(name) for name in EVENT_TYPES} for row in m.rows]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(EVENT_TYPES.items()))), m.truth


def _honest(m: _Market) -> None:
    rng = m.rng
    for _ in range(int(0.9 * m.orders)):
        forgetful = rng.random() < 0.05  # came from an advertisement, or looked on another device
        looks = 0 if forgetful else None
        m.buy(int(rng.integers(m.buyers)), int(rng.choice(m.sellers, p=m.popular)), m.moment(), looks=looks)
    for seller in range(3):  # sales
        start = m.moment()
        for _ in range(max(30, m.orders // 300)):
            m.buy(int(rng.integers(m.buyers)), seller, start + int(rng.integers(HOUR_US)), price=0.7)
    for buyer in range(m.buyers, m.buyers + m.orders // 500):  # subscriptions
        item = int(rng.integers(m.items))
        for week in range(8):
            m.buy(buyer, item // 5, START_US + week * 7 * DAY_US + int(rng.integers(60_000_000)), item=item)
    for buyer in range(2 * m.buyers, 2 * m.buyers + m.orders // 1000):  # keen on one shop
        seller = int(rng.choice(m.sellers, p=m.popular))
        for _ in range(15):
            m.buy(buyer, seller, m.moment())


def _farm(m: _Market, orders: int) -> None:
    for n in range(orders):
        house = n // 24
        m.buy(3 * m.buyers + n // 2, m.sellers - 1 - house % 10, m.moment(), "farm", 0, address=f"farm{house}")


def _burst(m: _Market, orders: int) -> None:
    for n in range(orders):
        start = START_US + (10 + 3 * (n // 60)) * DAY_US
        seller = m.sellers // 2 + n // 60 % (m.sellers // 4)
        m.buy(5 * m.buyers + n, seller, start + int(m.rng.integers(HOUR_US)), "burst", 0)


def _ring(m: _Market, orders: int) -> None:
    """Rings of 20 accounts and 10 young shops that also have honest customers, a fifth of the orders camouflage."""
    for n in range(orders):
        ring, place = divmod(n, 200)
        buyer, seller = 7 * m.buyers + 20 * ring + place % 20, m.sellers + 10 * ring + place // 20
        m.buy(buyer, seller, m.moment(), "ring")
        m.buy(int(m.rng.integers(m.buyers)), seller, m.moment())
        if n % 5 == 0:
            m.buy(buyer, int(m.rng.choice(m.sellers, p=m.popular)), m.moment())


def _price(m: _Market, orders: int) -> None:
    for n in range(orders):
        factor = float(m.rng.choice([0.05, 6.0]))
        m.buy(int(m.rng.integers(m.buyers)), n % 3, m.moment(), "price", item=5 * (n % 3) + n % 5, price=factor)


def _script(m: _Market, orders: int) -> None:
    for n in range(orders):
        bot, step = divmod(n, 20)
        at = START_US + 5 * DAY_US + step * (2 * DAY_US + bot * HOUR_US) + int(m.rng.integers(60_000_000))
        m.buy(9 * m.buyers + bot, int(m.rng.choice(m.sellers, p=m.popular)), at, "script")


def trial(orders: int, seed: int = 1) -> Found:
    """Plant fakes in a market of about so many honest orders and judge it."""
    events, truth = market(orders, seed)
    with DuckEngine() as engine:
        engine.table("cleaned", events)
        told = brushing.weights(engine, START_US + DAYS * DAY_US)
    weight = dict.fromkeys(truth, 1.0)
    codes: dict[str, tuple[int, int]] = {}
    for row in told.to_pylist():
        event = row["event_id"]
        if event in truth:
            weight[event] = min(weight[event], row["weight"])
            for code in row["reason"].split("+"):
                fakes, honest = codes.get(code, (0, 0))
                codes[code] = (fakes + bool(truth[event]), honest + (not truth[event]))
    of = {kind: np.array([weight[event] for event in truth if truth[event] == kind]) for kind in ("", *KINDS)}
    fake = np.concatenate([of[kind] for kind in KINDS])
    return Found(
        orders=len(truth),
        fakes=len(fake),
        recall={kind: float(np.mean(of[kind] <= CALLED)) for kind in KINDS},
        recall_all=float(np.mean(fake <= CALLED)),
        false_positive_rate=float(np.mean(of[""] <= CALLED)),
        honest_weight=float(np.mean(of[""])),
        fake_weight=float(np.mean(fake)),
        codes=dict(sorted(codes.items())),
    )
