"""What a benchmark measured: figures, each with its standard error, and what a part of a benchmark is given."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number.

    part: which part of the benchmark. data: what it was measured on. metric: what it is, with its unit. value, se: the
    number and its standard error, in that unit; se is 0 only for what was counted, not estimated. goal: what was aimed
    at, "" for a number that is only reported; met: whether it was reached. about: how it came about (rows, baseline,
    settings), JSON-able.
    """

    part: str
    data: str
    metric: str
    value: float
    se: float
    goal: str = ""
    met: bool | None = None
    about: dict[str, Any] = {}


class Options(msgspec.Struct, frozen=True):
    """data: folder of the real logs. rows: size of what is simulated or read at most, None = the full size. seed: of
    everything that is drawn, the first one of parts that take several. seeds: how many those take, None = their own
    number. work: where long parts keep what is finished, so that a stopped run goes on there; None = nowhere.
    """

    data: Path
    rows: int | None = None
    seed: int = 1
    seeds: int | None = None
    work: Path | None = None

    def size(self, full: int) -> int:
        """How many rows to take where the full size is `full`.

        >>> Options(Path("."), rows=10).size(100), Options(Path(".")).size(100)
        (10, 100)
        """
        return full if self.rows is None else min(self.rows, full)


Part = Callable[[Options], Iterable[Figure]]
"""A part of the benchmark: yields figures as they are found."""


def mean_se(values: Iterable[float]) -> tuple[float, float]:
    """Mean of independent values and its standard error; the error of a single value is not known (infinite).

    >>> mean_se([1.0, 3.0])
    (2.0, 1.0)
    """
    found = list(values)
    mean = math.fsum(found) / len(found)
    if len(found) < 2:
        return mean, math.inf
    variance = math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1)
    return mean, math.sqrt(variance / len(found))


def jackknife(
    rows: npt.NDArray[np.float64], statistic: Callable[[list[float]], float], blocks: int = 100
) -> tuple[float, float]:
    """A statistic of column sums and its standard error, leaving out one block of neighbouring rows at a time.

    rows: float64 (n, columns); blocks keep what is close in time together. For ratios of sums.

    >>> jackknife(np.array([[1.0], [3.0]]), lambda sums: sums[0], blocks=2)
    (4.0, 1.0)
    """
    parts = np.array([part.sum(axis=0) for part in np.array_split(rows, min(blocks, len(rows)))])
    total = parts.sum(axis=0)
    left_out = np.array([statistic((total - part).tolist()) for part in parts])
    n = len(parts)
    return float(statistic(total.tolist())), math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
