"""Pure functions with memory, for what requests say again and again; what was asked first is forgotten first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

from msgspec.msgpack import encode

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
MAX_KEY_BYTES = 8_192  # who sends more does it to fill memory


class Remembered(OrderedDict[K, V]):
    """{argument: what `make` makes of it}. make: pure; its answers may take `size` bytes each, besides the argument's
    own. All it holds takes at most `most_bytes`. For one thread, the event loop's.

    A key is what a placement, a device or a page says, never who somebody is.
    """

    def __init__(self, make: Callable[[K], V], size: int, most_bytes: int) -> None:
        super().__init__()
        self._make = make
        self._size = size
        self._left = most_bytes

    def __missing__(self, key: K) -> V:
        found = self._make(key)
        length = len(encode(key))
        if length <= MAX_KEY_BYTES:
            self[key] = found
            self._left -= length + self._size
            while self._left < 0:  # whoever sends ever new things pays with long keys for what it pushes out
                gone, _ = self.popitem(last=False)
                self._left += len(encode(gone)) + self._size
        return found
