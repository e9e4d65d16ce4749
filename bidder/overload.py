"""When to answer "no bid" at once: too much begun already, or too late to begin.

Two signs of more load than one process can carry, both measured, neither set by hand:

* **Work in hand.** Requests that wait for their user will each cost a decision. `Pressure` keeps a running mean of what
  a decision takes and admits no more than `BURST_S` of them at once; the mean grows when neighbours steal the
  processor, and the limit falls with it. That is for bursts. A queue that still stands after `STANDING_S` is load, and
  all it does is make every request late (CoDel: Nichols and Jacobson, "Controlling Queue Delay", 2012): then no more
  than `WORK_S` are admitted until the queue has been down at half of that. Decisions also cost less then: what a
  request brought is still in the cache when it is decided.
* **Lateness.** A heartbeat is due every `BEAT_S`. When requests are read long after it was due, the loop stood still
  (a full collection, a descheduled process, a long turn) and what has just been read has waited in the kernel for up
  to that long. More than `LATE_S` is shed; less is taken off the request's own time.

What is shed costs its framing and nothing else, so that the rest is still answered in time. A store that has stopped
answering is not load: reads that wait for it do not count as work in hand (`dmp.link.Link.stuck`).
"""

import asyncio
import math
import time
from collections.abc import Callable

BURST_S = 0.015  # of decisions begun at once; the last of them waits so long, of the 80 ms a bid usually has
WORK_S = 0.005  # likewise, while there is always something in hand
STANDING_S = 0.05  # two to three times what a burst takes to be worked off
LEAST = 40  # requests in hand that are always admitted: an exchange keeps some tens of connections busy
LATE_S = 0.05  # half of the usual 100 ms: what is left is enough for a decision that begins soon
BEAT_S = 0.005
FIRST_COST_S = 0.0001  # of a decision, before any was measured
WEIGHT = 0.02  # of one decision in the running mean


class Pressure:
    """The load of one event loop. All times on the clock of time.monotonic.

    longest_stall_s: the longest the loop stood still since the start. limit: requests in hand during a burst; standing:
    those while the queue stands.
    """

    def __init__(self, max_in_hand: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.longest_stall_s = 0.0
        self.limit = min(max_in_hand, int(BURST_S / FIRST_COST_S))
        self.standing = min(max_in_hand, int(WORK_S / FIRST_COST_S))
        self._most = max_in_hand
        self._calm_s = -math.inf  # when there last was little in hand
        self._cost_s = FIRST_COST_S
        self._clock = clock
        self._due_s = math.inf  # nothing is late before the heartbeat begins
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin the heartbeat on the running loop."""
        self._due_s = self._clock() + BEAT_S
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self.beat)

    def stop(self) -> None:
        """End the heartbeat: nothing is late without it."""
        self._due_s = math.inf
        if self._timer is not None:
            self._timer.cancel()

    def beat(self) -> None:
        now_s = self._clock()
        self.limit = min(self._most, max(LEAST, int(BURST_S / self._cost_s)))
        self.standing = min(self.limit, max(LEAST, int(WORK_S / self._cost_s)))
        self.longest_stall_s = max(self.longest_stall_s, now_s - self._due_s)
        self._due_s = now_s + BEAT_S
        if self._timer is not None:
            self._timer = asyncio.get_running_loop().call_later(BEAT_S, self.beat)

    def since_s(self, now_s: float) -> float:
        """The earliest moment at which a request read now may have arrived."""
        return min(now_s, self._due_s)

    def late(self, now_s: float) -> bool:
        """Whether a request read now may have waited too long to be worth a decision."""
        return now_s - self._due_s > LATE_S

    def crowded(self, in_hand: int, now_s: float) -> bool:
        """Whether `in_hand` requests waiting for their user are as many as this process can decide in time."""
        if in_hand < self.standing:
            if 2 * in_hand < self.standing:
                self._calm_s = now_s
            return False
        return in_hand >= self.limit or now_s - self._calm_s > STANDING_S

    def decided(self, took_s: float) -> None:
        """One decision took so long, from the user's arrival to the answer; the next beat draws the conclusion."""
        self._cost_s += WEIGHT * (took_s - self._cost_s)


class Quota:
    """At most `per_s` requests a second, bursts of up to a tenth of a second's worth (at least one) let through.

    The generic cell rate algorithm: one number, the time at which the next request would be exactly on schedule.
    """

    __slots__ = ("_burst_s", "_gap_s", "_next_s")

    def __init__(self, per_s: float) -> None:
        self._gap_s = 1.0 / per_s
        self._burst_s = max(0.1, self._gap_s) - self._gap_s
        self._next_s = 0.0

    def admit(self, now_s: float) -> bool:
        """Whether a request at `now_s` is within the rate; only admitted ones count."""
        if self._next_s - now_s > self._burst_s:
            return False
        self._next_s = max(self._next_s, now_s) + self._gap_s
        return True
