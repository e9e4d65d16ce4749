"""Sets of ads as the bits of integers: bit i stands for ad i of n."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

K = TypeVar("K", bound=Hashable)


def mask_of(bits: Iterable[int], n: int) -> int:
    """Bits to an integer through bytes: linear, where |= of one bit at a time is quadratic in n."""
    data = bytearray(n // 8 + 1)
    for bit in bits:
        data[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(data, "little")


def mask_from(flags: npt.NDArray[np.bool_]) -> int:
    """(n,) whether each is in the set, to an integer.

    >>> mask_from(np.array([True, False, True]))
    5
    """
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


def by_value(rows: Iterable[Iterable[K]], n: int) -> dict[K, int]:
    """Value -> the rows that have it."""
    bits: dict[K, list[int]] = {}
    for bit, values in enumerate(rows):
        for value in values:
            bits.setdefault(value, []).append(bit)
    return {value: mask_of(found, n) for value, found in bits.items()}


def free_of(rows: Iterable[object], n: int) -> int:
    """Rows without values: the ads that do not have the rule."""
    return mask_of((bit for bit, values in enumerate(rows) if not values), n)
