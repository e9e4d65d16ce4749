"""Pure functions with memory, for what requests say again and again; what was asked first is forgotten first."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from sys import getsizeof
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import astuple

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
        self._weights: deque[int] = deque()  # of the entries, in their order

    def __missing__(self, key: K) -> V:
        found = self._make(key)
        own = weight(key)
        if own <= MAX_KEY_BYTES:
            self[key] = found
            self._weights.append(own + self._size)
            self._left -= own + self._size
            while self._left < 0:  # whoever sends ever new things pays with long keys for what it pushes out
                self.popitem(last=False)
                self._left += self._weights.popleft()
        return found


def weight(key: object) -> int:
    """Bytes in memory of a key and all it consists of, where short texts take twenty times what is sent; of a key that
    is not kept only that it is too many.

    Nor is one kept that holds the number -2: Python hashes it as it does -1, so a list of a dozen of both has thousands
    of spellings that a dict could tell apart only by comparing them all.
    """
    found, parts = 0, [key]
    for part in parts:  # which grow
        if part is None:
            continue
        found += getsizeof(part)
        if found > MAX_KEY_BYTES or part == -2:
            return MAX_KEY_BYTES + 1
        if isinstance(part, tuple):
            parts += part
        elif isinstance(part, Struct):
            parts += astuple(part)
    return found
