"""The model card: what a person must know before trusting a model, as plain data (`models.card_page` draws it)."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt

from models import drift, drivers, evaluate, features, gate
from models.features import Vocabulary

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

SLICES = 40  # values of one kind that are listed, the most frequent
CURVE_BINS = 20

Outcome = Literal["click", "conversion", "value"]
"""What is predicted: "value" is an amount, the others are probabilities."""


class Judged(msgspec.Struct, frozen=True):
    """Test rows with what the model said of them. All line up.

    clicks: what happened, float64 (n,), 0 or 1; p: float64 (n,). about: {kind of slice: value per row}. users: int,
    equal for rows of one user.
    """

    clicks: Floats
    p: Floats
    about: Mapping[str, Texts]
    users: npt.NDArray[np.int64]


class Samples(msgspec.Struct, frozen=True):
    """Rows of the training and the test slice as matrices, a sample of each; campaigns: of the test rows."""

    train: Floats
    test: Floats
    campaigns: Texts


def curve(clicks: Floats, p: Floats, bins: int = CURVE_BINS) -> list[dict[str, float]]:
    """Predicted and observed click rate of equal-mass bins of the prediction, with the standard error of the latter."""
    order = np.argsort(p, kind="stable")
    found = []
    for part in np.array_split(order, bins):
        if len(part):
            rate, mean = float(clicks[part].mean()), float(p[part].mean())
            se = math.sqrt(max(mean * (1 - mean), 1e-12) / len(part))
            found.append({"predicted": mean, "observed": rate, "se": se, "rows": len(part)})
    return found


def slices(judged: Judged) -> dict[str, dict[str, dict[str, float | None]]]:
    """{kind: {value: rows, clicks, calibration with error, ne}}, the largest values of each kind."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for kind, values in judged.about.items():
        names, counts = np.unique(values, return_counts=True)
        found[kind] = {}
        for name in names[np.argsort(-counts, kind="stable")[:SLICES]]:
            own = values == name
            clicks, p = judged.clicks[own], judged.p[own]
            measured = evaluate.measure(clicks, p)
            ratio, se = gate.ratio_of(clicks, p) if measured.clicks else (None, None)
            found[kind][str(name)] = {
                "rows": measured.rows,
                "clicks": measured.clicks,
                "calibration": ratio,
                "calibration_se": se,
                "ne": measured.ne,
                "auc": measured.auc,
            }
    return found


def grouped_auc(judged: Judged) -> float | None:
    """AUC within users, weighted by their rows; None when no user has both a click and a row without."""
    order = np.argsort(judged.users, kind="stable")
    bounds = np.flatnonzero(np.diff(judged.users[order])) + 1
    total = weight = 0.0
    for part in np.split(order, bounds):
        clicks = judged.clicks[part]
        if 0 < clicks.sum() < len(part):
            ranked = evaluate.auc(clicks, judged.p[part])
            if ranked is not None:
                total += ranked[0] * len(part)
                weight += len(part)
    return total / weight if weight else None


def by_rate(judged: Judged) -> dict[str, Any]:
    """What only probabilities have: a calibration curve, and slices."""
    by_slice = slices(judged)
    return {
        "calibration_curve": curve(judged.clicks, judged.p),
        "test_by_campaign": by_slice.get("campaign", {}),
        "slices": by_slice,
    }


def importance(booster: lightgbm.Booster) -> dict[str, float]:
    """{feature: share of the total split gain}, falling; those that are never split on are left out."""
    gains = booster.feature_importance("gain")
    total = float(gains.sum()) or 1.0
    order = np.argsort(-gains, kind="stable")
    return {features.NAMES[i]: round(float(gains[i]) / total, 6) for i in order if gains[i] > 0}


def compose(
    *,
    purpose: str,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    test: Mapping[str, float],
    judged: Judged | None,
    samples: Samples,
    checks: list[gate.Check],
    booster: lightgbm.Booster,
    vocabulary: Vocabulary,
    parent: str,
    of: Outcome = "click",
) -> dict[str, Any]:
    """All of the card, JSON-able. judged: None for what predicts amounts: those have no rates to compare."""
    found = by_rate(judged) if judged is not None else {}
    return {
        "purpose": purpose,
        "of": of,
        "parent": parent,
        "data": dict(data),
        "model": {**model, "importance": importance(booster)},
        "test": {**test, **({} if judged is None else {"grouped_auc": grouped_auc(judged)})},
        **found,
        "drift": drift.by_feature(samples.train, samples.test),
        "missing": {"train": drift.missing(samples.train), "test": drift.missing(samples.test)},
        "drivers": drivers.by_campaign(booster, vocabulary, samples.test, samples.campaigns),
        "gate": [msgspec.to_builtins(check) for check in checks],
        "limits": [
            f"{of}s are seen on won impressions only; requests we lost are not represented",
            "standard errors treat impressions as independent; the comparison with the live model does not",
            "drivers are what goes together in the log, not proof of what causes it",
        ],
    }
