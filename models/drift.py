"""How far today's rows are from those a model learnt from: the population stability index, per feature and score.

`sum (a_i - e_i) ln(a_i / e_i)` over ten quantile bins of the training rows for numbers, over the twenty most frequent
values for categories; missing is a bin of its own. Above `WARN` look, above `BLOCK` do not promote.
"""

import math

import numpy as np
import numpy.typing as npt

from models import features

Floats = npt.NDArray[np.float64]

WARN, BLOCK = 0.1, 0.25
BINS, VALUES = 10, 20
_LEAST = 1e-4  # share of an empty bin, so that one new value does not make the index infinite

MOVING = frozenset({
    "hour", "weekday", "place_rate", "place_rows", "ad_rate", "ad_rows",
    "user_shown_24h", "shown_24h", "shown_7d", "hours_since_shown",
})  # fmt: skip
"""Features that differ between any two days by what they are: of the calendar, or counts that grow with the log."""


def stability(expected: Floats, actual: Floats, *, categorical: bool = False) -> float:
    """The index of one column; NaN is missing. Both float64, at least one row each.

    >>> round(stability(np.arange(1000.0), np.arange(1000.0)), 6)
    0.0
    """
    known = expected[~np.isnan(expected)]
    if categorical:
        values, counts = np.unique(known, return_counts=True)
        top = np.sort(values[np.argsort(-counts, kind="stable")[:VALUES]])

        def shares(column: Floats) -> Floats:
            there = column[~np.isnan(column)]
            at = np.searchsorted(top, there)
            hit = (at < len(top)) & (top[np.minimum(at, len(top) - 1)] == there) if len(top) else there != there
            return _shares([*np.bincount(at[hit], minlength=len(top)), int((~hit).sum())], column)

    else:
        cuts = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else np.empty(0)

        def shares(column: Floats) -> Floats:
            there = column[~np.isnan(column)]
            return _shares(np.bincount(np.searchsorted(cuts, there), minlength=len(cuts) + 1).tolist(), column)

    e, a = shares(expected), shares(actual)
    return float(((a - e) * np.log(a / e)).sum())


def _shares(counts: list[int], column: Floats) -> Floats:
    whole = np.array([*counts, int(np.isnan(column).sum())], dtype=np.float64)
    return np.maximum(whole / max(1, len(column)), _LEAST)


BLUR = 0.1  # of log-odds: a shift of scores by less is nothing anybody would bid differently for


def of_scores(expected: Floats, actual: Floats) -> float:
    """The index of raw scores (log-odds), blurred: scores of small forests lie in heaps, and a bin bound in the middle
    of a heap would make a large index of a tiny shift.
    """
    blurred = [
        part + np.random.default_rng([7, i]).normal(0, BLUR, len(part)) for i, part in enumerate((expected, actual))
    ]
    return stability(*blurred)


def by_feature(expected: Floats, actual: Floats) -> dict[str, float]:
    """{feature: index}, the largest first. expected, actual: matrices of `models.features`."""
    found = {
        feature.name: round(stability(expected[:, i], actual[:, i], categorical=feature.kind == "categorical"), 6)
        for i, feature in enumerate(features.FEATURES)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def missing(X: Floats) -> dict[str, float]:
    """{feature: share of rows without a value}; of a category that means unknown or never seen."""
    shares = np.isnan(X).mean(axis=0) if len(X) else np.full(X.shape[1], math.nan)
    return {name: round(float(share), 6) for name, share in zip(features.NAMES, shares, strict=True)}
