"""Raw probabilities -> calibrated ones, as at most 200 knots for `np.interp`.

By how many clicks the calibration slice holds: isotonic regression when they are many, else beta calibration
(Kull, Silva Filho & Flach, AISTATS 2017), else Platt's two parameters. The parametric maps are shrunk towards the
identity, so that a handful of clicks cannot bend them far.
"""

import numpy as np
import numpy.typing as npt

from models.registry import MAX_KNOTS

Floats = npt.NDArray[np.float64]

ISOTONIC_CLICKS = 2_000
BETA_CLICKS = 300
_SHRINK = 10.0  # weight of the identity, in units of the logistic loss's curvature
_EDGE = 1e-9


def fit(raw: Floats, clicks: Floats) -> tuple[list[float], list[float], str]:
    """Knots x, y (both ascending, probabilities) and the method's name. raw, clicks: float64 (n,)."""
    total = clicks.sum()
    raw = np.clip(raw, _EDGE, 1 - _EDGE)
    if total >= ISOTONIC_CLICKS:
        x, y = isotonic(raw, clicks)
        return x.tolist(), y.tolist(), "isotonic"
    logits = np.log(raw / (1 - raw))
    grid = np.linspace(logits.min() - 1, logits.max() + 1, MAX_KNOTS)
    if total >= BETA_CLICKS:
        y, method = _sigmoid(_design(grid, beta=True) @ _logistic(_design(logits, beta=True), clicks)), "beta"
        if (np.diff(y) < 0).any():
            y, method = _platt(grid, logits, clicks), "platt"
    else:
        y, method = _platt(grid, logits, clicks), "platt"
    x = _sigmoid(grid)
    keep = np.concatenate(([True], np.diff(x) > 0))
    return x[keep].tolist(), np.maximum.accumulate(y[keep]).tolist(), method


def isotonic(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Least-squares non-decreasing fit by pooling adjacent violators, thinned to MAX_KNOTS block centres."""
    values, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, weights=y)
    blocks: list[tuple[float, float, float]] = []  # clicks, rows, sum of x * rows
    for total, rows, value in zip(sums.tolist(), counts.tolist(), values.tolist(), strict=True):
        block = (total, float(rows), value * rows)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    centres = np.array([weighted / rows for _, rows, weighted in blocks])
    levels = np.array([total / rows for total, rows, _ in blocks])
    if len(centres) > MAX_KNOTS:
        kept = np.unique(np.linspace(0, len(centres) - 1, MAX_KNOTS).astype(np.intp))
        centres, levels = centres[kept], levels[kept]
    return centres, levels


def _platt(grid: Floats, logits: Floats, clicks: Floats) -> Floats:
    weights = _logistic(_design(logits, beta=False), clicks)
    weights[1] = max(weights[1], 0.0)  # a model that ranks backwards says nothing, not the opposite
    return _sigmoid(_design(grid, beta=False) @ weights)


def _design(logits: Floats, *, beta: bool) -> Floats:
    """Columns 1, logit (Platt) or 1, ln p, -ln(1 - p) (beta); weights 0, 1(, 1) are the identity in both."""
    if not beta:
        return np.column_stack((np.ones_like(logits), logits))
    return np.column_stack((np.ones_like(logits), -np.logaddexp(0, -logits), np.logaddexp(0, logits)))


def _logistic(design: Floats, clicks: Floats) -> Floats:
    """Newton's method for logistic regression with a ridge around the identity; the intercept is free."""
    identity = np.ones(design.shape[1])
    identity[0] = 0.0
    ridge = np.full(design.shape[1], _SHRINK)
    ridge[0] = 1e-6
    weights = identity.copy()
    for _ in range(50):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - clicks) + ridge * (weights - identity)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))
