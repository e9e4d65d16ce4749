"""The table of a forest: which leaves of every tree each value of a feature leaves reachable (see `models.forest`)."""

from bisect import bisect_left
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from models.model_text import Node, UnsupportedModel

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.uint64]

ZERO = float(np.float32(1e-35))  # LightGBM's kZeroThreshold: prediction reads anything this small as 0
_ALL = (1 << 64) - 1


class RowOf(dict[float, int]):
    """{value of a feature: its row of the table}, filled as it is asked: most values come again and again."""

    MOST = 1_024  # values of one feature, a tenth of a megabyte; then it starts anew

    def __init__(self, cuts: Sequence[float], first: int) -> None:
        self._cuts = tuple(cuts)
        self._first = first

    def __missing__(self, value: float) -> int:
        cuts = self._cuts
        row = self._first + (bisect_left(cuts, value) if value == value else len(cuts))
        if len(self) >= self.MOST:
            self.clear()
        self[value] = row
        return row


class Feature(msgspec.Struct, frozen=True):
    """One feature in the table. column: its place in a full matrix. cuts: float64, ascending, the last is +inf; values
    up to cuts[i] and above the one before have row `first` + i, NaN the row after them.
    """

    column: int
    cuts: Floats
    first: int
    row_of: RowOf


class Tables(msgspec.Struct, frozen=True):
    """features: those the forest uses, by column and in that order. table: uint64 (rows, trees), the rows of one
    feature behind those of another. full: uint64 (trees,), all leaves.
    """

    features: dict[int, Feature]
    table: Masks
    full: Masks

    def folded(self, masks: Masks, X: Floats, columns: range) -> Masks:
        """AND the rows of X into `masks`, uint64 (n, trees), which is overwritten. X: float64 (n, len(columns))."""
        for feature in self.of(columns):
            # numpy sorts NaN behind +inf, which gives it its own row for nothing
            rows = feature.cuts.searchsorted(X[:, feature.column - columns.start]) + feature.first
            masks &= self.table.take(rows, axis=0)
        return masks

    def of(self, columns: range) -> list[Feature]:
        """Features of one side."""
        return [feature for column, feature in self.features.items() if column in columns]


def tables(nodes: Sequence[Node], full: Masks) -> Tables:
    """The table of all splits of a forest. full: uint64 (trees,), all leaves."""
    splits: dict[int, list[Node]] = {}
    for node in nodes:
        splits.setdefault(node.feature, []).append(node)
    features: dict[int, Feature] = {}
    found: list[Masks] = []
    first = 0
    for column, own in sorted(splits.items()):
        cuts = _cuts(own)
        ends = np.append(cuts, np.inf)
        features[column] = Feature(column, ends, first, RowOf(ends.tolist(), first))
        found.append(_table(own, cuts, full))
        first += len(found[-1])
    return Tables(features, np.concatenate(found) if found else np.empty((0, len(full)), np.uint64), full)


def _cuts(nodes: Sequence[Node]) -> Floats:
    """Ascending values between which one feature decides alike everywhere, each the upper end of its interval."""
    categories = {category for node in nodes if node.categories is not None for category in node.categories}
    if any(node.categories is None for node in nodes):
        if any(node.categories is not None for node in nodes):
            raise UnsupportedModel(f"feature {nodes[0].feature} is both numeric and categorical")
        thresholds = np.unique([node.threshold for node in nodes])
        # Values within +-ZERO are read as 0, so no cut can lie between them.
        near = (thresholds >= -ZERO) & (thresholds < ZERO)
        at_zero = np.where(thresholds < 0, np.nextafter(-ZERO, -np.inf), ZERO)
        return np.unique(np.where(near, at_zero, thresholds))
    # A category is the interval [c, c + 1), and (-1, 1) for 0, because LightGBM truncates towards zero.
    starts = np.array(sorted(categories), dtype=np.float64)
    ends = np.nextafter(starts + 1.0, -np.inf)
    return np.unique(np.concatenate((np.where(starts == 0, -1.0, np.nextafter(starts, -np.inf)), ends)))


def _table(nodes: Sequence[Node], cuts: Floats, full: Masks) -> Masks:
    """uint64 (len(cuts) + 2, trees): reachable leaves per interval, then above the last cut, then NaN."""
    values = np.concatenate((cuts, [np.inf, np.nan]))  # an interval decides as its upper end does
    # A missing value counts as 0 unless the split says otherwise.
    values[np.isnan(values) | (np.abs(values) <= ZERO)] = 0.0
    table = np.repeat(full[:, None], len(values), axis=1)
    for node in nodes:
        # NumericalDecision and CategoricalDecision of LightGBM's include/LightGBM/tree.h
        if node.categories is None:
            left = values <= node.threshold
            if node.nan_is_missing:
                left[-1] = node.default_left
        else:
            left = np.zeros(len(values), dtype=np.bool_)
            left[cuts.searchsorted(node.categories)] = True
        table[node.tree] &= np.where(left, np.uint64(_ALL ^ node.right), np.uint64(_ALL ^ node.left))
    return np.ascontiguousarray(table.T)
