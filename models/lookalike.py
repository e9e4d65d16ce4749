"""Look-alike: which known users resemble a seed, learnt from their tags. Pure: rows in, ranked rows out.

A seed says who is wanted and nobody says who is not: learning from positives and unlabelled users (PU). Each of
five LightGBM models tells the seed from another random sample of ten times as many unlabelled users (bagging PU:
Mordelet & Vert, "A bagging SVM to learn from positive and unlabeled examples", 2014). A user's score is the mean
over the models that did not have that user among their unlabelled: being called negative in training must not
push a hidden positive down. Estimating P(y=1|x) (Elkan & Noto 2008) would divide by a constant; a cut by rank
does not need it.

How good it is, is measured before it is used: a fifth of the seed is hidden, five models learn from the rest, and
what counts is how many of the hidden users come back in the top k % of everyone who was not in the training seed
(recall@k; lift = recall / k), beside the same for the obvious way, the cosine with the seed's mean. The
unlabelled hold unknown positives, so the AUC is of hidden seed against the rest, not against true negatives.
"""

from collections.abc import Callable
from typing import Any

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt

from dmp.audiences import FLOOR_SEED, WARN_SEED
from dmp.errors import DmpError, SeedTooSmall
from models.tag_matrix import Rows, TagMatrix

DEPTHS_PCT = (1, 5, 10)
SCORE_CHUNK = 50_000
Scores = npt.NDArray[np.float64]


class NothingToExpand(DmpError):
    """Nobody is left outside the seed, or the users have no tags to learn from."""


class Settings(msgspec.Struct, frozen=True):
    """How to learn. bags: models. unlabelled_per_seed: size of each model's sample, at most half of all unlabelled,
    so that most users are left out by some model. hidden: share of the seed kept back to measure with. threads: of one
    training, 0 = all cores. min_seed: matched users needed, never below the floor of P-65.
    """

    bags: int = 5
    unlabelled_per_seed: int = 10
    hidden: float = 0.2
    rounds: int = 120
    learning_rate: float = 0.05
    num_leaves: int = 15
    min_data_in_leaf: int = 20
    lambda_l2: float = 5.0
    feature_fraction: float = 0.7
    threads: int = 1
    min_seed: int = FLOOR_SEED


class Measured(msgspec.Struct, frozen=True):
    """Figures on the hidden part of a seed; keys are depths in per cent of the users ranked.

    auc: hidden seed against all other users ranked. auc_error: its standard error if there were nothing to find.
    centroid_recall: recall of the baseline, cosine with the mean of the training seed.
    """

    hidden: int
    ranked: int
    auc: float
    auc_error: float
    recall: dict[int, float]
    lift: dict[int, float]
    centroid_recall: dict[int, float]


class Expansion(msgspec.Struct, frozen=True):
    """rows: the best first, none of the seed. leaking: tags left out since they all but spell the seed out."""

    rows: Rows
    measured: Measured
    leaking: tuple[int, ...]
    warnings: tuple[str, ...]


def expand(
    matrix: TagMatrix,
    seed: Rows,
    share_pct: float,
    settings: Settings,
    number: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Expansion:
    """The users most like the seed, `share_pct` per cent of all known users (fewer when fewer are left).

    number: seeds every random choice; the same input gives the same answer. progress: called with models trained
    so far and in all. A larger share holds every smaller one. Raises SeedTooSmall, NothingToExpand.
    """
    required = max(settings.min_seed, FLOOR_SEED)
    if len(seed) < required:
        raise SeedTooSmall(len(seed), required)
    if len(seed) == len(matrix):
        raise NothingToExpand("every known user is in the seed; there is nobody to expand it to")
    if not len(matrix.tags):
        raise NothingToExpand("the known users have no tags to learn from; build tags first")
    leaks = leaking(matrix, seed)
    if len(leaks) == len(matrix.tags):
        raise NothingToExpand("the only tags there are spell the seed out; there is nothing to learn from")
    usable = np.ones(len(matrix.tags), np.bool_)
    usable[leaks] = False
    rng = np.random.default_rng(number)
    total, done = 2 * settings.bags, 0

    def trained() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    shuffled = rng.permutation(seed)
    hidden = np.sort(shuffled[: round(len(seed) * settings.hidden)])
    shown = np.sort(shuffled[len(hidden) :])
    measured = measure(
        np.isin(_others(matrix, shown), hidden),
        bagged(matrix, shown, usable, settings, rng, trained),
        centroid_cosine(matrix, shown, usable),
    )
    others = _others(matrix, seed)
    scores = bagged(matrix, seed, usable, settings, rng, trained)
    size = min(len(others), round(len(matrix) * share_pct / 100))
    rows = others[np.argsort(-scores, kind="stable")[:size]]
    leaking_tags = tuple(int(tag) for tag in matrix.tags[leaks])
    return Expansion(rows, measured, leaking_tags, _warnings(len(seed), measured))


def bagged(
    matrix: TagMatrix,
    seed: Rows,
    usable: npt.NDArray[np.bool_],
    settings: Settings,
    rng: np.random.Generator,
    trained: Callable[[], None] = lambda: None,
) -> Scores:
    """Score (log odds, comparable among themselves only) of every user outside the seed, in order of row."""
    others = _others(matrix, seed)
    sample = max(1, min(len(seed) * settings.unlabelled_per_seed, len(others) // 2))
    left_out, left_out_by = np.zeros(len(others)), np.zeros(len(others))
    everyone = np.zeros(len(others))
    for _ in range(settings.bags):
        drawn = np.sort(rng.choice(len(others), sample, replace=False))
        model = _train(matrix, seed, others[drawn], usable, settings, int(rng.integers(2**31)))
        scores = _score(model, matrix, others, usable)
        everyone += scores
        scores[drawn] = 0
        left_out += scores
        left_out_by += 1
        left_out_by[drawn] -= 1
        trained()
    # Drawn by every model (1 in 32 at most for five): the mean of all is what there is.
    return np.where(left_out_by > 0, left_out / np.maximum(left_out_by, 1), everyone / settings.bags)


def centroid_cosine(matrix: TagMatrix, seed: Rows, usable: npt.NDArray[np.bool_]) -> Scores:
    """Cosine of every user outside the seed with the seed's mean tag vector: the baseline."""
    _, places = matrix.entries(seed)
    centroid = np.bincount(matrix.columns[places], matrix.scores[places], minlength=len(matrix.tags)) * usable
    others = _others(matrix, seed)
    owner, places = matrix.entries(others)
    columns, values = matrix.columns[places], matrix.scores[places] * usable[matrix.columns[places]].astype(np.float64)
    dot = np.bincount(owner, values * centroid[columns], minlength=len(others))
    length = np.sqrt(np.bincount(owner, values * values, minlength=len(others)))
    return np.divide(dot, length, out=np.zeros(len(others)), where=length > 0)


def measure(found: npt.NDArray[np.bool_], scores: Scores, baseline: Scores) -> Measured:
    """How well scores bring the hidden users (`found`) to the top; all arrays (users ranked,)."""
    positives, n = int(found.sum()), len(found)
    recall = {k: recall_at(found, scores, k) for k in DEPTHS_PCT}
    return Measured(
        hidden=positives,
        ranked=n,
        auc=auc(found, scores),
        auc_error=float(np.sqrt((n + 1) / (12 * positives * (n - positives)))),  # of the rank sum under no effect
        recall=recall,
        lift={k: value * 100 / k for k, value in recall.items()},
        centroid_recall={k: recall_at(found, baseline, k) for k in DEPTHS_PCT},
    )


def recall_at(found: npt.NDArray[np.bool_], scores: Scores, depth_pct: float) -> float:
    """Share of the positives within the best `depth_pct` per cent by score; ties in order of row.

    >>> recall_at(np.array([True, False, False, True]), np.array([4.0, 3.0, 2.0, 1.0]), 50)
    0.5
    """
    top = np.argsort(-scores, kind="stable")[: max(1, round(len(scores) * depth_pct / 100))]
    return float(found[top].sum() / found.sum())


def auc(found: npt.NDArray[np.bool_], scores: Scores) -> float:
    """Chance that a positive scores above another user, ties counting half.

    >>> auc(np.array([True, False, True, False]), np.array([2.0, 1.0, 1.0, 0.0]))
    0.875
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = int(found.sum())
    wins = rank[found].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(found) - positives)))


def leaking(matrix: TagMatrix, seed: Rows) -> npt.NDArray[np.int64]:
    """Columns that alone, cut at their best score, hold at least 80 points more of the seed than of the rest and
    more users of the seed than others: not a trait of the seed but how it was put together.
    """
    tags, levels = len(matrix.tags), 256
    key = matrix.columns.astype(np.int64) * levels + matrix.scores
    _, places = matrix.entries(seed)
    everyone = np.bincount(key, minlength=tags * levels).reshape(tags, levels)
    inside = np.bincount(key[places], minlength=tags * levels).reshape(tags, levels)
    # Users with at least this score, per tag and score.
    inside = inside[:, ::-1].cumsum(1)
    outside = everyone[:, ::-1].cumsum(1) - inside
    gap = inside / len(seed) - outside / max(1, len(matrix) - len(seed))
    best = gap.argmax(1)
    at = np.arange(tags)
    return np.flatnonzero((gap[at, best] >= 0.8) & (inside[at, best] > outside[at, best]))


def _others(matrix: TagMatrix, seed: Rows) -> Rows:
    outside = np.ones(len(matrix), np.bool_)
    outside[seed] = False
    return np.flatnonzero(outside)


def _train(
    matrix: TagMatrix,
    seed: Rows,
    unlabelled: Rows,
    usable: npt.NDArray[np.bool_],
    settings: Settings,
    number: int,
) -> Any:
    rows = np.concatenate((seed, unlabelled))
    labels = np.zeros(len(rows), np.float32)
    labels[: len(seed)] = 1
    parameters = {
        "objective": "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "min_data_in_leaf": settings.min_data_in_leaf,
        "lambda_l2": settings.lambda_l2,
        "feature_fraction": settings.feature_fraction,
        "num_threads": settings.threads,
        "seed": number,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(matrix.dense(rows)[:, usable], labels, params={"verbosity": -1})
    return lightgbm.train(parameters, data, settings.rounds)


def _score(model: Any, matrix: TagMatrix, rows: Rows, usable: npt.NDArray[np.bool_]) -> Scores:
    parts = [
        model.predict(matrix.dense(rows[at : at + SCORE_CHUNK])[:, usable], raw_score=True)
        for at in range(0, len(rows), SCORE_CHUNK)
    ]
    return np.concatenate(parts).astype(np.float64)


def _warnings(seed: int, measured: Measured) -> tuple[str, ...]:
    found = []
    if measured.auc < 0.5 + max(0.05, 2 * measured.auc_error):
        found.append(
            f"the seed's users have no more in common than chance gives (held-out AUC {measured.auc:.2f}): "
            f"this audience will do no better than a random one"
        )
    if seed < WARN_SEED:
        found.append(f"fewer than {WARN_SEED:,} matched users: upload more identifiers for a sharper audience")
    return tuple(found)
