from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

VERSION: int

def look_up(known: dict[int, Any], column: tuple[int, ...], positions: list[int], otherwise: Any, /) -> list[Any]: ...
def ones(data: bytes, limit: int, /) -> list[int]: ...
def chances(scores: list[float], xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64], /) -> list[float]: ...

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
