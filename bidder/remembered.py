"""Pure functions with memory, for what requests say again and again; what was asked first is forgotten first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from msgspec.msgpack import encode

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
MAX_KEY_BYTES = 8_192  # who sends more does it to fill memory


class Remembered(Generic[K, V]):
    """make: pure; its answers may take `size` bytes each. For one thread, the event loop's.

    A key is what a placement, a device or a page says, never who somebody is.
    """

    def __init__(self, make: Callable[[K], V], size: int, most_bytes: int) -> None:
        self._make = make
        self._entries = most_bytes // (size + MAX_KEY_BYTES // 8)
        self._known: OrderedDict[K, V] = OrderedDict()

    def __call__(self, key: K) -> V:
        found = self._known.get(key)
        if found is None:
            found = self._make(key)
            if self._entries and len(encode(key)) <= MAX_KEY_BYTES:
                self._known[key] = found
                if len(self._known) > self._entries:
                    self._known.popitem(last=False)
        return found

    def __len__(self) -> int:
        return len(self._known)
