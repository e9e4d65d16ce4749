from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dmp.schema import Realtime, User
from models.context import Context
from models.vocabulary import Category

VERSION: int

def look_up(known: dict[int, Any], column: tuple[int, ...], positions: list[int], otherwise: Any, /) -> list[Any]: ...
def ones(data: bytes, limit: int, /) -> list[int]: ...
def chances(scores: list[float], xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64], /) -> list[float]: ...

class Pairs:
    # lately: ({tag: score}, tags in the basket) of a record; liked, inside: a column for some positions.
    def __init__(
        self,
        interests: tuple[int, ...],
        first: tuple[int, ...],
        targets: tuple[tuple[int, ...], ...],
        scopes: tuple[int, ...],
        categories: tuple[str, ...],
        heads: tuple[str, ...],
        audiences: tuple[frozenset[int], ...],
        fenced: bool,
        lately: Callable[[Realtime, int], tuple[dict[int, int], frozenset[int]]],
        liked: Callable[[bytes, list[int]], float | list[float]],
        inside: Callable[[Sequence[int], list[int]], list[float]],
        /,
    ) -> None: ...
    def columns(
        self, positions: list[int], context: Context, user: User | None, now_us: int, /
    ) -> list[float | list[float]]: ...

class Now:
    # known: (tag, kind, place, value) of the tags looked at. lately: the last category of a record, its session.
    def __init__(
        self,
        search: dict[Category, float],
        interest: dict[Category, float],
        last: dict[Category, float],
        known: list[tuple[int, int, int, float]],
        lately: Callable[[Realtime, int], tuple[int, float, float, float]],
        /,
    ) -> None: ...
    def values(self, context: Context, user: User | None, now_us: int, /) -> list[float]: ...

Plain: TypeAlias = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]

class Forest:
    def __init__(
        self,
        request: Plain,
        pair: Plain,
        n_request: int,
        n_pair: int,
        table: npt.NDArray[np.uint64],
        full: npt.NDArray[np.uint64],
        leaf_values: npt.NDArray[np.float64],
        first_leaf: npt.NDArray[np.intp],
        /,
    ) -> None: ...
    def fold(self, columns: tuple[int, ...], values: Sequence[float], mask: npt.NDArray[np.uint64], /) -> None: ...
    def scores(
        self,
        request: tuple[npt.NDArray[np.uint64], ...],
        masks: npt.NDArray[np.uint64],
        candidates: list[int],
        pairs: list[float | list[float]],
        columns: tuple[int, ...],
        values: Sequence[float],
        /,
    ) -> list[float]: ...
