"""One bid call: a request with all that its way through `bidder.bidding` has found out about it."""

import time
from collections.abc import Callable

from msgspec import Struct

from bidder.endpoints import Endpoint
from bidder.offers import Offer
from bidder.openrtb import Request
from bidder.privacy import PrivacyDecision
from bidder.serving import Serving
from dmp.schema import Uid, User

Answer = bytes | int
"""A body, sent with 200; or a status without a body."""


class Held(Struct, frozen=True, gc=False):
    """An offer whose money is reserved. micros: what its showing can cost, 0 for a test. hold_s: for how long.

    milli: thousandths of an impression one showing counts for.
    """

    offer: Offer
    hold_s: int
    micros: int
    milli: int


class Call(Struct, gc=False):
    """serving: what it started with. uid: None where no id may be used. arrived_s, deadline_s: on the clock of
    time.monotonic. done: who waits for the answer. user: None when nothing was read. now_us: the time it is decided
    for; issued_s: the same on the store's clock. held: the bids it gets, as far as their money is reserved.
    """

    request: Request
    endpoint: Endpoint
    serving: Serving
    privacy: PrivacyDecision
    uid: Uid | None
    arrived_s: float
    deadline_s: float
    done: Callable[[Answer], None]
    user: User | None = None
    now_us: int = 0
    issued_s: int = 0
    held: list[Held] = []

    @property
    def joined(self) -> Uid | None:
        """The user that what comes of it may be joined to."""
        return self.uid if self.privacy.measure else None

    def late(self) -> bool:
        """Whether the exchange no longer listens."""
        return time.monotonic() > self.deadline_s
