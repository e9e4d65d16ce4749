"""What a run of load is: what to send and when, and what came back."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError

Ints = npt.NDArray[np.int64]


class Load(msgspec.Struct, frozen=True):
    """What to send, and when. Request i carries bodies[i % len(bodies)].

    rate: requests per second; duration_s: how long. poisson: exponential gaps drawn from seed instead of equal ones.
    count: exactly so many requests instead of rate * duration_s. tmax_ms: answers after it are late; one number,
    or one for each body. patience_ms: a request is given up so long after its moment. keep_every: keep the answer's
    body of every k-th request, 0 for none. headers: added to each request.
    """

    url: str
    bodies: Sequence[bytes]
    rate: float
    duration_s: float
    poisson: bool = False
    seed: int = 1
    count: int | None = None
    connections: int = 64
    max_connections: int = 1_024
    tmax_ms: int | Sequence[int] = 100
    patience_ms: int = 2_000
    keep_every: int = 1
    headers: dict[str, str] = {}


class Result(msgspec.Struct, frozen=True):
    """What came back; arrays are (n,) in the order of the moments.

    due_us: intended send time since the first moment. lag_us: how late the send was. latency_us: from the intended
    time to the whole answer; -1 without one. status: 0 without an answer. bid: the answer names an `impid`.
    tmax_us: each request's own limit. bodies: answers kept, by request number. errors: why requests stayed
    unanswered. opened: connections made. elapsed_s: from the first moment to the last answer or giving up, and at
    least the duration. cpu_s: spent by the generator.
    """

    due_us: Ints
    lag_us: Ints
    latency_us: Ints
    status: Ints
    bid: Ints
    tmax_us: Ints
    bodies: dict[int, bytes]
    errors: dict[str, int]
    opened: int
    duration_s: float
    elapsed_s: float
    cpu_s: float

    @property
    def answered(self) -> int:
        return int((self.status > 0).sum())

    @property
    def late(self) -> int:
        """Answers that came after their request's tmax."""
        return int((self.latency_us > self.tmax_us).sum())

    @property
    def offered_rate(self) -> float:
        return len(self.due_us) / self.duration_s

    @property
    def achieved_rate(self) -> float:
        """Answers per second."""
        return self.answered / self.elapsed_s


def moments_us(load: Load) -> Ints:
    """Intended send times since the first one, ascending.

    >>> moments_us(Load("", [b""], rate=4, duration_s=1)).tolist()
    [0, 250000, 500000, 750000]
    """
    if load.rate <= 0 or not math.isfinite(load.rate) or load.duration_s <= 0:
        raise TagbidError(f"rate {load.rate} and duration {load.duration_s} must be positive")
    count = load.count if load.count is not None else round(load.rate * load.duration_s)
    if not load.poisson:
        return (np.arange(count) * (1e6 / load.rate)).astype(np.int64)
    rng = np.random.default_rng(load.seed)
    if load.count is None:  # the number of arrivals in the time is itself Poisson
        count = int(rng.poisson(load.rate * load.duration_s))
        return np.sort((rng.random(count) * (load.duration_s * 1e6)).astype(np.int64))
    return np.cumsum(rng.exponential(1e6 / load.rate, count)).astype(np.int64)


def join(results: Sequence[Result]) -> Result:
    """Runs that followed one another as one; request numbers and times go on where the run before ended."""
    bodies: dict[int, bytes] = {}
    errors: Counter[str] = Counter()
    due, before, started_us = [], 0, 0
    for result in results:
        bodies.update((before + number, body) for number, body in result.bodies.items())
        errors.update(result.errors)
        due.append(result.due_us + started_us)
        before += len(result.due_us)
        started_us += round(result.elapsed_s * 1e6)

    def joined(name: str) -> Ints:
        return np.concatenate([getattr(result, name) for result in results])

    return Result(
        due_us=np.concatenate(due),
        lag_us=joined("lag_us"),
        latency_us=joined("latency_us"),
        status=joined("status"),
        bid=joined("bid"),
        tmax_us=joined("tmax_us"),
        bodies=bodies,
        errors=dict(errors),
        opened=sum(result.opened for result in results),
        duration_s=sum(result.duration_s for result in results),
        elapsed_s=sum(result.elapsed_s for result in results),
        cpu_s=sum(result.cpu_s for result in results),
    )
