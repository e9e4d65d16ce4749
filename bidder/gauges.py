"""Numbers of a bidder that are kept where they arise and read at every scrape."""

import time
from collections.abc import Callable, Iterator, Mapping

from bidder.bidding import Bidder
from bidder.bidlog import BidLog
from bidder.budget import Account, Budgets
from bidder.copies import Copies
from bidder.metrics import Labelled, Labels, Metrics
from bidder.overload import Pressure
from bidder.pacer import Pacer
from bidder.pacing import Pace
from bidder.topics import Topics
from dmp.link import Link
from dmp.lookup import Lookup


def read_all(
    metrics: Metrics,
    bidder: Bidder,
    lookup: Lookup,
    link: Link,
    pressure: Pressure,
    bidlog: BidLog,
    topics: Topics,
    pacer: Pacer,
    budgets: Budgets,
    copies: Copies,
) -> None:
    """Have `metrics` read them."""
    links = {"lookup": lookup.link, "notices": link}
    readers: Mapping[str, Callable[[], Labelled]] = {
        "tagbid_store_total": lambda: {(("result", r),): n for r, n in lookup.counts.items()},
        "tagbid_store_up": lambda: {(("link", name),): one.share_up for name, one in links.items()},
        "tagbid_store_redirected_total": lambda: {
            (("link", name), ("how", how)): one.counts[how] for name, one in links.items() for how in ("moved", "ask")
        },
        "tagbid_in_flight": lambda: {(): bidder.in_flight},
        "tagbid_in_flight_limit": lambda: {(): pressure.limit},
        "tagbid_longest_stall_seconds": lambda: {(): pressure.longest_stall_s},
        "tagbid_bidlog_records_total": lambda: {(): bidlog.written},
        "tagbid_bidlog_dropped_total": lambda: {(): bidlog.dropped},
        "tagbid_snapshot_timestamp_seconds": lambda: {(): bidder.serving.made_s},
        "tagbid_hot_topics": lambda: {(): topics.count(time.time_ns() // 1000)},
        "tagbid_cost_unknown": lambda: {(): pacer.untold},
        "tagbid_lease_copies_total": lambda: {(("result", r),): n for r, n in copies.counts.items()},
    }
    for name, reader in readers.items():
        metrics.read(name, reader)
    metrics.read_many("tagbid_pace", lambda: _paces(pacer.of))
    metrics.read_many("tagbid_budget_micros", lambda: _budgets(budgets.accounts()))


def _budgets(accounts: list[Account]) -> Iterator[tuple[Labels, float]]:
    for account in accounts:
        for state, value in (
            ("budget", account.budget),
            ("spent", account.spent),
            ("lease", account.lease),
            ("pending", account.pending),
        ):
            yield (("campaign", account.campaign), ("state", state)), float(value)


def _paces(paces: Mapping[str, Pace]) -> Iterator[tuple[Labels, float]]:
    for campaign, pace in paces.items():
        for what, value in (("multiplier", pace.k), ("share", pace.share)):
            yield (("campaign", campaign), ("what", what)), value
