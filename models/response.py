"""The click model: rows -> LightGBM -> calibration -> judged on unseen rows -> published, or refused with a reason.

Split by time: the last day judges, the day before it stops the boosting and calibrates, all earlier days train; logs of
less than five days are cut at 70 % and 85 % of their impressions. From `FEW_CLICKS` on the forest is then grown again
from training and validation rows, with as many trees (codes and rates stay those of the training rows, which the
models of `models.outcomes` share). Sources without a usable time are judged by five-fold cross-validation instead,
folds cut by a hash of the user (of the row when the user is unknown), so that every click counts once; the model of
the first fold is published.
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmp.errors import TagbidError
from models import boosting, calibration, card, drift, encoding, evaluate, features, frames, gate, logistic, registry
from models.artefacts import BadArtefact
from models.card import Judged, Samples
from models.dataset import Rows
from models.distributed import Team
from models.encoding import Encoder
from models.evaluate import Gain, Metrics
from models.forest import Forest, sigmoid
from models.frames import Frame
from models.gate import Check
from models.registry import Artefact

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.intp]

KIND = "response"
SHARES = (0.70, 0.15)  # of time: training, validation; the rest tests
FEW_CLICKS = 2_000  # below, the forest starts from a logistic regression
MOST_ROWS_OF_FEW = 500_000
WHOLE_DAYS = 5  # from here on whole days validate and test
FOLDS = 5  # without time: one tests, one validates, three train
MIN_CLICKS = 20  # in the training slice
GOLDEN_ROWS = 200
ABOUT = ("uid", "key", "campaign", "exchange", "hour")


class TooFewClicks(TagbidError):
    """There is nothing to learn from yet."""


class Report(msgspec.Struct, frozen=True):
    """What a training came to. All figures are of test rows, which nothing was fitted on.

    version: as published, None when the gate refused; refused: why, "" when it did not (a forced model has both).
    rows, clicks: training, validation, test. folds: 1 = one split by time; otherwise rows and clicks of training and
    validation are those of the published model, and the test is all folds together.
    over_base: log-loss gain against the constant click rate of the training slice; over_logistic: against the hashed
    logistic regression of `models.logistic`, calibrated the same way. method: of calibration.
    importance: share of the total split gain per feature, falling. checks: every rule of the gate with its number.
    """

    version: str | None
    refused: str
    folds: int
    rows: tuple[int, int, int]
    clicks: tuple[int, int, int]
    metrics: Metrics
    over_base: Gain
    over_logistic: Gain
    trees: int
    method: str
    importance: dict[str, float]
    checks: list[Check]


class Trained(msgspec.Struct, frozen=True):
    """A model fitted on a training slice and calibrated on a validation slice, with what it says of the test slice.

    slices: which rows trained, validated, test; p, base, linear: the click probabilities of the test rows by the
    model, by the training slice's click rate, by the logistic baseline. negatives: share of those that trained.
    again: whether the forest was grown again from training and validation rows.
    """

    booster: lightgbm.Booster
    encoder: Encoder
    knots_x: list[float]
    knots_y: list[float]
    method: str
    rows: tuple[int, int]
    clicks: tuple[int, int]
    slices: tuple[Bools, Bools, Bools]
    p: Floats
    base: Floats
    linear: Floats
    negatives: float
    again: bool


def train(
    rows: Rows | Frame,
    out_root: Path,
    *,
    now_us: int,
    force: bool = False,
    threads: int = 0,
    seed: int = 1,
    publish: bool = True,
    negatives: float | None = None,
    read: Mapping[str, int] | None = None,
    parity: tuple[int, int] | None = None,
    shadow: bool = False,
    team: Team = boosting.ALONE,
) -> Report:
    """Train on rows, judge, and publish under `out_root` as the live "response" model unless the gate refuses.

    now_us: time of creation, part of the version. force: publish although refused. publish=False: only judge.
    threads: for large logs, 0 = all cores. The same rows, seed and number of threads give the same model.
    negatives: share of the impressions without a click that train (`boosting.fit`), None for
    `boosting.share_of_negatives`. read: what was read, for the card.
    parity: logged rows that were checked, and how many of them differ (`models.parity`); None: not checked.
    shadow: make it the challenger instead of the live model; what the gate says of it is told, not obeyed.
    team: the processes that train; with few clicks there is nothing to share out, and this one trains alone.
    Raises TooFewClicks when there is nothing to learn from, BadArtefact when the model fails its own checks.
    """
    frame = rows if isinstance(rows, Frame) else frames.of_rows(rows)
    counts = dict(read or {}) if isinstance(rows, Frame) else rows.counts
    folds = [
        _fit(frame, split(frame, fold), threads, seed, negatives, team=team)
        for fold in range(1 if frame.timed else FOLDS)
    ]
    tested = np.concatenate([np.flatnonzero(fold.slices[2]) for fold in folds])
    p = np.concatenate([fold.p for fold in folds])
    clicks = frame.column("clicked").astype(np.float64)[tested]
    metrics = evaluate.measure(clicks, p)
    over_base = evaluate.gain(clicks, p, np.concatenate([fold.base for fold in folds]))
    first = folds[0]
    seen = judged(pa.table({name: frame.column(name)[tested] for name in ABOUT}), clicks, p)
    samples = sampled(frame, first.encoder, first.slices[0], first.slices[2])
    checks = [
        gate.over_base(over_base, metrics),
        gate.calibration(clicks, p, *gate.CALIBRATED, "predicted over observed clicks"),
        *gate.by_campaign(clicks, p, seen.about["campaign"]),
        *gate.by_chance(clicks, p, frame.column("chance")[tested]),
        *_drift(frame, first, samples),
        *gate.cost(_forest(first.booster), first.booster.model_to_string(), samples.test),
        *([] if parity is None else [gate.parity(*parity)]),
        *_against_live(frame, out_root, first, seen),
    ]
    refused = gate.refusal(checks)
    report = Report(
        version=None,
        refused=refused,
        folds=len(folds),
        rows=(*first.rows, metrics.rows),
        clicks=(*first.clicks, metrics.clicks),
        metrics=metrics,
        over_base=over_base,
        over_logistic=evaluate.gain(clicks, p, np.concatenate([fold.linear for fold in folds])),
        trees=first.booster.num_trees(),
        method=first.method,
        importance=card.importance(first.booster),
        checks=checks,
    )
    if not publish or (refused and not (force or shadow)):
        return report
    proof = golden(samples.test, seed)
    times = frame.column("time_us")
    artefact = Artefact(
        text=first.booster.model_to_string(),
        vocabulary=first.encoder.frozen(),
        knots_x=first.knots_x,
        knots_y=first.knots_y,
        golden_rows=proof,
        golden_scores=np.asarray(first.booster.predict(proof, raw_score=True), dtype=np.float64),
        created_us=now_us,
        from_us=int(times[0]) if frame.timed else 0,
        to_us=int(times[-1]) if frame.timed else 0,
        rows=len(frame),
        positives=int(frame.column("clicked").sum()),
        metrics=_figures(report),
        card=_card(report, frame, counts, first, seen, samples, registry.current(out_root, KIND) or ""),
        forced=bool(refused),
        judged_from_us=int(times[tested[0]]) if frame.timed else 0,
    )
    return msgspec.structs.replace(report, version=registry.publish(out_root, KIND, artefact, shadow=shadow))


def judged(table: pa.Table, clicks: Floats, p: Floats) -> Judged:
    """Test rows as the gate and the card look at them. table: `ABOUT` of each, clicks and p the same."""
    uids = [uid or key.encode() for uid, key in zip(*(table[n].to_pylist() for n in ("uid", "key")), strict=True)]
    users = np.unique(np.array(uids, dtype=object).astype("S64"), return_inverse=True)[1]
    hour = table["hour"].to_numpy()
    about = {name: table[name].to_numpy(zero_copy_only=False).astype(str) for name in ("campaign", "exchange")}
    about["hour"] = np.where(np.isnan(hour), "unknown", np.char.zfill(np.nan_to_num(hour).astype(int).astype(str), 2))
    return Judged(clicks=clicks, p=p, about=about, users=users)


def sampled(frame: Frame, encoder: Encoder, train: Bools, test: Bools) -> Samples:
    """Rows of the last part that trained and the first that tests, features as the model sees them."""
    lately = frame.starts()[int(np.flatnonzero([train[a:].any() for a in frame.starts()])[-1])]
    recent = train.copy()
    recent[: max(0, lately - frames.PART_ROWS)] = False
    matrices = [
        np.concatenate([encoder.matrix(part) for _, part in found])
        for found in (list(frames.chunks(frame, recent)), [next(frames.chunks(frame, test))])
    ]
    campaigns = next(frames.chunks(frame, test, ["campaign"]))[1]["campaign"].to_numpy(zero_copy_only=False)
    return Samples(train=matrices[0], test=matrices[1], campaigns=campaigns.astype(str))


def _forest(booster: lightgbm.Booster) -> Forest:
    return Forest.from_model_text(booster.model_to_string(), features.N_REQUEST, features.N_CAMPAIGN)


def _drift(frame: Frame, trained: Trained, samples: Samples) -> list[Check]:
    """Features and score that moved; a log of less than whole days moves by itself, so there it only warns."""
    scores = [trained.booster.predict(X, raw_score=True, num_threads=1) for X in (samples.train, samples.test)]
    score = drift.of_scores(*(np.asarray(found, dtype=np.float64) for found in scores))
    days = len(np.unique(frame.column("time_us") // frames.DAY_US)) if frame.timed else 0
    return gate.stability(drift.by_feature(samples.train, samples.test), score, blocks=days >= WHOLE_DAYS)


def _against_live(frame: Frame, root: Path, trained: Trained, seen: Judged) -> list[Check]:
    """The comparison with the live model, on test rows that are news to both; [] when there is none to compare with."""
    if not frame.timed:
        return []
    try:
        version = registry.current(root, KIND)
        live = None if version is None else registry.load(root, KIND, version)
    except BadArtefact as error:
        return [Check("the live model", f"unusable ({error})", "any", passed=True, blocks=False)]
    if live is None:
        return []
    test = trained.slices[2]
    times = frame.column("time_us")
    news = times[test] >= live.manifest.judged_from_us
    if seen.clicks[news].sum() < MIN_CLICKS:
        return []
    parts = [live.forest.predict(frames.matrix(live.vocabulary, part)) for _, part in frames.chunks(frame, test)]
    theirs = live.calibrate(sigmoid(np.concatenate(parts)))
    newer = int(times[-1]) >= live.manifest.to_us
    return [gate.against_live(seen.clicks[news], seen.p[news], theirs[news], seen.users[news], newer=newer)]


def split(frame: Frame, fold: int = 0) -> tuple[Bools, Bools, Bools]:
    """Which rows train, validate and test: by time (`fold` is ignored), else by a hash of the user.

    Over `WHOLE_DAYS` days or more the last day tests and the one before it validates: halves of one day differ by their
    hours, and a calibration learnt on the one was 8 % off on the other. Less is cut by `SHARES`.
    """
    n = len(frame)
    if frame.timed:
        days = frame.column("time_us") // frames.DAY_US
        found = np.unique(days)
        if len(found) >= WHOLE_DAYS:
            return days < found[-2], days == found[-2], days == found[-1]
        order = np.arange(n)
        first, second = int(n * SHARES[0]), int(n * (SHARES[0] + SHARES[1]))
        return order < first, (order >= first) & (order < second), order >= second
    names = [uid or key.encode() for uid, key in zip(frame.column("uid"), frame.column("key"), strict=True)]
    parts = np.array([int.from_bytes(blake2b(name, digest_size=4).digest(), "little") % FOLDS for name in names])
    test, valid = parts == fold, parts == (fold + 1) % FOLDS
    return ~test & ~valid, valid, test


def fitted(
    frame: Frame,
    *,
    seed: int = 1,
    threads: int = 0,
    baseline: bool = True,
    slices: tuple[Bools, Bools, Bools] | None = None,
    negatives: float | None = None,
) -> Trained:
    """The model of a timed frame, neither judged nor published.

    baseline: False to do without the logistic regression, whose predictions then are the base rate. slices: which rows
    train, validate and test; None for those of `split`. negatives: as in `train`.
    """
    return _fit(frame, split(frame) if slices is None else slices, threads, seed, negatives, baseline=baseline)


def _fit(
    frame: Frame,
    slices: tuple[Bools, Bools, Bools],
    threads: int,
    seed: int,
    negatives: float | None,
    *,
    baseline: bool = True,
    team: Team = boosting.ALONE,
) -> Trained:
    clicks = frame.column("clicked").astype(np.float64)
    weights = frame.column("weight")
    train, valid, test = slices
    few = clicks[train].sum() < FEW_CLICKS and negatives in (None, 1) and int(train.sum()) <= MOST_ROWS_OF_FEW
    if few:  # what starts from a regression takes no weights: of rows that weigh half, half train
        train = train & (frame.column("lot") < weights)
    positives = int(clicks[train].sum())
    if positives < MIN_CLICKS or not all(part.any() for part in slices):
        raise TooFewClicks(
            f"{positives} clicks in {int(train.sum())} training impressions, {MIN_CLICKS} are needed; "
            f"bid longer, or bid at the prior click rate until then"
        )
    all_codes = encoding.fit(frame, train)
    encoder = all_codes.without_rated()
    params = boosting.parameters(int(train.sum()), positives, threads, seed)
    weighted = bool((weights != 1).any())
    if negatives is None:
        negatives = boosting.share_of_negatives(int(train.sum()), positives)
    if few:
        booster = boosting.fit_few(frame, encoder, train, valid, clicks, params, seed)
    else:
        booster = boosting.fit(
            frame, encoder, train, valid, clicks, params,
            weights=weights if weighted else None, negatives=negatives, seed=seed,
            patience=boosting.tier(positives).patience, team=team,
        )  # fmt: skip
    raw = sigmoid(boosting.raw_scores(booster, frame, valid, encoder, threads))
    x, y, method = calibration.fit(raw, clicks[valid])
    if not few:
        # The newest day has said how many trees and which calibration; now it is learnt from, too: .05 and .09 % less
        # log loss in two worlds of ten million rows. The logistic baseline was given the same and was worse for it.
        booster = boosting.fit(
            frame, encoder, train | valid, valid, clicks, params,
            weights=weights if weighted else None, negatives=negatives, seed=seed,
            trees=booster.num_trees(), patience=0, team=team,
        )  # fmt: skip
    scored = sigmoid(boosting.raw_scores(booster, frame, test, encoder, threads))
    base = np.full(int(test.sum()), positives / int(train.sum()))
    return Trained(
        booster=booster,
        encoder=encoder,
        knots_x=x,
        knots_y=y,
        method=method,
        rows=(int(train.sum()), int(valid.sum())),
        clicks=(positives, int(clicks[valid].sum())),
        slices=slices,
        p=np.interp(scored, x, y),
        base=base,
        linear=logistic.baseline(frame, slices, all_codes, seed) if baseline else base,
        negatives=negatives,
        again=not few,
    )


def golden(test: Floats, seed: int) -> Floats:
    """Rows to prove scorers with: test rows, the same without users, and one of nothing but NaN."""
    picked = np.random.default_rng(seed).permutation(len(test))[:GOLDEN_ROWS]
    some = test[picked]
    contextual = some.copy()
    contextual[:, features.USER_COLUMNS] = np.nan
    return np.concatenate((some, contextual[:20], np.full((1, test.shape[1]), np.nan)))


def _figures(report: Report) -> dict[str, float]:
    return evaluate.told(report.metrics) | {
        "log_loss_gain": report.over_base.value,
        "log_loss_gain_se": report.over_base.se,
        "gain_over_logistic": report.over_logistic.value,
        "gain_over_logistic_se": report.over_logistic.se,
    }


def _card(
    report: Report,
    frame: Frame,
    read: Mapping[str, int],
    first: Trained,
    seen: Judged,
    samples: Samples,
    parent: str,
) -> Mapping[str, Any]:
    """The model card: what a person must know before trusting the model."""
    slices = ("train", "validation", "test")
    return card.compose(
        purpose="probability that a won impression is clicked",
        data={
            "rows": dict(zip(slices, report.rows, strict=True)),
            "clicks": dict(zip(slices, report.clicks, strict=True)),
            "split": "time" if frame.timed else f"{report.folds} folds by hash",
            "read": dict(read),
            "without_user": int(np.isnan(frame.column("user_tags")).sum()),
            "vocabulary": {name: len(values) for name, values in first.encoder.vocabulary.values.items()},
        },
        model={
            "trees": report.trees,
            "parameters": boosting.parameters(report.rows[0], report.clicks[0]),
            "negatives": first.negatives,
            "grown_from": "training and validation rows" if first.again else "training rows",
            "calibration": report.method,
        },
        test=_figures(report),
        judged=seen,
        samples=samples,
        checks=report.checks,
        booster=first.booster,
        vocabulary=first.encoder.vocabulary,
        parent=parent,
    )
