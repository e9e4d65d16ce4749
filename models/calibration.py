"""Raw probabilities -> calibrated ones, as at most 200 knots for `np.interp`.

Isotonic regression, beta calibration (Kull, Silva Filho & Flach, AISTATS 2017), Platt's two parameters, or leaving
the probabilities as they are: the simplest of those that predict held-out rows of the calibration slice best, within
one standard error. With few clicks that choice would be chance itself, so how many there are decides what may be
tried. All maps are shrunk towards the identity, so that a handful of clicks cannot bend them far and no score is told
to be impossible.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.evaluate import losses
from models.registry import MAX_KNOTS

Floats = npt.NDArray[np.float64]
Knots = tuple[Floats, Floats]

CHOICE_CLICKS = 300  # below, Platt without a choice
ISOTONIC_CLICKS = 1_000  # below, isotonic regression is not tried
FOLDS = 5
_GROUPS = 20_000  # of rows with neighbouring scores that the maps are fitted to
_SHRINK = 10.0  # weight of the identity, in units of the logistic loss's curvature
_EDGE = 1e-9


def fit(raw: Floats, clicks: Floats) -> tuple[list[float], list[float], str]:
    """Knots x, y (both ascending, probabilities) and the method's name. raw, clicks: float64 (n,)."""
    raw = np.clip(raw, _EDGE, 1 - _EDGE)
    method = _chosen(raw, clicks)
    x, y = _MAPS[method](*_grouped(raw, clicks))
    return x.tolist(), y.tolist(), method


def _chosen(raw: Floats, clicks: Floats) -> str:
    """The simplest method whose maps, fitted without a fifth of the rows, cost that fifth no more than the best's do.

    No more: the difference of the log loss is within its standard error.
    """
    total = clicks.sum()
    if total < CHOICE_CLICKS:
        return "platt"
    methods = [name for name in _MAPS if name != "isotonic" or total >= ISOTONIC_CLICKS]
    fold = np.arange(len(raw)) % FOLDS
    lost = {name: np.empty(len(raw)) for name in methods}
    for n in range(FOLDS):
        out = fold == n
        groups = _grouped(raw[~out], clicks[~out])
        for name in methods:
            x, y = _MAPS[name](*groups)
            lost[name][out] = losses(clicks[out], np.interp(raw[out], x, y))
    best = min(methods, key=lambda name: float(lost[name].sum()))
    for name in methods:
        more = lost[name] - lost[best]
        if more.sum() <= more.std() * len(raw) ** 0.5:
            return name
    return best


def _grouped(raw: Floats, clicks: Floats) -> tuple[Floats, Floats, Floats]:
    """(mean score, clicks, rows) of at most `_GROUPS` groups of rows, by ascending score.

    Rows of one score stay together: else rounding would put means of it in an order, and a map would find steps there.
    """
    order = np.argsort(raw, kind="stable")
    scores = raw[order]
    even = np.linspace(0, len(raw), min(len(raw), _GROUPS) + 1).astype(np.intp)[:-1]
    starts = np.unique(scores.searchsorted(scores[even]))
    rows = np.diff(np.append(starts, len(raw))).astype(np.float64)
    return np.add.reduceat(scores, starts) / rows, np.add.reduceat(clicks[order], starts), rows


def _as_it_is(scores: Floats, clicks: Floats, rows: Floats) -> Knots:
    ends = np.array([_EDGE, 1 - _EDGE])
    return ends, ends


def _by_order(scores: Floats, clicks: Floats, rows: Floats) -> Knots:
    """Isotonic regression, with one more row for every knot that says what the model says."""
    own = np.unique(scores[np.linspace(0, len(scores) - 1, MAX_KNOTS).astype(np.intp)])
    return isotonic(
        np.concatenate((scores, own)), np.concatenate((clicks, own)), np.concatenate((rows, np.ones(len(own))))
    )


def _beta(scores: Floats, clicks: Floats, rows: Floats) -> Knots:
    """Three parameters; Platt's two where those bend the map back."""
    grid, logits = _grid(scores)
    weights = _logistic(_design(logits, beta=True), clicks, rows)
    y = _sigmoid(_design(grid, beta=True) @ weights)
    return _platt(scores, clicks, rows) if (np.diff(y) < 0).any() else _ascending(_sigmoid(grid), y)


def _platt(scores: Floats, clicks: Floats, rows: Floats) -> Knots:
    grid, logits = _grid(scores)
    weights = _logistic(_design(logits, beta=False), clicks, rows)
    weights[1] = max(weights[1], 0.0)  # a model that ranks backwards says nothing, not the opposite
    return _ascending(_sigmoid(grid), _sigmoid(_design(grid, beta=False) @ weights))


_MAPS: dict[str, Callable[[Floats, Floats, Floats], Knots]] = {
    "none": _as_it_is,
    "platt": _platt,
    "beta": _beta,
    "isotonic": _by_order,
}
"""{method: fitted to groups of rows}, the simplest first."""


def _grid(scores: Floats) -> tuple[Floats, Floats]:
    """Logits of the knots, and of the scores."""
    logits = np.log(scores / (1 - scores))
    return np.linspace(logits.min() - 1, logits.max() + 1, MAX_KNOTS), logits


def _ascending(x: Floats, y: Floats) -> Knots:
    """Knots without those that rounding has put on the one before, or behind it."""
    x = np.maximum.accumulate(x)
    keep = np.concatenate(([True], np.diff(x) > 0))
    return x[keep], np.maximum.accumulate(y[keep])


def isotonic(x: Floats, y: Floats, rows: Floats | None = None) -> Knots:
    """Least-squares non-decreasing fit by pooling adjacent violators, thinned to MAX_KNOTS block centres.

    y: of each score, summed over its rows. rows: how many each stands for, None: one.
    """
    values, inverse = np.unique(x, return_inverse=True)
    counts = np.bincount(inverse, weights=rows)
    sums = np.bincount(inverse, weights=y)
    blocks: list[tuple[float, float, float]] = []  # clicks, rows, sum of x * rows
    for total, n, value in zip(sums.tolist(), counts.astype(float).tolist(), values.tolist(), strict=True):
        block = (total, n, value * n)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    centres = np.array([weighted / n for _, n, weighted in blocks])
    levels = np.array([total / n for total, n, _ in blocks])
    centres, levels = _ascending(centres, levels)
    if len(centres) > MAX_KNOTS:
        kept = np.unique(np.linspace(0, len(centres) - 1, MAX_KNOTS).astype(np.intp))
        centres, levels = centres[kept], levels[kept]
    return centres, levels


def _design(logits: Floats, *, beta: bool) -> Floats:
    """Columns 1, logit (Platt) or 1, ln p, -ln(1 - p) (beta); weights 0, 1(, 1) are the identity in both."""
    if not beta:
        return np.column_stack((np.ones_like(logits), logits))
    return np.column_stack((np.ones_like(logits), -np.logaddexp(0, -logits), np.logaddexp(0, logits)))


def _logistic(design: Floats, clicks: Floats, rows: Floats) -> Floats:
    """Newton's method for logistic regression with a ridge around the identity; the intercept is free.

    A step that would make things worse is halved until it does not: from far off, whole ones can go back and forth.
    """
    identity = np.ones(design.shape[1])
    identity[0] = 0.0
    ridge = np.full(design.shape[1], _SHRINK)
    ridge[0] = 1e-6
    weights = identity.copy()

    def cost(at: Floats) -> float:
        scores = design @ at
        return float(rows @ np.logaddexp(0, scores) - clicks @ scores + ridge @ (at - identity) ** 2 / 2)

    for _ in range(50):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (rows * p - clicks) + ridge * (weights - identity)
        curvature = (design * (rows * p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        now = cost(weights)
        while cost(weights - step) > now and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))
