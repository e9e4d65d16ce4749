"""Look-ups a request does by the dozen, in C where the kernel is there: in Python each costs several calls."""

from collections.abc import Callable
from itertools import repeat
from operator import itemgetter
from typing import Any

from models.forest import kernel

LookUp = Callable[[dict[int, Any], tuple[int, ...], list[int], Any], list[Any]]


def plain_look_up(known: dict[int, Any], column: tuple[int, ...], positions: list[int], otherwise: Any) -> list[Any]:
    """What is known of some entries of a column.

    >>> plain_look_up({7: "x"}, (5, 7, 9), [1, 2], "")
    ['x', '']
    """
    if len(positions) == 1:
        return [known.get(column[positions[0]], otherwise)]
    return [*map(known.get, itemgetter(*positions)(column), repeat(otherwise))] if positions else []


def plain_ones(mask: int, limit: int) -> list[int]:
    """Positions of the lowest `limit` set bits, ascending.

    Splitting the number's text at its ones has no bad case: 2.5 us for 12 of 200, 4.3 for 12 of 2,000, 13 for 50 of
    them, where looking for one after the other took 2.9, 9.1, 16; a byte table took 24 at 10,000 bits.

    >>> plain_ones(0b1011_0000_0001, 3)
    [0, 8, 9]
    """
    at = -1
    return [at := at + len(zeros) + 1 for zeros in bin(mask)[:1:-1].split("1", limit)[:-1]]


_compiled = kernel()


def _ones_in_c(mask: int, limit: int) -> list[int]:
    assert _compiled is not None  # noqa: S101 - only called where it is
    found: list[int] = _compiled.ones(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), limit)
    return found


look_up: LookUp = plain_look_up if _compiled is None else _compiled.look_up
ones: Callable[[int, int], list[int]] = plain_ones if _compiled is None else _ones_in_c
