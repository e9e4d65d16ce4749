"""Whether a model may be published: every rule with its number, so that a refusal says what failed and by how much.

Rules of decision science 1.6. A ratio measured on few clicks strays by chance, so calibration fails when the range
allowed lies outside the ratio's own 95 % interval; with tens of thousands of clicks that is the range itself.
"""

import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from models import drift, evaluate
from models.evaluate import Gain
from models.forest import Forest

Floats = npt.NDArray[np.float64]

CALIBRATED = (0.97, 1.03)
CAMPAIGN_CALIBRATED, CAMPAIGN_CLICKS = (0.85, 1.15), 200
CHANCE_SLOPE, CHANCE_CLICKS = 0.1, 200
NO_WORSE = 0.001  # of the live model's log loss, for a model of newer data
MOST_BYTES = 20_000_000
MOST_US_PER_50 = 10_000.0
CANDIDATES = 50
BLOCKS, DRAWS = 2_000, 1_000
Z95 = 1.96


class Check(msgspec.Struct, frozen=True):
    """One rule. value: what was measured; limit: what is allowed, both for people. blocks: a failure forbids to
    publish, otherwise it only warns.
    """

    name: str
    value: str
    limit: str
    passed: bool
    blocks: bool = True


def refusal(checks: Sequence[Check]) -> str:
    """The numbers that failed, "" when the model may be published."""
    return "; ".join(f"{c.name} is {c.value}, allowed is {c.limit}" for c in checks if c.blocks and not c.passed)


def over_base(gain: Gain, metrics: evaluate.Metrics) -> Check:
    """The model has to beat the constant click rate beyond doubt."""
    if metrics.auc is None:
        value, passed = f"unknown, with {metrics.clicks} clicks in {metrics.rows} test rows", False
    else:
        value = f"{gain.value:+.2%} +- {gain.se:.2%} on {metrics.rows} rows with {metrics.clicks} clicks"
        passed = gain.value > evaluate.GATE_Z * gain.se
    return Check(
        "log-loss gain over the constant click rate", value, f"more than {evaluate.GATE_Z} standard errors", passed
    )


def calibration(clicks: Floats, p: Floats, low: float, high: float, name: str) -> Check:
    """Predicted over observed clicks."""
    observed = float(clicks.sum())
    if not observed:
        return Check(name, "unknown, without clicks", f"{low} to {high}", passed=True, blocks=False)
    ratio, se = ratio_of(clicks, p)
    passed = ratio + Z95 * se >= low and ratio - Z95 * se <= high
    return Check(name, f"{ratio:.3f} +- {se:.3f}", f"{low} to {high}", passed)


def ratio_of(clicks: Floats, p: Floats) -> tuple[float, float]:
    """Predicted over observed clicks and its standard error. There must be a click."""
    observed = float(clicks.sum())
    ratio = float(p.sum()) / observed
    return ratio, ratio * float(np.sqrt((p * (1 - p)).sum())) / observed


def by_campaign(clicks: Floats, p: Floats, campaigns: npt.NDArray[np.str_]) -> list[Check]:
    """Calibration of every campaign with enough clicks to tell."""
    found = []
    for name in np.unique(campaigns):
        own = campaigns == name
        if clicks[own].sum() >= CAMPAIGN_CLICKS:
            found.append(calibration(clicks[own], p[own], *CAMPAIGN_CALIBRATED, f"calibration of campaign {name}"))
    return found


def by_chance(clicks: Floats, p: Floats, chance: Floats) -> list[Check]:
    """Whether calibration depends on how likely the bid was to win: clicks are seen on wins only (decision science).

    chance: of winning as known at the bid, 0 = not known. The slope is that of predicted over observed from the tenth
    of rows that were likeliest to lose to the one likeliest to win. It warns and does not block: what was never won
    cannot be weighted back in, only bid for (`bidder.explore_share`).
    """
    known = chance > 0
    if clicks[known].sum() < CHANCE_CLICKS:
        return []
    order = np.flatnonzero(known)[np.argsort(chance[known], kind="stable")]
    parts = [part for part in np.array_split(order, 10) if clicks[part].sum() > 0]
    ratios = [ratio_of(clicks[part], p[part]) for part in parts]
    x, weight = np.linspace(-0.5, 0.5, len(parts)), np.array([1 / se**2 for _, se in ratios])
    centred = x - float((weight * x).sum() / weight.sum())
    spread = float((weight * centred**2).sum())
    slope = float((weight * centred * np.array([ratio for ratio, _ in ratios])).sum()) / spread
    se = spread**-0.5
    passed = abs(slope) - Z95 * se <= CHANCE_SLOPE
    limit = f"within {CHANCE_SLOPE} of 0"
    return [
        Check("slope of calibration over the chance to win", f"{slope:+.3f} +- {se:.3f}", limit, passed, blocks=False)
    ]


def stability(indices: Mapping[str, float], score: float, *, blocks: bool) -> list[Check]:
    """Features and score that moved since training. blocks: whether the log is long enough for that to mean drift."""
    found = []
    for name, value in {**indices, "score": score}.items():
        if value > drift.WARN:
            stop = blocks and name not in drift.MOVING and value > drift.BLOCK
            found.append(Check(f"drift (PSI) of {name}", f"{value:.3f}", f"at most {drift.BLOCK}", not stop, stop))
    return found


def against_live(clicks: Floats, p: Floats, live: Floats, users: npt.NDArray[np.int64], *, newer: bool) -> Check:
    """Better than the live model (bootstrap by user, p < .05), or no worse by more than .1 % and of newer data.

    users: int (n,), equal for rows of one user. newer: the training data ends no earlier than the live model's.
    """
    ours, theirs = evaluate.losses(clicks, p), evaluate.losses(clicks, live)
    difference = float((theirs - ours).sum() / theirs.sum())
    chance = worse_by_chance(theirs - ours, users)
    passed = chance < 0.05 or (newer and difference >= -NO_WORSE)
    return Check(
        "log-loss gain over the live model",
        f"{difference:+.3%} (p = {chance:.3f}{'' if newer else ', and its data is older'})",
        f"above none with p < .05, or newer data and above -{NO_WORSE:.1%}",
        passed,
    )


def worse_by_chance(gains: Floats, users: npt.NDArray[np.int64], seed: int = 1) -> float:
    """Share of bootstrap samples of users whose summed gain is not above 0. gains: per row."""
    owner = np.unique(users, return_inverse=True)[1] % BLOCKS  # many users share a block: blocks are what is resampled
    sums = np.bincount(owner, weights=gains)
    draws = np.random.default_rng(seed).poisson(1.0, (DRAWS, len(sums)))
    return float((draws @ sums <= 0).mean())


def cost(forest: Forest, text: str, X: Floats) -> list[Check]:
    """Size of the artefact and time to score fifty candidates, the fastest of a few tries."""
    fifty = np.repeat(X[:1], CANDIDATES, axis=0)
    best = min(_seconds(forest, fifty) for _ in range(5))
    return [
        Check("size of the model", f"{len(text):,} bytes", f"at most {MOST_BYTES:,}", len(text) <= MOST_BYTES),
        Check(
            f"time to score {CANDIDATES} rows",
            # A time that is fine is not told: the same rows must give the same card.
            "less" if best * 1e6 <= MOST_US_PER_50 else f"{best * 1e6:,.0f} µs",
            f"at most {MOST_US_PER_50:,.0f} µs",
            best * 1e6 <= MOST_US_PER_50,
        ),
    ]


def _seconds(forest: Forest, X: Floats) -> float:
    started_s = time.perf_counter()
    forest.predict(X)
    return time.perf_counter() - started_s


def parity(checked: int, different: int) -> Check:
    """Rows the bidder logged against the same rows computed from the log."""
    return Check("logged rows that the trainer computes differently", f"{different} of {checked:,}", "0", not different)
