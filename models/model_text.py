"""The text LightGBM's `save_model` writes, read into the splits and leaf values of its trees, or refused."""

from itertools import pairwise
from math import isinf, isnan

import msgspec

from dmp.errors import TagbidError

MAX_LEAVES = 64
_CATEGORICAL, _DEFAULT_LEFT = 1, 2  # bits of decision_type; bits 2 and 3 are the missing type
_NONE, _NAN_IS_MISSING = 0, 2


class UnsupportedModel(TagbidError):
    """A model text that this scorer cannot represent exactly, so it is not scored at all."""


class Node(msgspec.Struct, frozen=True, gc=False):
    """One split: which feature, how it decides, and which leaves a step to either side rules out."""

    tree: int
    feature: int
    threshold: float
    categories: tuple[int, ...] | None  # None: numeric
    default_left: bool
    nan_is_missing: bool
    left: int
    right: int


class Trees(msgspec.Struct, frozen=True):
    """A forest as its text has it. nodes: all splits. leaf_values: by tree. n_features: columns of its rows."""

    nodes: list[Node]
    leaf_values: list[list[float]]
    n_features: int


def read(text: str) -> Trees:
    """The trees of a model text.

    Raises UnsupportedModel on anything that would not be scored exactly: more than 64 leaves, linear trees, zero as
    missing, several classes, averaged output, another link than the plain sigmoid, a cut-off file.
    """
    header, trees = _blocks(text)
    try:
        _check_header(header, len(trees))
        n_features = int(header["max_feature_idx"]) + 1
    except ValueError as error:
        raise UnsupportedModel(f"the header cannot be read: {error}") from None
    nodes: list[Node] = []
    leaf_values: list[list[float]] = []
    for number, block in enumerate(trees):
        try:
            leaf_values.append(_parse_tree(number, block, n_features, nodes))
        except (KeyError, ValueError, IndexError) as error:
            raise UnsupportedModel(f"tree {number} cannot be read: {error!r}") from None
    return Trees(nodes, leaf_values, n_features)


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


def _parse_tree(number: int, block: dict[str, str], n_features: int, nodes: list[Node]) -> list[float]:
    """Append the splits of one tree to `nodes`; returns its leaf values (shrinkage and base score are in them).

    Leaves are counted from left to right, so that leaves that few splits tell apart are neighbours in memory: the
    candidates of a request end in such.
    """
    leaves = int(block["num_leaves"])
    if block.get("is_linear", "0") != "0":
        raise UnsupportedModel(f"tree {number} is linear; train with linear_tree=false")
    if leaves > MAX_LEAVES:
        raise UnsupportedModel(f"tree {number} has {leaves} leaves; train with num_leaves <= {MAX_LEAVES}")
    values = _floats(block["leaf_value"], leaves)
    if any(map(isinf, values)):
        raise UnsupportedModel(f"tree {number} has a leaf without bounds: the training went wrong")
    if leaves == 1:
        return values
    splits = leaves - 1
    features, kinds = _ints(block["split_feature"], splits), _ints(block["decision_type"], splits)
    thresholds = _floats(block["threshold"], splits)
    children = _ints(block["left_child"], splits), _ints(block["right_child"], splits)
    sets = _category_sets(block) if int(block["num_cat"]) else []
    _reachable(number, *children)  # no cycle, nothing left out
    order = _in_order(*children)
    place = {leaf: i for i, leaf in enumerate(order)}
    left, right = _reachable(number, *([c if c >= 0 else ~place[~c] for c in side] for side in children))
    for feature, kind, threshold, below, above in zip(features, kinds, thresholds, left, right, strict=True):
        missing = kind >> 2 & 3
        if not 0 <= feature < n_features:
            raise UnsupportedModel(f"tree {number} splits on feature {feature} of {n_features}")
        if missing not in (_NONE, _NAN_IS_MISSING):
            raise UnsupportedModel(f"tree {number} treats zero as missing; train with zero_as_missing=false")
        if kind & _CATEGORICAL and not 0 <= threshold < len(sets):
            raise UnsupportedModel(f"tree {number} has no categories {threshold:g}")
        categories = sets[int(threshold)] if kind & _CATEGORICAL else None
        nodes.append(
            Node(number, feature, threshold, categories, bool(kind & _DEFAULT_LEFT), bool(missing), below, above)
        )
    return [values[leaf] for leaf in order]


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


def _in_order(lefts: list[int], rights: list[int]) -> list[int]:
    """The leaves of a sound tree from left to right."""
    order: list[int] = []
    ahead = [0]
    while ahead:
        node = ahead.pop()
        if node < 0:
            order.append(~node)
        else:
            ahead += (rights[node], lefts[node])
    return order


def _category_sets(block: dict[str, str]) -> list[tuple[int, ...]]:
    """Categories that go left, per categorical split: bits of 32-bit words between two boundaries."""
    bounds = [int(word) for word in block["cat_boundaries"].split()]
    words = [int(word) for word in block["cat_threshold"].split()]
    return [
        tuple(32 * i + bit for i, word in enumerate(words[start:end]) for bit in range(32) if word >> bit & 1)
        for start, end in pairwise(bounds)
    ]


def _floats(text: str, n: int) -> list[float]:
    values = [float(word) for word in _words(text, n)]
    if any(map(isnan, values)):
        raise UnsupportedModel("nan where a number belongs: the training went wrong")
    return values


def _ints(text: str, n: int) -> list[int]:
    return [int(word) for word in _words(text, n)]


def _words(text: str, n: int) -> list[str]:
    words = text.split()
    if len(words) != n:
        raise UnsupportedModel(f"{len(words)} values where {n} belong")
    return words
