"""What comes after an impression: conversions of clicks, conversions of views without a click, and what they are worth.

All three share vocabulary and rates with the click model of the same training, so that a bid fills its features once:

    value of an impression = p q V + (1 - p) w V;  p click, q, w conversion of a click, of a view, V its value

A click that has not converted yet is no "no": its label is the probability that it still will (`models.delay`, two
EM passes, cross entropy on soft labels). It is judged by what can be known: the conversions so far against q G(age).
Values follow Tweedie's distribution with a log link, winsorised at the 99.5th percentile of the training rows.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models import boosting, calibration, card, delay, encoding, evaluate, frames, gate, registry, response
from models.encoding import Encoder
from models.evaluate import Gain
from models.forest import sigmoid
from models.frames import Frame
from models.gate import Check
from models.registry import Artefact

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Kind = Literal["conversion", "view", "value"]
KINDS: tuple[Kind, ...] = ("conversion", "view", "value")
PURPOSE = {
    "conversion": "probability that a click converts within the window",
    "view": "probability that an impression converts without a click",
    "value": "value of a conversion, in the accounting currency",
}
MIN_POSITIVES = 50
WINSOR = 0.995
TWEEDIE = 1.5  # variance power: between counts (1) and gamma (2)
WINDOW_S = {"conversion": 7 * 86_400.0, "view": 86_400.0}


class Outcome(msgspec.Struct, frozen=True):
    """What the training of one kind came to; version: None when there was too little, or the gate refused (`why`).

    rows, positives: of training. gain: in deviance over a constant, on the test rows, None when nothing was trained.
    """

    kind: Kind
    version: str | None
    why: str
    rows: int
    positives: int
    gain: Gain | None = None


def train(
    frame: Frame, root: Path, kind: Kind, *, now_us: int, until_us: int, threads: int = 1, force: bool = False
) -> Outcome:
    """Train one kind, judge it, publish it as the live model of that kind unless the gate refuses.

    until_us: when the log ends, which the age of a click is counted to.
    """
    slices = response.split(frame)
    encoder = encoding.fit(frame, slices[0]).without_rated()
    converted = frame.column("converted_us") > 0
    clicked = frame.column("clicked")
    eligible = {"conversion": clicked, "view": ~clicked, "value": converted}[kind]
    train_rows, valid, test = (part & eligible for part in slices)
    positives = int((train_rows & converted).sum())
    if positives < MIN_POSITIVES or not (valid & converted).any() or not (test & converted).any():
        why = f"{positives} conversions in training, {MIN_POSITIVES} and some later ones are needed"
        return Outcome(kind, None, why, int(train_rows.sum()), positives)
    fit = _value if kind == "value" else _chance
    made = fit(frame, encoder, (train_rows, valid, test), kind, until_us, threads)
    booster, knots, gained, checks = made.booster, made.knots, made.gained, made.checks
    refused = gate.refusal(checks)
    if refused and not force:
        return Outcome(kind, None, refused, int(train_rows.sum()), positives, gained)
    golden = next(frames.chunks(frame, test))[1]
    X = frames.matrix(encoder.frozen(), golden)[: response.GOLDEN_ROWS]
    times = frame.column("time_us")
    artefact = Artefact(
        text=booster.model_to_string(),
        vocabulary=encoder.frozen(),
        knots_x=knots[0],
        knots_y=knots[1],
        golden_rows=X,
        golden_scores=np.asarray(booster.predict(X, raw_score=True, num_threads=1), dtype=np.float64),
        created_us=now_us,
        from_us=int(times[0]),
        to_us=int(times[-1]),
        rows=int(eligible.sum()),
        positives=int((eligible & converted).sum()),
        metrics={"gain": gained.value, "gain_se": gained.se},
        card=_card(frame, encoder, (train_rows, valid, test), kind, made, registry.current(root, kind) or ""),
        forced=bool(refused),
        judged_from_us=int(times[np.flatnonzero(test)[0]]),
        link="log" if kind == "value" else "logit",
    )
    version = registry.publish(root, kind, artefact)
    return Outcome(kind, version, refused, int(train_rows.sum()), positives, gained)


class Fitted(msgspec.Struct, frozen=True):
    """A model of one kind. truth, said: of the test rows, what had happened by the log's end and what was predicted."""

    booster: lightgbm.Booster
    knots: tuple[list[float], list[float]]
    gained: Gain
    checks: list[Check]
    truth: Floats
    said: Floats


def _card(
    frame: Frame, encoder: Encoder, slices: tuple[Bools, Bools, Bools], kind: Kind, made: Fitted, parent: str
) -> Mapping[str, Any]:
    """The model card of one kind."""
    train_rows, _, test = slices
    figures = {"deviance_gain" if kind == "value" else "log_loss_gain": made.gained.value, "gain_se": made.gained.se}
    seen = None
    if kind == "value":
        figures |= {"mean_predicted": float(made.said.mean()), "mean_observed": float(made.truth.mean())}
    else:
        about = pa.table({name: frame.column(name)[test] for name in response.ABOUT})
        seen = response.judged(about, made.truth, made.said)
        measured = evaluate.told(evaluate.measure(made.truth, made.said))
        figures |= {"conversions" if name == "clicks" else name: value for name, value in measured.items()}
    names = ("train", "validation", "test")
    return card.compose(
        purpose=PURPOSE[kind],
        data={"rows": {name: int(part.sum()) for name, part in zip(names, slices, strict=True)}},
        model={"trees": made.booster.num_trees()},
        test=figures,
        judged=seen,
        samples=response.sampled(frame, encoder, train_rows, test),
        checks=made.checks,
        booster=made.booster,
        vocabulary=encoder.vocabulary,
        parent=parent,
        of="value" if kind == "value" else "conversion",
    )


def _chance(
    frame: Frame, encoder: Encoder, slices: tuple[Bools, Bools, Bools], kind: Kind, until_us: int, threads: int
) -> Fitted:
    """A conversion probability on soft labels."""
    train_rows, valid, test = slices
    used = train_rows | valid | test
    started_us = frame.column("clicked_us" if kind == "conversion" else "shown_us").astype(np.float64)
    converted_us = frame.column("converted_us").astype(np.float64)
    converted = converted_us > 0
    delay_s = np.where(converted, (converted_us - started_us) / 1e6, np.nan)
    age_s = np.maximum(0.0, (until_us - started_us) / 1e6)
    campaigns = frame.column("campaign").astype(str)
    verticals = frame.column("ad_category").astype(str)
    window_s = WINDOW_S[kind]
    learnt = train_rows | valid
    delays = delay.fit(delay_s[learnt], age_s[learnt], campaigns[learnt].tolist(), verticals[learnt].tolist(), window_s)
    g = np.ones(len(frame))
    g[used] = delay.elapsed(delays, campaigns[used].tolist(), verticals[used].tolist(), age_s[used])
    q = np.full(len(frame), min(0.99, float(converted[learnt].sum()) / max(float(g[learnt].sum()), 1.0)))
    positives = int((train_rows & converted).sum())
    params = boosting.parameters(int(train_rows.sum()), positives, threads) | {"objective": "cross_entropy"}
    patience = boosting.tier(positives).patience
    weights = frame.column("weight")
    for _ in range(delay.PASSES):
        labels = np.where(converted, 1.0, delay.still_to_come(q, g))
        booster = boosting.fit(
            frame, encoder, train_rows, valid, labels, params,
            weights=weights if (weights != 1).any() else None, patience=patience,
        )  # fmt: skip
        q[used] = sigmoid(boosting.raw_scores(booster, frame, used, encoder, threads))
    x, y, _ = calibration.fit(q[valid], labels[valid])
    so_far = np.interp(q[test], x, y) * g[test]
    truth = converted[test].astype(np.float64)
    constant = np.full(len(truth), float(labels[learnt].mean())) * g[test]
    gained = evaluate.gain(truth, so_far, constant)
    checks = [
        gate.over_base(gained, evaluate.measure(truth, so_far)),
        gate.calibration(truth, so_far, *gate.CALIBRATED, "predicted over observed conversions so far"),
    ]
    return Fitted(booster, (x, y), gained, checks, truth, so_far)


def _value(
    frame: Frame, encoder: Encoder, slices: tuple[Bools, Bools, Bools], kind: Kind, until_us: int, threads: int
) -> Fitted:
    """The value of a conversion, in units of the currency."""
    train_rows, valid, test = slices
    value = frame.column("value_micros").astype(np.float64) / 1e6
    capped = np.minimum(value, np.quantile(value[train_rows], WINSOR))
    rows = int(train_rows.sum())
    params: dict[str, Any] = boosting.parameters(rows, rows, threads)
    params |= {"objective": "tweedie", "tweedie_variance_power": TWEEDIE, "metric": "tweedie"}
    patience = boosting.tier(rows).patience
    booster = boosting.fit(frame, encoder, train_rows, valid, capped, params, patience=patience)
    expected = np.exp(boosting.raw_scores(booster, frame, valid, encoder, threads))
    boosting.shift(booster, math.log(max(float(capped[valid].sum()), 1e-9) / float(expected.sum())))
    predicted = np.exp(boosting.raw_scores(booster, frame, test, encoder, threads))
    constant = np.full(len(predicted), float(capped[train_rows].mean()))
    theirs, ours = deviance(capped[test], constant), deviance(capped[test], predicted)
    difference, mean = theirs - ours, float(theirs.mean())
    se = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    gained = Gain(float(difference.mean()) / mean, se / mean)
    passed = gained.value > evaluate.GATE_Z * gained.se
    check = Check("deviance gain over the mean value", f"{gained.value:+.2%} +- {gained.se:.2%}", "above none", passed)
    return Fitted(booster, ([], []), gained, [check], capped[test], predicted)


def deviance(value: Floats, expected: Floats) -> Floats:
    """Tweedie's unit deviance of power TWEEDIE, per row; value >= 0, expected > 0.

    >>> deviance(np.array([4.0]), np.array([4.0])).round(9).tolist()
    [0.0]
    """
    p = TWEEDIE
    return 2 * (
        np.power(value, 2 - p) / ((1 - p) * (2 - p))
        - value * np.power(expected, 1 - p) / (1 - p)
        + np.power(expected, 2 - p) / (2 - p)
    )
