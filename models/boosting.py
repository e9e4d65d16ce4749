"""LightGBM over frames: rows stream from disk into the binned data set, so memory is that of the bins, not of a matrix.

LightGBM samples rows for its bin bounds, then takes all rows batch by batch; each asks for positions in ascending
order, so one decoded part at a time is enough.
"""

from collections.abc import Callable, Mapping
from typing import Any

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models import distributed, features, frames, starting
from models.distributed import Team
from models.encoding import Encoder

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SEVERAL_THREADS_ROWS = 50_000  # below, threads waiting for each other on a busy machine cost more than they bring
BLANK_SHARE = 0.1  # training rows that lose their user, so that contextual bids are scored by what was learnt for them
MAX_TREES = 400
PATIENCE = 100
PLENTY_CLICKS = 100_000  # from here on not data but what features can tell is the limit
NEGATIVES_A_CLICK = 5
ALONE = Team()


class Tier(msgspec.Struct, frozen=True):
    """How boldly to learn. features: the share of them a tree sees. patience: trees without a gain that end it."""

    leaves: int
    leaf_rows: int
    rate: float
    features: float
    patience: int


TIERS: tuple[tuple[int, Tier], ...] = (
    # In the world's ten million rows 205 trees; with bolder steps or fewer features more trees, .1 % more log loss.
    # A gain is sure and often late there: patience of 30 left it with 118 trees, .14 % worse than 328.
    (PLENTY_CLICKS, Tier(63, 1_000, 0.07, 0.7, PATIENCE)),
    # Of features that say much the same, a tree that sees fewer finds pairs that matter: .1 % at 1.2 million rows.
    (10_000, Tier(63, 1_000, 0.05, 0.4, PATIENCE)),
    (2_000, Tier(31, 100, 0.05, 0.7, PATIENCE)),
    # A few clicks judge so roughly that the best of many trees is one of luck.
    (0, Tier(7, 50, 0.02, 0.3, 30)),
)
"""(positives from which on, how to learn from so many)."""


def tier(positives: int) -> Tier:
    """How to learn from so many positives: few, and trees are small and careful.

    >>> tier(1_999).patience, tier(2_000).patience
    (30, 100)
    """
    return next(found for least, found in TIERS if positives >= least)


class _Part(lightgbm.Sequence):
    """The kept rows of one part of a frame; `cache` is shared by all parts and holds one matrix."""

    batch_size = frames.PART_ROWS

    def __init__(self, rows: int, load: Callable[[], Floats], cache: dict[str, Any]) -> None:
        self._rows, self._load, self._cache = rows, load, cache

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: Any) -> Floats:
        if self._cache.get("owner") is not self:
            self._cache.clear()
            self._cache.update(owner=self, X=self._load())
        found: Floats = self._cache["X"][index]
        return found


def sequences(frame: frames.Frame, keep: Bools, encoder: Encoder, blank_seed: int | None = None) -> list[_Part]:
    """The rows `keep` marks as LightGBM takes them. blank_seed: blank the user in a share of the rows."""
    cache: dict[str, Any] = {}

    def part(start: int, size: int, load: Callable[[Any], pa.Table]) -> _Part:
        mask = keep[start : start + size].copy()

        def matrix() -> Floats:
            table = load(None)
            X = encoder.matrix(table if mask.all() else table.filter(pa.array(mask)))
            if blank_seed is not None:
                blank = np.random.default_rng([blank_seed, start]).random(len(X)) < BLANK_SHARE
                X[np.ix_(blank, np.array(features.USER_COLUMNS))] = np.nan
            return X

        return _Part(int(mask.sum()), matrix, cache)

    return [
        part(start, size, load)
        for start, size, load in zip(frame.starts(), frame.sizes, frame.parts, strict=True)
        if keep[start : start + size].any()
    ]


def parameters(rows: int, positives: int, threads: int = 0, seed: int = 1) -> dict[str, Any]:
    """LightGBM parameters by how many positives there are to learn from (`TIERS`)."""
    found = tier(positives)
    return {
        "objective": "binary",
        "num_leaves": found.leaves,
        "min_data_in_leaf": max(2, min(found.leaf_rows, rows // 20)),
        "learning_rate": found.rate,
        "feature_fraction": found.features,
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


def share_of_negatives(rows: int, positives: int) -> float:
    """The share of rows labelled 0 that train where nobody says otherwise: five to a click, when clicks are plenty.

    k of them to a click keep about k / (k + 1) of what all would tell. In the world's ten million rows (240,000
    clicks) 4.3 to a click gave the log loss of 8.7 in half the time.

    >>> share_of_negatives(rows=5_100_000, positives=100_000)
    0.1
    >>> share_of_negatives(rows=5_100_000, positives=99_999)
    1.0
    """
    if positives < PLENTY_CLICKS:
        return 1.0
    return min(1.0, NEGATIVES_A_CLICK * positives / max(1, rows - positives))


def fit(
    frame: frames.Frame,
    encoder: Encoder,
    train: Bools,
    valid: Bools,
    labels: Floats,
    params: Mapping[str, Any],
    *,
    weights: Floats | None = None,
    negatives: float = 1.0,
    seed: int = 1,
    trees: int = MAX_TREES,
    patience: int = PATIENCE,
    team: Team = ALONE,
) -> lightgbm.Booster:
    """A booster stopped where the validation rows stop gaining; its raw scores are of unsampled rows.

    labels: (len(frame),). weights: the same. negatives: share w of the rows labelled 0 that train, chosen by their
    lot. The rest is made up for in the logit: logit(p) = logit(p') + ln w (decision science 1.3), by moving the leaves
    of the first tree, so no scorer has to know of it. trees: at most; patience: so many without a
    gain on the validation rows end it, 0 for all trees whatever those rows say. team: the processes that train
    (`models.distributed`).
    """
    moved = 0.0
    if negatives < 1:
        train = train & ((labels > 0) | (frame.column("lot") < negatives))
        moved = float(np.log(negatives))
    if team.workers > 1:
        booster = _shared_out(frame, encoder, train, valid, labels, params, weights, moved, seed, trees, patience, team)
        if moved:
            shift(booster, moved)
        return booster
    data = dataset(
        sequences(frame, train, encoder, blank_seed=seed),
        labels[train],
        params,
        None if weights is None else weights[train],
    )
    if not patience:
        booster = lightgbm.train(dict(params), data, trees)
        if moved:
            shift(booster, moved)
        return booster
    # Validation rows are not sampled: start them from the shift, and their loss is that of the finished model.
    judged = lightgbm.Dataset(
        sequences(frame, valid, encoder),
        labels[valid],
        reference=data,
        weight=None if weights is None else weights[valid],
        init_score=np.full(int(valid.sum()), moved) if moved else None,
        params=dict(params),
    )
    booster = _until_it_stops(data, judged, params, trees, patience)
    # Early stopping keeps the surplus trees; the artefact holds the best ones only.
    booster = lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    if moved:
        shift(booster, moved)
    return booster


def _shared_out(
    frame: frames.Frame,
    encoder: Encoder,
    train: Bools,
    valid: Bools,
    labels: Floats,
    params: Mapping[str, Any],
    weights: Floats | None,
    moved: float,
    seed: int,
    trees: int,
    patience: int,
    team: Team,
) -> lightgbm.Booster:
    """As `fit`, by the workers of a team."""
    owners = distributed.shares(frame.column("uid")[train], frame.column("key")[train], team.workers)

    def blocks() -> distributed.Blocks:
        at = 0
        for part in sequences(frame, train, encoder, blank_seed=seed):
            yield owners[at : at + len(part)], part[:]
            at += len(part)

    with distributed.workspace() as folder:
        distributed.write(
            folder, owners, blocks(), labels[train], None if weights is None else weights[train], seed, team.workers
        )
        judged = np.concatenate([part[:] for part in sequences(frame, valid, encoder)])
        judged_weights = None if weights is None else weights[valid]
        distributed.write_validation(folder, judged, labels[valid], judged_weights, moved)
        return distributed.train(folder, team, params, trees, patience, weighted=weights is not None)


def dataset(
    rows: list[_Part] | Floats,
    labels: Floats,
    params: Mapping[str, Any],
    weights: Floats | None = None,
    *,
    keep_rows: bool = False,
) -> lightgbm.Dataset:
    """Training rows with the names and kinds of our features. keep_rows: for training that starts from a forest."""
    return lightgbm.Dataset(
        rows,
        labels,
        weight=weights,
        feature_name=list(features.NAMES),
        categorical_feature=list(features.CATEGORICAL),
        params=dict(params),
        free_raw_data=not keep_rows,
    )


def _until_it_stops(
    data: lightgbm.Dataset,
    judged: lightgbm.Dataset,
    params: Mapping[str, Any],
    trees: int,
    patience: int,
    start: lightgbm.Booster | None = None,
) -> lightgbm.Booster:
    """At most `trees` more trees than `start` has, fewer once the judged rows have stopped gaining."""
    stop = lightgbm.early_stopping(patience, verbose=False)
    return lightgbm.train(dict(params), data, trees, valid_sets=[judged], init_model=start, callbacks=[stop])


def shift(booster: lightgbm.Booster, by: float) -> None:
    """Add a constant to every raw score, through the leaves of the first tree."""
    leaves = booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"]
    for leaf in range(leaves):
        booster.set_leaf_output(0, leaf, booster.get_leaf_output(0, leaf) + by)


def fit_few(
    frame: frames.Frame,
    encoder: Encoder,
    train: Bools,
    valid: Bools,
    labels: Floats,
    params: Mapping[str, Any],
    seed: int = 1,
) -> lightgbm.Booster:
    """As `fit`, for few positives: the forest starts from a logistic regression (`models.starting`)."""
    full, valid_X = (np.concatenate([part[:] for part in sequences(frame, keep, encoder)]) for keep in (train, valid))
    X = np.concatenate([part[:] for part in sequences(frame, train, encoder, blank_seed=seed)])
    start = starting.linear(full, labels[train], valid_X, labels[valid], X, seed)
    data = dataset(X, labels[train], params, keep_rows=True)
    judged = data.create_valid(valid_X, labels[valid])
    booster = _until_it_stops(data, judged, params, MAX_TREES, tier(int(labels[train].sum())).patience, start)
    return starting.grown_or_start(booster, booster.best_iteration, start.num_trees(), valid_X, labels[valid])


def raw_scores(booster: lightgbm.Booster, frame: frames.Frame, keep: Bools, encoder: Encoder, threads: int) -> Floats:
    """Raw scores of the rows `keep` marks, in their order."""
    scores = [
        np.asarray(booster.predict(encoder.matrix(part), raw_score=True, num_threads=max(1, threads)))
        for _, part in frames.chunks(frame, keep)
    ]
    return np.concatenate(scores).astype(np.float64) if scores else np.empty(0)
