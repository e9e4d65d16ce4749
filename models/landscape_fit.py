"""The mathematics of learning what winning costs: censored log-normal regression, spreads, ratios, calibration.

An observation is ln m exactly (we were told), from above (we won: m <= b) or from below (we lost: m >= b). The forest
learns mu by the gradients of the censored likelihood; the spread s is found by maximum likelihood per segment and
shrunk to its exchange. Check of both: finite differences and planted worlds in the tests.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import lightgbm as lgb
import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr, ndtr

from models import landscape
from models.calibration import isotonic

Floats = npt.NDArray[np.float64]
Kinds = npt.NDArray[np.int8]

EXACT, ABOVE, BELOW = 0, 1, 2
"""Of `y`: ln m itself; m >= b, lost (right-censored); m <= b, won (left-censored)."""

MIN_HESSIAN = 1e-3
CLIP_Z = 6.0
SHRINK = 50.0  # observations an exchange's spread counts for in a segment's
MIN_MODEL = 500  # observations of an exchange below which its price is not taken from the model
MIN_RATIO = 100  # observations of a segment below which its exchange's ratio is used
RATIOS = np.linspace(landscape.LEAST, landscape.MOST, 33)
BINS = 4  # of value, per segment
TREES, LEAVES, RATE, PATIENCE = 300, 31, 0.08, 20


class Fit(msgspec.Struct, frozen=True):
    """mu = base + forest score. text: LightGBM's format. spreads: by segment and by exchange."""

    text: str
    base: float
    spreads: dict[str, float]


def negative_log_likelihood(y: Floats, kind: Kinds, mu: Floats, spread: Floats | float) -> Floats:
    """Per observation, nats; of exact ones the density of ln m. y, kind: see above."""
    z = (y - mu) / spread
    exact = 0.5 * z**2 + np.log(spread) + 0.5 * np.log(2 * np.pi)
    found: Floats = np.where(kind == EXACT, exact, np.where(kind == ABOVE, -log_ndtr(-z), -log_ndtr(z)))
    return found


def gradients(y: Floats, kind: Kinds, mu: Floats, spread: Floats | float) -> tuple[Floats, Floats]:
    """First and second derivative of the negative log likelihood by mu; z clipped to +-6, the second at least .001."""
    exact_z = (y - mu) / spread
    z = np.clip(exact_z, -CLIP_Z, CLIP_Z)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    lost, won = density / ndtr(-z), density / ndtr(z)  # hazards
    gradient = np.where(kind == EXACT, -exact_z, np.where(kind == ABOVE, -lost, won)) / spread
    hessian = np.where(kind == EXACT, 1.0, np.where(kind == ABOVE, lost * (lost - z), won * (won + z))) / spread**2
    return gradient, np.maximum(hessian, MIN_HESSIAN)


def best_spread(y: Floats, kind: Kinds, mu: Floats) -> float:
    """The spread of greatest likelihood, within what the shading table covers."""
    low, high = landscape.SPREADS

    def loss(log_spread: float) -> float:
        return float(negative_log_likelihood(y, kind, mu, float(np.exp(log_spread))).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(low), np.log(high)), method="bounded").x))


def spreads(y: Floats, kind: Kinds, mu: Floats, segments: Sequence[str], least: int = MIN_MODEL) -> dict[str, float]:
    """Spread by exchange ("x", where it has `least` observations) and by segment ("x/300x250").

    A segment's is shrunk to its exchange's with n / (n + 50) and raised by one standard error, s / sqrt(2 n): with few
    results the price is taken to be less certain than it looks.
    """
    low, high = landscape.SPREADS
    found: dict[str, float] = {}
    names = np.array(segments)
    exchanges = np.array([name.rpartition("/")[0] for name in segments])
    for exchange in np.unique(exchanges).tolist():
        here = exchanges == exchange
        if here.sum() < least:
            continue
        whole = best_spread(y[here], kind[here], mu[here])
        found[exchange] = float(min(high, max(low, whole * (1 + 1 / np.sqrt(2 * here.sum())))))
        for name in np.unique(names[here]).tolist():
            own = names == name
            n = int(own.sum())
            weight = n / (n + SHRINK)
            spread = weight * best_spread(y[own], kind[own], mu[own]) + (1 - weight) * whole if n > 1 else whole
            found[name] = float(min(high, max(low, spread * (1 + 1 / np.sqrt(2 * (n + SHRINK))))))
    return found


def marginal(y: Floats, kind: Kinds) -> tuple[float, float]:
    """(mu, s) of one log-normal for everything: where fitting starts, and the baseline it has to beat."""
    mu = float(np.median(y))
    spread = 1.0
    for _ in range(30):
        for _ in range(20):
            gradient, hessian = gradients(y, kind, np.full(len(y), mu), spread)
            mu -= float(np.clip(gradient.sum() / hessian.sum(), -0.5, 0.5))
        before, spread = spread, best_spread(y, kind, np.full(len(y), mu))
        if abs(spread - before) < 1e-4:
            break
    return mu, spread


def fit(
    X: Floats, y: Floats, kind: Kinds, segments: Sequence[str], *, seed: int = 1, threads: int = 1, rounds: int = 2
) -> Fit:
    """X: float64 (n, len(landscape.NAMES)), in order of time; the last seventh decides when to stop.

    rounds: how often mu and the spreads are fitted in turn.
    """
    base, spread = marginal(y, kind)
    per_row: Floats = np.full(len(y), spread)
    cut = max(1, len(y) * 6 // 7)
    categorical = list(range(len(landscape.CATEGORICAL)))
    params = {
        "num_leaves": LEAVES, "learning_rate": RATE, "min_data_in_leaf": 50, "lambda_l2": 5.0, "feature_fraction": 0.8,
        "max_bin": 127, "min_data_per_group": 50, "cat_smooth": 20.0, "boost_from_average": False, "seed": seed,
        "num_threads": threads, "deterministic": True, "force_row_wise": True, "verbose": -1, "metric": "none",
    }  # fmt: skip
    text = ""
    by_name: dict[str, float] = {}
    for _ in range(rounds):
        slices = (slice(0, cut), slice(cut, len(y)))
        losses = [_Objective(y[part], kind[part], base, per_row[part]) for part in slices]
        train, valid = (
            lgb.Dataset(X[part], y[part], categorical_feature=categorical, free_raw_data=False) for part in slices
        )
        booster = lgb.train(
            {**params, "objective": losses[0].gradients}, train, TREES, [valid], feval=losses[1].loss,
            callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
        )  # fmt: skip
        text = booster.model_to_string(num_iteration=booster.best_iteration)
        mu: Floats = base + np.asarray(booster.predict(X, raw_score=True, num_iteration=booster.best_iteration))
        # Spreads from rows the trees did not see, where there are enough: training residuals are too small.
        judged = slice(cut, len(y)) if len(y) - cut >= MIN_MODEL else slice(0, len(y))
        by_name = spreads(y[judged], kind[judged], mu[judged], segments[judged], least=1)
        overall = best_spread(y[judged], kind[judged], mu[judged])
        per_row = spread_of(by_name, segments, overall)
    counts: dict[str, int] = {}
    for name in segments:
        exchange = name.rpartition("/")[0]
        counts[exchange] = counts.get(exchange, 0) + 1
    kept = {name for name, n in counts.items() if n >= MIN_MODEL}
    return Fit(text, base, {name: s for name, s in by_name.items() if (name.rpartition("/")[0] or name) in kept})


class _Objective:
    """The censored likelihood as LightGBM asks for it; rows line up with the data set's."""

    def __init__(self, y: Floats, kind: Kinds, base: float, spread: Floats) -> None:
        self._args = y, kind, base, spread

    def gradients(self, scores: Floats, _: lgb.Dataset) -> tuple[Floats, Floats]:
        y, kind, base, spread = self._args
        return gradients(y, kind, base + scores, spread)

    def loss(self, scores: Floats, _: lgb.Dataset) -> tuple[str, float, bool]:
        y, kind, base, spread = self._args
        return "nll", float(negative_log_likelihood(y, kind, base + scores, spread).mean()), False


def spread_of(by_name: Mapping[str, float], segments: Iterable[str], otherwise: float) -> Floats:
    """Spread per row, as serving looks it up."""
    return np.array([by_name.get(name) or by_name.get(name.rpartition("/")[0]) or otherwise for name in segments])


def turnbull(lower: npt.NDArray[np.intp], upper: npt.NDArray[np.intp], cells: int, rounds: int = 200) -> Floats:
    """Probability of each cell when every observation lies in cells lower..upper (Turnbull, 1976), by self-consistency.

    Cells are ordered; an exact observation has lower = upper. Returns float64 (cells,), summing to 1.

    >>> turnbull(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).round(3).tolist()
    [0.5, 0.5]
    """
    p = np.full(cells, 1 / cells)
    spans, counts = np.unique(np.column_stack((lower, upper)), axis=0, return_counts=True)
    inside = (np.arange(cells) >= spans[:, :1]) & (np.arange(cells) <= spans[:, 1:])
    for _ in range(rounds):
        shares = inside * p
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
        found: Floats = (counts[:, None] * shares).sum(axis=0) / counts.sum()
        if np.abs(found - p).max() < 1e-7:
            return found
        p = found
    return p


def best_ratio(y: Floats, kind: Kinds, value: Floats) -> float:
    """The one share of the value that would have earned most, on the curve of m / v behind censored observations."""
    log_ratio = y - np.log(value)
    edges = np.log(RATIOS)
    place = np.searchsorted(edges, log_ratio)  # cell i: ratios (edges[i - 1], edges[i]]
    lower = np.where(kind == BELOW, 0, place)
    upper = np.where(kind == ABOVE, len(edges), place)
    won = np.cumsum(turnbull(lower, upper, len(edges) + 1))[:-1]
    return float(RATIOS[int(np.argmax((1 - RATIOS) * won))])


def ratios(
    y: Floats, kind: Kinds, value: Floats, segments: Sequence[str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Per segment and exchange with `MIN_RATIO` observations: (bounds of value, best ratio between them)."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    names = np.array(segments)
    for names_of in (names, np.array([name.rpartition("/")[0] for name in segments])):
        for name in np.unique(names_of).tolist():
            own = (names_of == name) & (value > 0)
            n = int(own.sum())
            if n < MIN_RATIO:
                continue
            bins = min(BINS, n // MIN_RATIO)
            cuts = np.quantile(value[own], np.linspace(0, 1, bins + 1)[1:-1])
            bounds = np.unique(cuts).tolist()
            edges = [-np.inf, *bounds, np.inf]
            learnt = []
            for low, high in pairwise(edges):
                part = own & (value >= low) & (value < high)
                learnt.append(best_ratio(y[part], kind[part], value[part]) if part.any() else landscape.CONSTANT)
            found[name] = (bounds, learnt)
    return found


def chances(raw: Floats, won: Floats, segments: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Per exchange with enough wins and losses: calibration of the probability of winning, isotonic."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    exchanges = np.array([name.rpartition("/")[0] for name in segments])
    for exchange in np.unique(exchanges).tolist():
        own = exchanges == exchange
        wins = float(won[own].sum())
        if min(wins, own.sum() - wins) >= MIN_RATIO:
            x, y = isotonic(raw[own], won[own])
            found[exchange] = (x.tolist(), y.tolist())
    return found
