"""Clocks around functions while they do their real work: what each takes itself, without those watched inside it.

A clock costs about as much as the smallest of the functions it is put around. So its own cost is measured first and
taken off, both what it adds to the function itself and what it adds to the function around that. It shows time passed:
processor time is a system call away, and two of those around every function make all of them a fifth slower. So a
function that seems to have taken longer than any of them does (`STOLEN_NS`) is taken to have lost the processor.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from statistics import median
from typing import Any

from msgspec import Struct

STOLEN_NS = 1_000_000
CALIBRATION = 2_000  # calls of an empty function, ten times


class Place(Struct, frozen=True):
    """A function as its caller finds it: `owner`, a module or class, and `name`. step: what its time is called."""

    owner: Any
    name: str
    step: str


class Watch:
    """Nanoseconds by step. calls: how often each was entered; passed: how often each entered another one."""

    def __init__(self) -> None:
        self.own_ns: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.passed: dict[str, int] = {}
        self._inner_ns = self._outer_ns = 0.0
        self._inside_ns = 0
        self._top = ""

    def clear(self) -> None:
        for counts in (self.own_ns, self.calls, self.passed):
            for step in counts:
                counts[step] = 0

    def timed(self, step: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock around it."""
        own_ns, calls, passed, clock = self.own_ns, self.calls, self.passed, time.perf_counter_ns
        for counts in (own_ns, calls, passed):
            counts.setdefault(step, 0)
        passed.setdefault("", 0)

        @wraps(call)
        def timed(*args: Any, **named: Any) -> Any:
            above, above_ns = self._top, self._inside_ns
            self._top, self._inside_ns = step, 0
            begun = clock()
            try:
                return call(*args, **named)
            finally:
                took = clock() - begun
                own = took - self._inside_ns
                if own < STOLEN_NS:
                    own_ns[step] += own
                calls[step] += 1
                passed[above] += 1
                self._top, self._inside_ns = above, above_ns + took

        return timed

    def calibrate(self) -> None:
        """Measure what a clock costs."""
        inner, outer = [], []
        for _ in range(10):
            probe = Watch()
            empty = probe.timed("empty", _empty)
            bare_ns = _spent_ns(_empty)
            whole_ns = _spent_ns(empty)
            inner.append(max(0.0, probe.own_ns["empty"] / CALIBRATION - bare_ns))
            outer.append(max(0.0, whole_ns - bare_ns - inner[-1]))
        self._inner_ns, self._outer_ns = median(inner), median(outer)

    def found_us(self, requests: int) -> dict[str, float]:
        """{step: µs of its own a request}, the clocks' cost taken off."""
        return {
            step: (own_ns - self.calls[step] * self._inner_ns - self.passed[step] * self._outer_ns) / 1000 / requests
            for step, own_ns in self.own_ns.items()
        }

    def cost_us(self, requests: int) -> float:
        """What all clocks together added to a request."""
        return sum(self.calls.values()) * (self._inner_ns + self._outer_ns) / 1000 / requests


def _empty() -> None:
    pass


def _spent_ns(call: Callable[[], None]) -> float:
    begun = time.perf_counter_ns()
    for _ in range(CALIBRATION):
        call()
    return (time.perf_counter_ns() - begun) / CALIBRATION


@contextmanager
def watching(places: Sequence[Place]) -> Iterator[Watch]:
    """Put a clock around each of the places, and take them away at the end."""
    watch = Watch()
    watch.calibrate()
    before = [(place.owner, place.name, getattr(place.owner, place.name)) for place in places]
    try:
        for place, (_, _, call) in zip(places, before, strict=True):
            setattr(place.owner, place.name, watch.timed(place.step, call))
        yield watch
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)
