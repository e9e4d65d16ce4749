"""Exact scoring of a LightGBM forest by bit masks, arranged for auctions: the QuickScorer idea (Lucchese et al.,
SIGIR 2015) with the work split by when its inputs are known.

A tree of at most 64 leaves is one 64-bit word: bit i says that leaf i can still be reached. Between two
neighbouring thresholds of a feature, all values exclude the same leaves in every tree, so each feature has one
table row per interval (a category is an interval too, NaN has a row of its own) with a word per tree. ANDing the
rows of all features leaves one bit per tree: the leaf LightGBM would have reached. AND is associative, hence

* `request_mask`: the rows of context and user, ANDed once per request, or in parts that requests share;
* `campaign_masks`: those of campaign and creative, once per snapshot;
* `candidate_scores`: both ANDed with the few rows of the pair features, per candidate.

Memory: (thresholds + categories) x trees x 8 bytes, 3 MB for 200 trees of 63 leaves, twice that with the kernel, which
keeps of every feature the trees that look at it.
"""

import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dmp.compiled import compiled
from models import model_text
from models.model_text import Node, UnsupportedModel
from models.tables import Feature, Floats, Masks, RowOf, tables

if TYPE_CHECKING:
    from models import _kernel

KERNEL_VERSION = 6  # of the sources; a kernel built from others before is not called

_ONE = np.uint64(1)


def kernel() -> ModuleType | None:
    """The compiled inner loops, None where they were not built or `TAGBID_KERNEL=numpy` asks to do without."""
    return compiled("models._kernel", KERNEL_VERSION)


class Forest:
    """A compiled forest. It never scores otherwise and has no shared buffers, and what it remembers (rows of values)
    may be added by any thread: snapshot threads and the event loop share it.

    trees, n_features: sizes. The columns of a full matrix are request, campaign, pair in this order.
    """

    __slots__ = (
        "_by_columns",
        "_campaign",
        "_compiled",
        "_first_leaf",
        "_full",
        "_leaf_values",
        "_pair",
        "_pairs",
        "_request",
        "_tables",
        "n_features",
        "trees",
    )

    def __init__(
        self,
        nodes: Sequence[Node],
        leaf_values: Sequence[Sequence[float]],
        n_features: int,
        n_request: int,
        n_static: int,
    ) -> None:
        counts = [len(values) for values in leaf_values]
        self.trees = len(counts)
        self.n_features = n_features
        self._request, self._campaign = range(n_request), range(n_request, n_static)
        self._pair = range(n_static, n_features)
        self._leaf_values: Floats = np.array([value for values in leaf_values for value in values], dtype=np.float64)
        self._first_leaf: npt.NDArray[np.intp] = np.cumsum([0, *counts[:-1]], dtype=np.intp)
        self._full: Masks = np.array([(1 << count) - 1 for count in counts], dtype=np.uint64)
        self._tables = made = tables(nodes, self._full)
        self._by_columns: dict[tuple[int, ...], tuple[tuple[int, RowOf], ...]] = {}  # a few: parts of a request
        self._pairs = tuple((feature.column - n_static, feature.row_of) for feature in made.of(self._pair))
        inner = kernel()
        self._compiled: _kernel.Forest | None = None
        if inner is not None:
            self._compiled = inner.Forest(
                _plain(made.of(self._request), self._request),
                _plain(made.of(self._pair), self._pair),
                n_request,
                len(self._pair),
                made.table,
                self._full,
                self._leaf_values,
                self._first_leaf,
            )

    @classmethod
    def from_model_text(cls, text: str, n_request: int, n_campaign: int) -> "Forest":
        """Compile the text LightGBM's `save_model` writes; the features after the first two sides are the pair side.

        Raises UnsupportedModel on what `model_text.read` refuses, and on fewer features than the first two sides have.
        """
        made = model_text.read(text)
        if made.n_features < n_request + n_campaign:
            raise UnsupportedModel(f"the model has {made.n_features} features, fewer than {n_request} + {n_campaign}")
        return cls(made.nodes, made.leaf_values, made.n_features, n_request, n_request + n_campaign)

    def request_mask(self, values: list[float], columns: tuple[int, ...] | None = None) -> Masks:
        """values: the n_request request features, or those of some columns of them. Returns uint64 (trees,).

        Masks of parts, ANDed, are the mask of the whole; what is the same for many requests need be folded once.
        """
        if columns is None:
            columns = tuple(self._request)
        if self._compiled is not None:
            folded = self._full.copy()
            self._compiled.fold(columns, values, folded)
            return folded
        mask = self._full.copy()
        if rows := self._rows(columns, values):
            mask &= np.bitwise_and.reduce(self._tables.table.take(rows, axis=0), axis=0)
        return mask

    def campaign_masks(self, X: Floats) -> Masks:
        """X: float64 (n, n_campaign), the campaign features. Returns uint64 (n, trees)."""
        return self._tables.folded(np.repeat(self._full[None, :], len(X), axis=0), X, self._campaign)

    def uses_pair(self, column: int) -> bool:
        """Whether any tree looks at a column of the pair side. column: its place on that side."""
        return column + self._pair.start in self._tables.features

    def upper_bounds(self, masks: Masks) -> Floats:
        """The most each ad can score whatever the request and the user, float64 (ads,).

        masks: uint64 (ads, trees), `campaign_masks` of the ads. Per tree the largest leaf value the mask still allows,
        summed in the order of either kernel: adding floats is monotone, so no score of theirs is above it by a bit.
        """
        best = np.empty(masks.shape)
        for tree, first in enumerate(self._first_leaf.tolist()):
            values = self._leaf_values[first : first + int(self._full[tree]).bit_length()]
            words, positions = np.unique(masks[:, tree], return_inverse=True)  # few: ads differ in few splits
            allowed = words[:, None] >> np.arange(len(values), dtype=np.uint64) & _ONE
            best[:, tree] = np.where(allowed, values, -np.inf).max(axis=1)[positions]
        return np.maximum(np.add.reduce(best, axis=1), np.add.accumulate(best, axis=1)[:, -1])

    def candidate_scores(
        self,
        request: tuple[Masks, ...],
        masks: Masks,
        candidates: list[int],
        pairs: list[float | list[float]],
        columns: tuple[int, ...] = (),
        values: Sequence[float] = (),
    ) -> list[float]:
        """Raw scores of the candidates of one request; the bid path's call.

        request: `request_mask` of all request features, or of those that other requests have too; then columns and
        values are the others. masks: uint64 (ads, trees), `campaign_masks` of all ads. candidates: rows of it. pairs:
        for each pair feature a value that all candidates share, or a list of one for each: what is shared is looked up
        and ANDed once. In C the sum runs in the order of the trees, as LightGBM's does, so the scores are the same to
        the last bit.
        """
        if not candidates:
            return []
        if self._compiled is not None:
            return self._compiled.scores(request, masks, candidates, pairs, columns, values)
        table = self._tables.table
        shared, differ = self._rows(columns, values), []
        for column, row_of in self._pairs:
            own = pairs[column]
            if isinstance(own, list):
                rows = [*map(row_of.__getitem__, own)]
                if rows.count(rows[0]) < len(rows):
                    differ.append(rows)
                else:
                    shared.append(rows[0])
            else:
                shared.append(row_of[own])
        mask = np.bitwise_and.reduce(table.take(shared, axis=0), axis=0) if shared else self._full.copy()
        for part in request:
            mask &= part
        found = masks.take(candidates, axis=0)
        found &= mask
        if differ:
            found &= np.bitwise_and.reduce(table.take(differ, axis=0), axis=0)
        scores: list[float] = self._sums(found).tolist()
        return scores

    def scores(self, request_mask: Masks, campaign_masks: Masks, pair_X: Floats) -> Floats:
        """Raw scores of k candidates, float64 (k,): what Booster.predict(raw_score=True) gives, to 1e-12.

        campaign_masks: uint64 (k, trees), the candidates' rows of `campaign_masks`. pair_X: float64 (k, n_pair).
        request_mask: uint64 (trees,), or (k, trees) for candidates of several requests.
        """
        return self._sums(self._tables.folded(campaign_masks & request_mask, pair_X, self._pair))

    def predict(self, X: Floats) -> Floats:
        """Raw scores of full rows, float64 (n,), for checks and reports. X: float64 (n, n_features)."""
        request, static = len(self._request), self._pair.start
        masks = self._tables.folded(self.campaign_masks(X[:, request:static]), X[:, :request], self._request)
        return self.scores(self._full, masks, X[:, static:])

    def _rows(self, columns: tuple[int, ...], values: Sequence[float]) -> list[int]:
        """Rows of the table of some request features."""
        if len(columns) != len(values):
            raise ValueError(f"{len(columns)} floats are needed, not {len(values)}")
        known = self._by_columns.get(columns)
        if known is None:
            used = self._tables.features
            known = tuple((place, used[column].row_of) for place, column in enumerate(columns) if column in used)
            self._by_columns[columns] = known
        return [row_of[values[place]] for place, row_of in known]

    def _sums(self, masks: Masks) -> Floats:
        """masks: uint64 (k, trees), one bit left per tree; overwritten."""
        masks -= _ONE  # the number of zeros below the bit is the leaf
        leaves = np.bitwise_count(masks) + self._first_leaf
        values: Floats = self._leaf_values.take(leaves, mode="clip")
        total: Floats = np.add.reduce(values, axis=1)
        return total


def sigmoid(scores: Floats) -> Floats:
    """Probabilities of raw scores of a binary model: 1 / (1 + exp(-score))."""
    return 1.0 / (1.0 + np.exp(-scores))


def probabilities(scores: Iterable[float]) -> list[float]:
    """`sigmoid` of a few scores, for which arrays cost more.

    >>> probabilities([0.0, -1e6])
    [0.5, 0.0]
    """
    exp = math.exp
    return [1.0 / (1.0 + exp(-score)) if score > -700.0 else 0.0 for score in scores]  # beyond that exp overflows


def _plain(features: Sequence[Feature], side: range) -> "_kernel.Plain":
    """Features of one side as the kernel takes them: places on that side, first rows, where cuts begin, cuts."""
    lengths = [len(feature.cuts) for feature in features]
    return (
        np.array([feature.column - side.start for feature in features], dtype=np.intp),
        np.array([feature.first for feature in features], dtype=np.intp),
        np.cumsum([0, *lengths], dtype=np.intp),
        np.concatenate([*(feature.cuts for feature in features), np.empty(0)]),
    )
