import numpy as np
import numpy.typing as npt

VERSION: int

def chances(scores: list[float], xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64], /) -> list[float]: ...

class Side:
    def __init__(
        self,
        columns: npt.NDArray[np.intp],
        cuts: npt.NDArray[np.float64],
        rows: npt.NDArray[np.intp],
        offsets: npt.NDArray[np.intp],
        table: npt.NDArray[np.uint64],
        trees: int,
        n_values: int,
        /,
    ) -> None: ...
    def fold(self, columns: tuple[int, ...], values: list[float], mask: npt.NDArray[np.uint64], /) -> None: ...
    def scores(
        self,
        request_mask: npt.NDArray[np.uint64],
        masks: npt.NDArray[np.uint64],
        candidates: list[int],
        pairs: list[float | list[float]],
        leaf_values: npt.NDArray[np.float64],
        first_leaf: npt.NDArray[np.intp],
        /,
    ) -> list[float]: ...
