"""New leaf values for the trees of a forest, from rows it has not seen: evidence is weighed, not hours.

What the forest was grown on is remembered as a parabola round where it stands: n rows whose scores move by d lose
M d^2 / 2, where M is the sum of p (1 - p) over them, which LightGBM's text tells of every leaf (`leaf_weight`). So the
new scores minimise

    log loss of the new rows + sum over leaves of M d^2 / 2,

and a leaf with ten thousand rows behind it hardly moves for the two that reach it in an hour. It is done as trees are
grown, one after the other, a tenth of Newton's step each, from what those before have moved already (d):

    leaf += STEP (clicks - expected - M d) / (M + H + RIDGE),  H = sum of p (1 - p) over the new rows in the leaf.

The text then tells M + H, so the next refit goes on from there. M halves in a week, since worlds change. Negatives
that were left out of the training add nothing to M, as they told nothing.

A change of all click rates is one number and not a thousand leaves: before them, one constant takes up what all new
rows say against LEVEL of the forest's evidence, so it forgets about twenty times as fast, and leaves do not resist it.
"""

import lightgbm
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

HALF_LIFE_DAYS = 7.0  # of the evidence behind a leaf
LEVEL = 0.05  # share of that evidence which holds the level
STEP = 0.1
RIDGE = 5.0  # as in training, for leaves with little behind them
NEWTON_STEPS = 6
SURE = 1e-6  # no probability is taken to be nearer to 0 or 1


def refreshed(
    text: str, X: Floats, clicks: Floats, weights: Floats, chances: Floats, elapsed_days: float
) -> lightgbm.Booster:
    """The forest of a LightGBM text with leaves moved by new rows, X: (n, features).

    chances: what the forest says of them, calibrated. The calibration stays as it is, so leaves move by what is wrong
    after it and not before. elapsed_days: since the last row the forest knows. A leaf that no row reaches keeps its
    value but for the level.
    """
    forest = lightgbm.Booster(model_str=text)
    reached = np.asarray(forest.predict(X, pred_leaf=True, num_threads=1)).astype(np.int32).reshape(len(X), -1)
    chances = np.clip(chances, SURE, 1 - SURE)
    faded = 0.5 ** (elapsed_days / HALF_LIFE_DAYS)
    masses = [faded * found for found in evidence(text, float(np.mean(chances * (1 - chances))))]
    scores = np.log(chances / (1 - chances))
    level = _level(scores, clicks, weights, LEVEL * max(float(found.sum()) for found in masses))
    scores += level
    moved = np.zeros(len(X))
    for tree, mass in enumerate(masses):
        leaf = reached[:, tree]
        p = 1 / (1 + np.exp(-scores - moved))
        hessians = weights * p * (1 - p)
        told, short, pulled = (
            np.bincount(leaf, values, len(mass)) for values in (hessians, weights * (clicks - p), hessians * moved)
        )
        already = np.divide(pulled, told, out=np.zeros(len(mass)), where=told > 0)
        steps = STEP * (short - mass * already) / (mass + told + RIDGE)
        moved += steps[leaf]
        for number, step in enumerate(steps.tolist()):
            by = step + (level if tree == 0 else 0.0)
            if by:
                forest.set_leaf_output(tree, number, forest.get_leaf_output(tree, number) + by)
        masses[tree] = mass + told
    return lightgbm.Booster(model_str=_with_evidence(forest.model_to_string(), masses))


def evidence(text: str, row: float) -> list[Floats]:
    """M of every leaf, by tree. row: p (1 - p) of a row in the mean.

    The trees of a regression the forest starts from (`models.starting`) were fitted to squares: they count each row
    twice, with its user and without, where others sum p (1 - p).
    """
    lines = [line.partition("=") for line in text.splitlines()]
    sizes, weights, counts = (
        [value for name, _, value in lines if name == wanted] for wanted in ("num_leaves", "leaf_weight", "leaf_count")
    )
    found = []
    for size, weight, count in zip(sizes, weights, counts, strict=True):
        mass = np.array(weight.split(), dtype=np.float64) if weight else np.zeros(int(size))
        # Not to the last digit: LightGBM writes 15.999999999999998 for 16.
        counted = np.allclose(mass, np.array(count.split(), dtype=np.float64), rtol=1e-9, atol=0.0)
        found.append(mass * row / 2 if counted else mass)
    return found


def _level(scores: Floats, clicks: Floats, weights: Floats, held: float) -> float:
    """B that minimises the log loss of scores + b, plus held * b^2 / 2: Newton's steps."""
    level = 0.0
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-scores - level))
        slope = float(np.sum(weights * (clicks - p))) - held * level
        level += slope / (float(np.sum(weights * p * (1 - p))) + held)
    return level


def _with_evidence(text: str, masses: list[Floats]) -> str:
    """The text telling these masses. Without its sizes in bytes, which no longer hold and which LightGBM can miss."""
    rest = iter(masses)
    lines = (line for line in text.split("\n") if not line.startswith("tree_sizes="))
    return "\n".join(
        "leaf_weight=" + " ".join(f"{mass:.17g}" for mass in next(rest).tolist())
        if line.startswith("leaf_weight=")
        else line
        for line in lines
    )
