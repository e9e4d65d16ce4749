"""What all connections of a listening socket share: whom they ask, how long they may take, what they learnt."""

import time
from asyncio import BaseTransport
from collections.abc import Callable
from typing import Protocol as Interface

from msgspec import Struct

from bidder.call import Answer
from bidder.endpoints import Endpoint, Endpoints
from bidder.heads import Head
from bidder.metrics import Metrics
from bidder.replies import refusals

SWEEP_S = 0.5

Handler = Callable[[bytes, Endpoint, float, Callable[[Answer], None]], Answer | None]
Sheds = Callable[[Endpoint, float], bool]
"""Whether a request read now is refused unread, and then counted as such; `Handler` says so, too, only later."""


class Foreign(Interface):
    """What takes over a connection: aiohttp's request handler."""

    def connection_made(self, transport: BaseTransport) -> None: ...

    def data_received(self, data: bytes) -> None: ...


class Connection(Interface):
    """One of the connections, a `bidder.lane.Lane`."""

    def overdue(self, now_s: float, limits: "Limits") -> str: ...

    def end(self, status: int | None) -> None: ...

    def finish(self) -> None: ...


class Limits(Struct, frozen=True):
    """Seconds: for a request to arrive, for a connection to be silent."""

    read_s: float = 5.0
    idle_s: float = 150.0


class Port:
    """One listening socket. lanes: its open connections. head: see `bidder.heads`."""

    def __init__(
        self,
        handle: Handler,
        endpoints: Endpoints,
        foreign: Callable[[], Foreign],
        limits: Limits,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        sheds: Sheds = lambda _endpoint, _now_s: False,
    ) -> None:
        self.handle = handle
        self.sheds = sheds
        self.endpoints = endpoints
        self.foreign = foreign
        self.clock = clock
        self.lanes: set[Connection] = set()
        self.draining = False
        self.head: Head | None = None  # learnt last: other connections of the same exchange send the same
        self.refused = refusals(metrics)
        self.counts = metrics.counts
        self._limits = limits
        self._closed = {
            reason: metrics.slot("tagbid_closed_total", reason=reason) for reason in ("slow", "idle", "stuck", "linger")
        }
        metrics.read("tagbid_connections", lambda: {(): float(len(self.lanes))})

    def sweep(self) -> None:
        """Close connections that are too slow, idle or stuck (S-03). To be called every `SWEEP_S`."""
        now_s = self.clock()
        for lane in list(self.lanes):
            reason = lane.overdue(now_s, self._limits)
            if reason:
                self.counts[self._closed[reason]] += 1
                lane.end(408 if reason == "slow" else None)

    def drain(self) -> None:
        """Answer what has arrived, then close: for the end of the process."""
        self.draining = True
        for lane in list(self.lanes):
            lane.finish()
