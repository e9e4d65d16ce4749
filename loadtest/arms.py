"""One arm of a comparison: a bidder of its own, the exchange it plays with, and what came of it.

Every arm has its own data directory and tag store, so that contacts and budgets of one arm say nothing in another.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dmp import keys
from loadtest import exchange, generator, load, scrape, stage, summary
from loadtest.courier import Courier
from loadtest.exchange import Answer, Books
from loadtest.load import Load, Result
from loadtest.stage import EXCHANGE, Stage
from loadtest.world import Requests, World

_STORE = re.compile(r'tagbid_store_total\{result="([^"]*)"\}')
PATIENCE_MS = 5_000
LATE_SHARE, SLOWER, SLOWEST = 0.01, 0.7, 250.0
DAY_S = 86_400


class Played(msgspec.Struct, frozen=True):
    """What one arm came to.

    books: the exchange's own. told: the load report (keys of `summary.summarise`). calls: {(kind, status)} of the
    notices sent. booked_micros: spend in the bidder's books. store: {result: user reads}.
    """

    books: Books
    result: Result
    told: dict[str, Any]
    calls: dict[tuple[str, int], int]
    booked_micros: int
    store: dict[str, int]


def play(
    on: Stage,
    earth: World,
    requests: Requests,
    campaigns: Mapping[str, int | None],
    rate: float,
    batch: int,
    seats: Sequence[str] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Played:
    """Start the stage's store and bidder, play all requests against them, stop both.

    rate: requests per second, Poisson arrivals; after a batch with many late answers the next one is sent more slowly,
    so that a busy machine costs time instead of bids. batch: requests between two looks of the exchange at its answers.
    """
    results: list[Result] = []
    pace = rate
    with stage.store(on) as store, stage.bidder(on) as bidder:

        def send(bodies: list[bytes]) -> list[Answer]:
            nonlocal pace
            job = Load(
                url=f"{bidder.url}/bid/{EXCHANGE}",
                bodies=bodies,
                rate=pace,
                duration_s=len(bodies) / pace,
                count=len(bodies),
                poisson=True,
                seed=len(results) + 1,
                tmax_ms=earth.config.tmax_ms,
                patience_ms=PATIENCE_MS,
            )
            bidder.child.check()
            result = generator.play(job)
            results.append(result)
            if result.late > LATE_SHARE * len(bodies):
                pace = max(SLOWEST, pace * SLOWER)
            return [
                Answer(int(status), result.bodies.get(i, b""), int(latency))
                for i, (status, latency) in enumerate(zip(result.status, result.latency_us, strict=True))
            ]

        courier = Courier()
        before = scrape.metrics(bidder.admin)
        cpu_before = scrape.cpu_s([bidder.child.process.pid])
        try:
            books = exchange.play(earth, requests, campaigns, send, courier, batch, seats, progress)
        finally:
            courier.close()
        after = scrape.metrics(bidder.admin)
        cpu_s = scrape.cpu_s([bidder.child.process.pid]) - cpu_before
        client = store.sync()
        now_s = int(client.time()[0])
        booked = sum(
            int(client.hget(keys.spend(campaign, day), "spent") or 0)
            for campaign in campaigns
            for day in (now_s // DAY_S, now_s // DAY_S - 1)
        )
        client.close()
    result = load.join(results)
    told = summary.summarise(result, (), cpu_s, scrape.no_bid_reasons(before, after))
    return Played(books, result, told, dict(courier.counts), booked, store_reads(before, after))


def store_reads(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, int]:
    """{hit, miss, late, ...: user reads between two scrapes}."""
    found: Counter[str] = Counter()
    for name, value in after.items():
        if match := _STORE.fullmatch(name):
            found[match.group(1)] += round(value - before.get(name, 0.0))
    return {name: count for name, count in found.items() if count}
