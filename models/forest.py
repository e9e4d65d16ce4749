"""Exact scoring of a LightGBM forest by bit masks, arranged for auctions: the QuickScorer idea (Lucchese et al.,
SIGIR 2015) with the work split by when its inputs are known.

A tree of at most 64 leaves is one 64-bit word: bit i says that leaf i can still be reached. Between two
neighbouring thresholds of a feature, all values exclude the same leaves in every tree, so each feature has one
table row per interval (a category is an interval too, NaN has a row of its own) with a word per tree. ANDing the
rows of all features leaves one bit per tree: the leaf LightGBM would have reached. AND is associative, hence

* `request_mask`: the rows of context and user, ANDed once per request;
* `campaign_masks`: those of campaign and creative, once per snapshot;
* `scores`: both ANDed with the few rows of the pair features, per candidate.

Finding the row of a value is one binary search for a whole side: `cuts` merges the thresholds of all its
features, `rows[feature, position in cuts]` is the table row. numpy sorts NaN behind +inf, which gives it its own
position for nothing. Memory: (thresholds + categories) x trees x 8 bytes, about 10 MB for 200 trees of 63 leaves.
"""

import logging
import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType

import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError

try:
    from models import _kernel
except ImportError:  # built without a compiler
    _kernel = None  # type: ignore[assignment]
KERNEL_VERSION = 3  # of the sources; a kernel built from others before is not called

log = logging.getLogger("tagbid.models")

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]

MAX_LEAVES = 64
ZERO = float(np.float32(1e-35))  # LightGBM's kZeroThreshold: prediction reads anything this small as 0
_CATEGORICAL, _DEFAULT_LEFT = 1, 2  # bits of decision_type; bits 2 and 3 are the missing type
_NONE, _NAN_IS_MISSING = 0, 2
_ALL = (1 << 64) - 1
_ONE = np.uint64(1)


def kernel() -> ModuleType | None:
    """The compiled inner loops, None where they were not built or `TAGBID_KERNEL=numpy` asks to do without."""
    if _kernel is None or os.environ.get("TAGBID_KERNEL") == "numpy":
        return None
    if getattr(_kernel, "VERSION", 1) != KERNEL_VERSION:
        log.warning("the compiled kernel is of another release and not used: install the package again to build it")
        return None
    return _kernel


class UnsupportedModel(TagbidError):
    """A model text that this scorer cannot represent exactly, so it is not scored at all."""


class _Node(msgspec.Struct, frozen=True, gc=False):
    """One split: which feature, how it decides, and which leaves a step to either side rules out."""

    tree: int
    feature: int
    threshold: float
    categories: tuple[int, ...] | None  # None: numeric
    default_left: bool
    nan_is_missing: bool
    left: int
    right: int


class _Side(msgspec.Struct, frozen=True):
    """The tables of the features known at one moment (request, campaign or pair).

    columns: the features the forest uses, in order. cuts: float64, ascending, the last is +inf.
    rows: intp, flat (used features x (cuts + 1)), row of `table` per feature and position.
    offsets: intp, start of each used feature in `rows`. table: uint64 (rows, trees).
    own: (cuts, first row) of each used column: what finds the row of one number fastest without C.
    """

    columns: tuple[int, ...]
    cuts: Floats
    rows: Rows
    offsets: Rows
    table: Masks
    own: dict[int, tuple[list[float], int]]

    def row(self, column: int, value: float) -> int:
        """The row of `table` for one value of a used column."""
        cuts, first = self.own[column]
        return first + (bisect_left(cuts, value) if value == value else len(cuts) + 1)


class Forest:
    """A compiled forest. Immutable and without shared buffers: snapshot threads and the event loop may share it.

    trees, n_features: sizes. The columns of a full matrix are request, campaign, pair in this order.
    """

    __slots__ = (
        "_c_pair",
        "_c_request",
        "_campaign",
        "_every_column",
        "_first_leaf",
        "_full",
        "_leaf_values",
        "_n_request",
        "_n_static",
        "_pair",
        "_request",
        "n_features",
        "trees",
    )

    def __init__(
        self,
        nodes: Sequence[_Node],
        leaf_values: Sequence[Sequence[float]],
        n_features: int,
        n_request: int,
        n_static: int,
    ) -> None:
        counts = [len(values) for values in leaf_values]
        self.trees = len(counts)
        self.n_features = n_features
        self._n_request, self._n_static = n_request, n_static
        self._every_column = tuple(range(n_request))
        self._leaf_values: Floats = np.array([value for values in leaf_values for value in values], dtype=np.float64)
        self._first_leaf: Rows = np.concatenate(([0], np.cumsum(counts[:-1], dtype=np.intp))).astype(np.intp)
        self._full: Masks = np.array([(1 << count) - 1 for count in counts], dtype=np.uint64)
        self._request = _compile(nodes, range(n_request), self._full)
        self._campaign = _compile(nodes, range(n_request, n_static), self._full)
        self._pair = _compile(nodes, range(n_static, n_features), self._full)
        compiled = kernel()
        self._c_request = None if compiled is None else _in_c(compiled, self._request, self.trees, n_request)
        self._c_pair = None if compiled is None else _in_c(compiled, self._pair, self.trees, n_features - n_static)

    @classmethod
    def from_model_text(cls, text: str, n_request: int, n_campaign: int) -> "Forest":
        """Compile the text LightGBM's `save_model` writes; the features after the first two sides are the pair side.

        Raises UnsupportedModel on anything that would not be scored exactly: more than 64 leaves, linear trees, zero
        as missing, several classes, averaged output, another link than the plain sigmoid, a cut-off file.
        """
        header, trees = _blocks(text)
        _check_header(header, len(trees))
        n_features = int(header["max_feature_idx"]) + 1
        if n_features < n_request + n_campaign:
            raise UnsupportedModel(f"the model has {n_features} features, fewer than {n_request} + {n_campaign}")
        nodes: list[_Node] = []
        leaf_values: list[list[float]] = []
        for number, block in enumerate(trees):
            try:
                leaf_values.append(_parse_tree(number, block, n_features, nodes))
            except (KeyError, ValueError, IndexError) as error:
                raise UnsupportedModel(f"tree {number} cannot be read: {error!r}") from None
        return cls(nodes, leaf_values, n_features, n_request, n_request + n_campaign)

    def request_mask(
        self, values: list[float], columns: tuple[int, ...] | None = None, other: Masks | None = None
    ) -> Masks:
        """values: the n_request request features, or those of some columns of them. Returns uint64 (trees,).

        Masks of parts, ANDed, are the mask of the whole; what is the same for many requests need be folded once.
        other: the mask of the other columns; it may be overwritten.
        """
        if columns is None:
            columns = self._every_column
        if len(columns) != len(values):
            raise ValueError(f"{len(columns)} floats are needed, not {len(values)}")
        if self._c_request is not None:
            folded = self._full.copy() if other is None else other
            self._c_request.fold(columns, values, folded)
            return folded
        side = self._request
        rows = [side.row(column, value) for column, value in zip(columns, values, strict=True) if column in side.own]
        return _and_rows(self._full if other is None else other, side, rows)

    def campaign_masks(self, X: Floats) -> Masks:
        """X: float64 (n, n_campaign), the campaign features. Returns uint64 (n, trees)."""
        return self._and(np.repeat(self._full[None, :], len(X), axis=0), self._campaign, X)

    def uses_pair(self, column: int) -> bool:
        """Whether any tree looks at a column of the pair side. column: its place on that side."""
        return column in self._pair.own

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
        self, request_mask: Masks, masks: Masks, candidates: list[int], pairs: list[float | list[float]]
    ) -> list[float]:
        """Raw scores of the candidates of one request; the bid path's call.

        masks: uint64 (ads, trees), `campaign_masks` of all ads. candidates: rows of it. pairs: for each pair feature a
        value that all candidates share, or a list of one for each: what is shared is looked up and ANDed once.
        In C the sum runs in the order of the trees, as LightGBM's does, so the scores are the same to the last bit.
        """
        if self._c_pair is not None:
            return self._c_pair.scores(request_mask, masks, candidates, pairs, self._leaf_values, self._first_leaf)
        side = self._pair
        shared, features, lists = [], [], []
        for feature, column in enumerate(side.columns):
            values = pairs[column]
            if isinstance(values, list):
                features.append(feature)
                lists.append(values)
            else:
                shared.append(side.row(column, values))
        found = masks.take(candidates, axis=0)
        found &= _and_rows(request_mask, side, shared)
        if lists:
            position = side.cuts.searchsorted(np.array(lists))
            position += side.offsets[features][:, None]
            for rows in side.rows.take(position, mode="clip"):
                found &= side.table.take(rows, axis=0, mode="clip")
        scores: list[float] = self._sums(found).tolist()
        return scores

    def scores(self, request_mask: Masks, campaign_masks: Masks, pair_X: Floats) -> Floats:
        """Raw scores of k candidates, float64 (k,): what Booster.predict(raw_score=True) gives, to 1e-12.

        campaign_masks: uint64 (k, trees), the candidates' rows of `campaign_masks`. pair_X: float64 (k, n_pair).
        request_mask: uint64 (trees,), or (k, trees) for candidates of several requests.
        """
        return self._sums(self._and(campaign_masks & request_mask, self._pair, pair_X))

    def _sums(self, masks: Masks) -> Floats:
        """masks: uint64 (k, trees), one bit left per tree; overwritten."""
        masks -= _ONE  # the number of zeros below the bit is the leaf
        leaves = np.bitwise_count(masks) + self._first_leaf
        values: Floats = self._leaf_values.take(leaves, mode="clip")
        total: Floats = np.add.reduce(values, axis=1)
        return total

    def predict(self, X: Floats) -> Floats:
        """Raw scores of full rows, float64 (n,), for checks and reports. X: float64 (n, n_features)."""
        request, static = self._n_request, self._n_static
        masks = self._and(self.campaign_masks(X[:, request:static]), self._request, X[:, :request])
        return self.scores(self._full, masks, X[:, static:])

    def _and(self, masks: Masks, side: _Side, X: Floats) -> Masks:
        """AND the rows of one side into `masks`, uint64 (n, trees), which is overwritten."""
        for rows in _rows(side, X).T:
            masks &= side.table.take(rows, axis=0, mode="clip")
        return masks


def sigmoid(scores: Floats) -> Floats:
    """Probabilities of raw scores of a binary model: 1 / (1 + exp(-score))."""
    return 1.0 / (1.0 + np.exp(-scores))


def probability(score: float) -> float:
    """`sigmoid` of one score.

    >>> probability(0.0), probability(-1e6)
    (0.5, 0.0)
    """
    return 1.0 / (1.0 + math.exp(-score)) if score > -700.0 else 0.0  # beyond that exp overflows


def _and_rows(mask: Masks, side: _Side, rows: list[int]) -> Masks:
    """A mask ANDed with some rows of a side's table."""
    if not rows:
        return mask
    found: Masks = np.bitwise_and.reduce(side.table.take(rows, axis=0), axis=0)
    found &= mask
    return found


def _in_c(compiled: ModuleType, side: _Side, trees: int, n_values: int) -> "_kernel.Side":
    columns = np.array(side.columns, dtype=np.intp)
    made: _kernel.Side = compiled.Side(columns, side.cuts, side.rows, side.offsets, side.table, trees, n_values)
    return made


def _rows(side: _Side, X: Floats) -> Rows:
    """Table rows of the used features of X: float64 (..., features) -> intp (..., used features)."""
    position = side.cuts.searchsorted(X.take(side.columns, axis=-1))
    position += side.offsets
    return side.rows.take(position, mode="clip")


def _blocks(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Header and trees of a model text as key-value blocks."""
    if not text.startswith("tree\n"):
        raise UnsupportedModel("not a LightGBM model in text form: the first line is not 'tree'")
    body, end, _ = text.partition("\nend of trees")
    if not end:
        raise UnsupportedModel("the model text is cut off: no 'end of trees'")
    head, *trees = body.split("\nTree=")
    return _pairs(head), [_pairs(tree) for tree in trees]


def _pairs(block: str) -> dict[str, str]:
    pairs = {}
    for line in block.splitlines():
        key, equals, value = line.partition("=")
        pairs[key] = value if equals else "present"
    return pairs


def _check_header(header: dict[str, str], trees: int) -> None:
    for key in ("num_class", "num_tree_per_iteration"):
        if header.get(key) != "1":
            raise UnsupportedModel(f"{key} is {header.get(key)}, only one score per row is supported")
    if "average_output" in header:
        raise UnsupportedModel("random forests (averaged output) are not supported; train with boosting=gbdt")
    if not header.get("max_feature_idx", "").isdigit():
        raise UnsupportedModel("max_feature_idx is missing")
    objective = header.get("objective", "").split()
    for word in objective[1:]:
        if word.startswith("sigmoid:") and float(word.removeprefix("sigmoid:")) != 1.0:
            raise UnsupportedModel(f"objective {' '.join(objective)!r}: only sigmoid:1 is supported")
    sizes = len(header.get("tree_sizes", "").split())
    if not trees or trees != sizes:
        raise UnsupportedModel(f"{trees} trees found, the header names {sizes}")


def _parse_tree(number: int, block: dict[str, str], n_features: int, nodes: list[_Node]) -> list[float]:
    """Append the splits of one tree to `nodes`; returns its leaf values (shrinkage and base score are in them)."""
    leaves = int(block["num_leaves"])
    if block.get("is_linear", "0") != "0":
        raise UnsupportedModel(f"tree {number} is linear; train with linear_tree=false")
    if leaves > MAX_LEAVES:
        raise UnsupportedModel(f"tree {number} has {leaves} leaves; train with num_leaves <= {MAX_LEAVES}")
    values = _floats(block["leaf_value"], leaves)
    if leaves == 1:
        return values
    splits = leaves - 1
    features, kinds = _ints(block["split_feature"], splits), _ints(block["decision_type"], splits)
    thresholds = _floats(block["threshold"], splits)
    children = _ints(block["left_child"], splits), _ints(block["right_child"], splits)
    sets = _category_sets(block) if int(block["num_cat"]) else []
    left, right = _reachable(number, *children)
    for feature, kind, threshold, below, above in zip(features, kinds, thresholds, left, right, strict=True):
        missing = kind >> 2 & 3
        if not 0 <= feature < n_features:
            raise UnsupportedModel(f"tree {number} splits on feature {feature} of {n_features}")
        if missing not in (_NONE, _NAN_IS_MISSING):
            raise UnsupportedModel(f"tree {number} treats zero as missing; train with zero_as_missing=false")
        categories = sets[int(threshold)] if kind & _CATEGORICAL else None
        nodes.append(
            _Node(number, feature, threshold, categories, bool(kind & _DEFAULT_LEFT), bool(missing), below, above)
        )
    return values


def _reachable(number: int, lefts: list[int], rights: list[int]) -> tuple[list[int], list[int]]:
    """Leaves below the left and the right child of every split, as bit masks; a child is a later split or ~leaf."""
    splits = len(lefts)
    below = [0] * splits
    sides: tuple[list[int], list[int]] = [0] * splits, [0] * splits
    for node in reversed(range(splits)):
        for side, child in zip(sides, (lefts[node], rights[node]), strict=True):
            if not (node < child < splits or 0 <= ~child <= splits):
                raise UnsupportedModel(f"tree {number}: split {node} has child {child}")
            side[node] = below[child] if child >= 0 else 1 << ~child
        below[node] = sides[0][node] | sides[1][node]
    if below[0] != (1 << splits + 1) - 1:
        raise UnsupportedModel(f"tree {number}: not every leaf can be reached")
    return sides


def _category_sets(block: dict[str, str]) -> list[tuple[int, ...]]:
    """Categories that go left, per categorical split: bits of 32-bit words between two boundaries."""
    bounds = [int(word) for word in block["cat_boundaries"].split()]
    words = [int(word) for word in block["cat_threshold"].split()]
    return [
        tuple(32 * i + bit for i, word in enumerate(words[start:end]) for bit in range(32) if word >> bit & 1)
        for start, end in pairwise(bounds)
    ]


def _floats(text: str, n: int) -> list[float]:
    return [float(word) for word in _words(text, n)]


def _ints(text: str, n: int) -> list[int]:
    return [int(word) for word in _words(text, n)]


def _words(text: str, n: int) -> list[str]:
    words = text.split()
    if len(words) != n:
        raise UnsupportedModel(f"{len(words)} values where {n} belong")
    return words


def _compile(nodes: Sequence[_Node], features: range, full: Masks) -> _Side:
    """Tables of one side. `features`: its columns in the full matrix. full: uint64 (trees,), all leaves."""
    of_feature: dict[int, list[_Node]] = {}
    for node in nodes:
        if node.feature in features:
            of_feature.setdefault(node.feature, []).append(node)
    used = sorted(of_feature)
    thresholds = [_cuts(of_feature[feature]) for feature in used]
    cuts = np.unique(np.concatenate([*thresholds, np.array([np.inf])]))
    tables: list[Masks] = []
    rows: list[Rows] = []
    own: dict[int, tuple[list[float], int]] = {}
    start = 0
    for feature, its in zip(used, thresholds, strict=True):
        tables.append(_table(of_feature[feature], its, full))
        # A position in the merged cuts lies inside one interval of the feature's own: that of its upper end.
        rows.append(np.concatenate((its.searchsorted(cuts), [len(its) + 1])) + start)
        own[feature - features.start] = its.tolist(), start
        start += len(its) + 2
    return _Side(
        columns=tuple(feature - features.start for feature in used),
        cuts=cuts,
        rows=np.concatenate(rows).astype(np.intp) if rows else np.empty(0, np.intp),
        offsets=np.arange(len(used), dtype=np.intp) * (len(cuts) + 1),
        table=np.concatenate(tables) if tables else np.empty((0, len(full)), np.uint64),
        own=own,
    )


def _cuts(nodes: Sequence[_Node]) -> Floats:
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


def _table(nodes: Sequence[_Node], cuts: Floats, full: Masks) -> Masks:
    """uint64 (len(cuts) + 2, trees): reachable leaves per interval, then above the last cut, then NaN."""
    values = np.concatenate((cuts, [np.inf, np.nan]))  # an interval decides as its upper end does
    values[np.isnan(values) | (np.abs(values) <= ZERO)] = (
        0.0  # a missing value counts as 0 unless the split says otherwise
    )
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
