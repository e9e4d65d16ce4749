"""What drives clicks or conversions, per campaign, in words an advertiser can use: the forest's SHAP values, summed up.

LightGBM's `pred_contrib` splits each row's score into exact additive parts, one per feature (Lundberg et al.,
TreeSHAP). Per campaign a feature's share is its mean absolute part; its effect is told by comparing rows: for numbers
the upper third of values against the lower third, for categories the best value against the campaign's mean, both as a
factor on the odds (of a model of amounts: on the amount). All of it is what goes together in the log, not proof of what
would happen if it were changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from models import features
from models.features import Category, Vocabulary

Floats = npt.NDArray[np.float64]

ROWS = 5_000  # explained at most; exact values cost a millisecond a row
TOP = 8
MIN_ROWS = 30  # behind every factor that is told


def by_campaign(
    booster: lightgbm.Booster, vocabulary: Vocabulary, X: Floats, campaigns: npt.NDArray[np.str_], seed: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """{campaign: its strongest features, each with share, effect in words and factor on the odds}."""
    picked = np.sort(np.random.default_rng(seed).permutation(len(X))[:ROWS])
    X, campaigns = X[picked], campaigns[picked]
    parts = np.asarray(booster.predict(X, pred_contrib=True, num_threads=1), dtype=np.float64)[:, :-1]
    return {
        str(name): _strongest(parts[campaigns == name], X[campaigns == name], vocabulary)
        for name in np.unique(campaigns)
        if (campaigns == name).sum() >= MIN_ROWS
    }


def _strongest(parts: Floats, X: Floats, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    weight = np.abs(parts).mean(axis=0)
    total = float(weight.sum()) or 1.0
    found = []
    for i in np.argsort(-weight, kind="stable")[:TOP]:
        if weight[i] > 0:
            text, factor = effect(parts[:, i], X[:, i], features.FEATURES[i].name, vocabulary)
            share = round(float(weight[i]) / total, 4)
            found.append({"feature": features.NAMES[i], "share": share, "effect": text, "odds": factor})
    return found


def effect(parts: Floats, values: Floats, name: str, vocabulary: Vocabulary) -> tuple[str, float | None]:
    """One feature's effect in words, and as a factor on the odds (or amount); None where too few rows could tell it."""
    known = ~np.isnan(values)
    if name in vocabulary.values:
        return _of_category(parts[known], values[known], float(parts.mean()), vocabulary.values[name])
    if known.sum() < 3 * MIN_ROWS:
        return "too few known values to tell", None
    low, high = np.quantile(values[known], (1 / 3, 2 / 3))
    lower, upper = parts[known & (values <= low)], parts[known & (values > high)]
    if len(upper) < MIN_ROWS:  # most values are one and the same
        low, upper = float(values[known].min()), parts[known & (values > values[known].min())]
        high, lower = low, parts[known & (values <= low)]
    if min(len(lower), len(upper)) < MIN_ROWS:
        return "the same for nearly all rows", None
    factor = round(float(np.exp(upper.mean() - lower.mean())), 3)
    return f"above {high:,.6g} against at most {low:,.6g}", factor


def _of_category(parts: Floats, codes: Floats, mean: float, values: Sequence[Category]) -> tuple[str, float | None]:
    best: tuple[float, str] | None = None
    for code in np.unique(codes):
        own = parts[codes == code]
        if len(own) >= MIN_ROWS and (best is None or float(own.mean()) > best[0]):
            best = float(own.mean()), str(values[int(code)])
    return (
        ("too few rows of any value to tell", None)
        if best is None
        else (
            f"{best[1]} against the average",
            round(float(np.exp(best[0] - mean)), 3),
        )
    )


def words(drivers: Mapping[str, Sequence[Mapping[str, Any]]], what: str = "the odds") -> dict[str, list[str]]:
    """One sentence per driver, for reports. what: is multiplied, "the odds" or "the amount"."""
    return {
        campaign: [
            f"{line['feature']}: {line['share']:.0%} of what decides"
            + ("" if line["odds"] is None else f"; {line['effect']} makes {what} {line['odds']:.2f} times as high")
            for line in lines
        ]
        for campaign, lines in drivers.items()
    }
