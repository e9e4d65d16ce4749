"""Consent strings repeat from request to request, so what was read from one is kept, bounded in entries and bytes."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRIES = 50_000  # P-05
BYTES = 64 * 1024**2  # of keys and what is kept for them, as `weigh` counts
_KEPT_BYTES = 512  # dictionary slot, decoded Struct and its reasons, rounded up


def weigh(key: object) -> int:
    """Bytes one kept answer costs: twice its strings (an answer may quote its key) and a flat share for the rest."""
    if isinstance(key, tuple):
        return _KEPT_BYTES + sum(2 * sys.getsizeof(part) for part in key)
    return _KEPT_BYTES + 2 * sys.getsizeof(key)


class Cached(Generic[K, V]):
    """A pure function with memory: the least recently asked answer goes first. For one thread, the event loop's.

    load must be pure. A key is the exact string, never a user id. Answers of None are kept too, so a malformed
    string costs its decoding once.
    """

    def __init__(self, load: Callable[[K], V], entries: int = ENTRIES, size_bytes: int = BYTES) -> None:
        self._load = load
        self._entries = entries
        self._bytes = size_bytes
        self._kept: OrderedDict[K, V] = OrderedDict()
        self.used_bytes = 0

    def __call__(self, key: K) -> V:
        kept = self._kept
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        value = self._load(key)
        cost = weigh(key)
        if cost <= self._bytes and self._entries:
            kept[key] = value
            self.used_bytes += cost
            while len(kept) > self._entries or self.used_bytes > self._bytes:
                oldest, _ = kept.popitem(last=False)
                self.used_bytes -= weigh(oldest)
        return value

    def __len__(self) -> int:
        return len(self._kept)
