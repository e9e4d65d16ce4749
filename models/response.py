"""The click model: rows -> LightGBM -> calibration -> judged on unseen rows -> published, or refused with a reason.

Split by time: the first 70 % of the impressions train, the next 15 % stop the boosting and calibrate, the last 15 %
judge. Sources without a usable time are judged by five-fold cross-validation instead, folds cut by a hash of the user
(of the row when the user is unknown), so that every click counts once; the model of the first fold is published.
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError
from models import calibration, evaluate, features, logistic, registry
from models.dataset import Rows
from models.evaluate import Gain, Metrics
from models.features import Vocabulary
from models.forest import sigmoid
from models.registry import Artefact

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]

KIND = "response"
SHARES = (0.70, 0.15)  # of time: training, validation; the rest tests
FOLDS = 5  # without time: one tests, one validates, three train
MIN_CLICKS = 20  # in the training slice
BLANK_SHARE = 0.1  # training rows that lose their user, so that contextual bids are scored by what was learnt for them
MAX_TREES = 400
PATIENCE = 30
GOLDEN_ROWS = 200
SEVERAL_THREADS_ROWS = 50_000  # below, threads waiting for each other on a busy machine cost more than they bring


class TooFewClicks(TagbidError):
    """There is nothing to learn from yet."""


class Report(msgspec.Struct, frozen=True):
    """What a training came to. All figures are of test rows, which nothing was fitted on.

    version: as published, None when the gate refused; refused: why, "" when it did not (a forced model has both).
    rows, clicks: training, validation, test. folds: 1 = one split by time; otherwise rows and clicks of training and
    validation are those of the published model, and the test is all folds together.
    over_base: log-loss gain against the constant click rate of the training slice; over_logistic: against the hashed
    logistic regression of `models.logistic`, calibrated the same way. method: of calibration.
    importance: share of the total split gain per feature, falling.
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


class Trained(msgspec.Struct, frozen=True):
    """A model fitted on a training slice and calibrated on a validation slice, with what it says of the test slice.

    test: positions of the test rows; X: their features; p, base, linear: their click probabilities by the model, by
    the training slice's click rate, by the logistic baseline.
    """

    booster: lightgbm.Booster
    vocabulary: Vocabulary
    knots_x: list[float]
    knots_y: list[float]
    method: str
    rows: tuple[int, int]
    clicks: tuple[int, int]
    test: Positions
    X: Floats
    p: Floats
    base: Floats
    linear: Floats


def train(
    rows: Rows,
    out_root: Path,
    *,
    now_us: int,
    force: bool = False,
    threads: int = 0,
    seed: int = 1,
    publish: bool = True,
) -> Report:
    """Train on rows, judge, and publish under `out_root` as the live "response" model unless the gate refuses.

    now_us: time of creation, part of the version. force: publish although refused. publish=False: only judge.
    threads: for large logs, 0 = all cores. The same rows, seed and number of threads give the same model.
    Raises TooFewClicks when there is nothing to learn from, BadArtefact when the model fails its own checks.
    """
    folds = [_fit(rows, split(rows, fold), threads, seed) for fold in range(1 if rows.timed else FOLDS)]
    judged = np.concatenate([fold.test for fold in folds])
    p = np.concatenate([fold.p for fold in folds])
    clicks = rows.clicks[judged]
    metrics = evaluate.measure(clicks, p)
    over_base = evaluate.gain(clicks, p, np.concatenate([fold.base for fold in folds]))
    refused = evaluate.refusal(over_base, metrics)
    first = folds[0]
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
        importance=_importance(first.booster),
    )
    if not publish or (refused and not force):
        return report
    golden = _golden(first.X, seed)
    artefact = Artefact(
        text=first.booster.model_to_string(),
        vocabulary=first.vocabulary,
        knots_x=first.knots_x,
        knots_y=first.knots_y,
        golden_rows=golden,
        golden_scores=np.asarray(first.booster.predict(golden, raw_score=True), dtype=np.float64),
        created_us=now_us,
        from_us=rows.items[0][3] if rows.timed else 0,
        to_us=rows.items[-1][3] if rows.timed else 0,
        rows=len(rows),
        positives=int(rows.clicks.sum()),
        metrics=_figures(report),
        card=_card(report, rows, first, judged, p),
        forced=bool(refused),
    )
    return msgspec.structs.replace(report, version=registry.publish(out_root, KIND, artefact))


def split(rows: Rows, fold: int = 0) -> tuple[Positions, Positions, Positions]:
    """Positions of the training, validation and test rows: by time (`fold` is ignored), else by a hash."""
    if rows.timed:
        first, second = int(len(rows) * SHARES[0]), int(len(rows) * (SHARES[0] + SHARES[1]))
        order = np.arange(len(rows))
        return order[:first], order[first:second], order[second:]
    names = [uid or key.encode() for uid, key in zip(rows.uids, rows.keys, strict=True)]
    parts = np.array([int.from_bytes(blake2b(name, digest_size=4).digest(), "little") % FOLDS for name in names])
    test, valid = parts == fold, parts == (fold + 1) % FOLDS
    return np.flatnonzero(~test & ~valid), np.flatnonzero(valid), np.flatnonzero(test)


def parameters(rows: int, clicks: int, threads: int = 0, seed: int = 1) -> dict[str, Any]:
    """LightGBM parameters by how many clicks there are to learn from: few clicks, small careful trees."""
    leaves, min_leaf, rate, share = (
        (63, 500, 0.05, 0.7) if clicks >= 10_000 else (31, 100, 0.05, 0.7) if clicks >= 2_000 else (7, 50, 0.02, 0.3)
    )
    return {
        "objective": "binary",
        "num_leaves": leaves,
        "min_data_in_leaf": max(2, min(min_leaf, rows // 20)),
        "learning_rate": rate,
        "feature_fraction": share,
        "lambda_l2": 5.0,
        "max_bin": 127,
        "min_data_per_group": min(100, max(2, rows // 20)),
        "cat_smooth": 20.0,
        "cat_l2": 20.0,
        "num_threads": threads if rows >= SEVERAL_THREADS_ROWS else 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _fit(rows: Rows, slices: tuple[Positions, Positions, Positions], threads: int, seed: int) -> Trained:
    clicks = [rows.clicks[part] for part in slices]
    if clicks[0].sum() < MIN_CLICKS or not all(len(part) for part in slices):
        raise TooFewClicks(
            f"{int(clicks[0].sum())} clicks in {len(slices[0])} training impressions, {MIN_CLICKS} are needed; "
            f"bid longer, or bid at the prior click rate until then"
        )
    vocabulary = features.fit_vocabulary([rows.items[i] for i in slices[0]])
    train, valid, test = (features.matrix(vocabulary, [rows.items[i] for i in part]) for part in slices)
    data = lightgbm.Dataset(
        _without_some_users(train, seed),
        clicks[0],
        feature_name=list(features.NAMES),
        categorical_feature=list(features.CATEGORICAL),
    )
    booster = lightgbm.train(
        parameters(len(train), int(clicks[0].sum()), threads, seed),
        data,
        num_boost_round=MAX_TREES,
        valid_sets=[data.create_valid(valid, clicks[1])],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    # Early stopping keeps the surplus trees; the artefact holds the best ones only.
    booster = lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    x, y, method = calibration.fit(_probabilities(booster, valid), clicks[1])
    return Trained(
        booster=booster,
        vocabulary=vocabulary,
        knots_x=x,
        knots_y=y,
        method=method,
        rows=(len(train), len(valid)),
        clicks=(int(clicks[0].sum()), int(clicks[1].sum())),
        test=slices[2],
        X=test,
        p=np.interp(_probabilities(booster, test), x, y),
        base=np.full(len(test), float(clicks[0].mean())),
        linear=_baseline([train, valid, test], clicks, seed),
    )


def _probabilities(booster: lightgbm.Booster, X: Floats) -> Floats:
    return sigmoid(np.asarray(booster.predict(X, raw_score=True), dtype=np.float64))


def _without_some_users(X: Floats, seed: int) -> Floats:
    """Blank the user in a share of the rows. Without any, LightGBM would read a missing user as zeros."""
    X = X.copy()
    blank = np.random.default_rng(seed).random(len(X)) < BLANK_SHARE
    X[np.ix_(blank, np.array(features.USER_COLUMNS))] = np.nan
    return X


def _baseline(parts: list[Floats], clicks: list[Floats], seed: int) -> Floats:
    """Test probabilities of the hashed logistic regression, calibrated like the model."""
    cuts = logistic.buckets(parts[0])
    slots = [logistic.tokens(part, features.CATEGORICAL, cuts) for part in parts]
    weights = logistic.fit(slots[0], clicks[0], slots[1], clicks[1], seed)
    x, y, _ = calibration.fit(logistic.predict(weights, slots[1]), clicks[1])
    return np.interp(logistic.predict(weights, slots[2]), x, y)


def _golden(test: Floats, seed: int) -> Floats:
    """Rows to prove scorers with: test rows, the same without users, and one of nothing but NaN."""
    picked = np.random.default_rng(seed).permutation(len(test))[:GOLDEN_ROWS]
    some = test[picked]
    contextual = some.copy()
    contextual[:, features.USER_COLUMNS] = np.nan
    return np.concatenate((some, contextual[:20], np.full((1, test.shape[1]), np.nan)))


def _importance(booster: lightgbm.Booster) -> dict[str, float]:
    gains = booster.feature_importance("gain")
    total = float(gains.sum()) or 1.0
    order = np.argsort(-gains, kind="stable")
    return {features.NAMES[i]: round(float(gains[i]) / total, 6) for i in order if gains[i] > 0}


def _figures(report: Report) -> dict[str, float]:
    measured = msgspec.structs.asdict(report.metrics)
    return {name: float(value) for name, value in measured.items() if value is not None} | {
        "log_loss_gain": report.over_base.value,
        "log_loss_gain_se": report.over_base.se,
        "gain_over_logistic": report.over_logistic.value,
        "gain_over_logistic_se": report.over_logistic.se,
    }


def _card(report: Report, rows: Rows, first: Trained, judged: Positions, p: Floats) -> Mapping[str, Any]:
    """The model card: what a person must know before trusting the model."""
    clicks = rows.clicks[judged]
    campaigns = np.array([rows.items[i][2].campaign for i in judged])
    slices = ("train", "validation", "test")
    return {
        "purpose": "probability that a won impression is clicked",
        "data": {
            "rows": dict(zip(slices, report.rows, strict=True)),
            "clicks": dict(zip(slices, report.clicks, strict=True)),
            "split": "time" if rows.timed else f"{report.folds} folds by hash",
            "read": rows.counts,
            "without_user": sum(user is None for _, user, _, _ in rows.items),
            "vocabulary": {name: len(values) for name, values in first.vocabulary.values.items()},
        },
        "model": {
            "trees": report.trees,
            "parameters": parameters(report.rows[0], report.clicks[0]),
            "calibration": report.method,
            "importance": report.importance,
        },
        "test": _figures(report),
        "test_by_campaign": {
            str(name): msgspec.to_builtins(evaluate.measure(clicks[campaigns == name], p[campaigns == name]))
            for name in np.unique(campaigns)
        },
        "gate": report.refused or "passed",
        "limits": [
            "clicks are seen on won impressions only; requests we lost are not represented",
            "standard errors treat impressions as independent",
        ],
    }
