"""What winning costs, and how much of a value to bid in a first-price auction.

The least bid that wins, m, is taken as log-normal: ln m ~ N(mu(x), s), mu by a forest over the auction's context, s per
exchange and size. The bid that earns most, argmax (v - b) P(m < b), then depends on u = v / e^mu and s only, so it is
read off a table. Where an exchange has too few results for that, a ratio learnt per segment and value is bid, and on
nothing a constant share. In an exchange that charges a share rho of the bid, (v - rho b) P(m < b) is largest where the
plain rule bids for v / rho.

This file is read by the bidder; it is trained by `models.landscape_train`.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from models import artefacts
from models.artefacts import BadArtefact
from models.context import Context
from models.forest import Forest
from models.knots import interpolated

Floats = npt.NDArray[np.float64]

KIND = "landscape"
VERSION = 1  # bump when `values` changes what it returns

CATEGORICAL = ("exchange", "site", "tagid", "size", "device_type", "os", "country", "region")
NUMERIC = ("floor", "position", "instl", "hour", "weekday", "n_imps", "quality")
NAMES = CATEGORICAL + NUMERIC
SIGNATURE = blake2b(f"{VERSION} {NAMES}".encode(), digest_size=16).hexdigest()

CONSTANT = 0.85  # share of the value bid where nothing is known
LEAST, MOST = 0.2, 1.0  # bounds of a segment's ratio

LOG_U = (-4.0, 5.0)
N_U, N_S = 128, 16
SPREADS = (0.08, 2.5)
_STEP_U = (LOG_U[1] - LOG_U[0]) / (N_U - 1)
_LOG_S = (math.log(SPREADS[0]), math.log(SPREADS[1]))
_STEP_S = (_LOG_S[1] - _LOG_S[0]) / (N_S - 1)
_ROOT_2 = math.sqrt(2.0)

How = Literal["model", "segment", "constant"]
HOWS: tuple[How, ...] = ("model", "segment", "constant")


class Shaded(msgspec.Struct, frozen=True, gc=False):
    """A first-price bid. bid: CPM micro-USD. how: which rule made it. chance: probability that it wins, NaN unless
    the model made it.
    """

    bid: float
    how: How
    chance: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a landscape says about itself; extended only at the end, with defaults.

    signature: `SIGNATURE` it was trained under. base: added to the forest's score to give mu, ln CPM micro-USD.
    spreads: s by segment ("exchange/300x250") and by exchange. ratios: per segment and per exchange, [bounds, ratios]:
    ascending values (CPM micro-USD) between which the ratios are bid, one more ratio than bounds. chances: per
    exchange, calibration of the probability of winning, [raw, calibrated], both ascending. paid: exchanges that charge
    a share of a first-price bid, and the share. first: exchanges that say second price and charge the bid. held:
    exchanges whose wins are not what the model expects (`models.landscape_refresh`); their segments' ratios are bid.
    """

    format: int
    kind: str
    version: str
    signature: str
    created_us: int
    from_us: int
    to_us: int
    rows: int
    metrics: dict[str, float]
    base: float
    vocabulary: dict[str, list[str | int]]
    spreads: dict[str, float]
    ratios: dict[str, tuple[list[float], list[float]]]
    chances: dict[str, tuple[list[float], list[float]]]
    paid: dict[str, float]
    first: list[str]
    parent: str
    sha256: dict[str, str]
    forced: bool = False
    held: list[str] | msgspec.UnsetType = msgspec.UNSET  # unset is not encoded: older manifests keep their hash


class Landscape(msgspec.Struct, frozen=True):
    """A checked landscape, ready to shade. codes: per categorical feature, value -> code. held: as in the manifest."""

    version: str
    manifest: Manifest
    forest: Forest
    full: npt.NDArray[np.uint64]
    codes: tuple[dict[str | int, float], ...]
    held: frozenset[str] = frozenset()


def segment(exchange: str, width: int, height: int) -> str:
    """Where prices are alike.

    >>> segment("x", 300, 250)
    'x/300x250'
    """
    return f"{exchange}/{width}x{height}"


def facts(context: Context) -> tuple[str | int, ...]:
    """The categorical values of an auction, in the order of `CATEGORICAL`."""
    return (
        context.exchange,
        context.domain or context.bundle,
        context.tagid,
        f"{context.width}x{context.height}",
        context.device_type,
        context.os,
        context.country,
        context.region,
    )


def values(codes: Sequence[Mapping[str | int, float]], context: Context, quality: float) -> list[float]:
    """One row of `NAMES`; unknown is NaN. quality: mean ln click probability of the ads we could show, NaN if none.

    Rivals value the same users and places; nothing about our own price, pace or campaign is in it.
    """
    row = [known.get(fact, math.nan) for known, fact in zip(codes, facts(context), strict=True)]
    row += (
        math.log1p(context.floor_micros),
        context.position if context.position >= 0 else math.nan,
        context.instl,
        context.hour if context.hour >= 0 else math.nan,
        context.weekday if context.weekday >= 0 else math.nan,
        context.n_imps,
        quality,
    )
    return row


def centre(land: Landscape, context: Context, quality: float) -> float:
    """Mu: the median of the price that wins, ln CPM micro-USD."""
    mask = land.forest.request_mask(values(land.codes, context, quality))
    return land.manifest.base + land.forest.candidate_scores((mask,), land.full, [0], [])[0]


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What all bids for one impression share. spread: s, 0 without a model. mu: ln CPM micro-USD. paid: share of the
    bid a winner pays. bounds, ratios: of the segment. knots: calibration of the probability of winning, None = none.
    """

    constant: float
    mu: float = 0.0
    spread: float = 0.0
    paid: float = 1.0
    bounds: Sequence[float] = ()
    ratios: Sequence[float] = ()
    knots: tuple[list[float], list[float]] | None = None


def terms(land: Landscape | None, context: Context, quality: float, constant: float = CONSTANT) -> Terms:
    """The terms of one impression. constant: share of the value to bid where nothing is known."""
    if land is None:
        return Terms(constant)
    made = land.manifest
    exchange = context.exchange
    place = segment(exchange, context.width, context.height)
    paid = made.paid.get(exchange, 1.0)
    spread = made.spreads.get(place) or made.spreads.get(exchange)
    if spread is not None and exchange not in land.held:
        return Terms(constant, centre(land, context, quality), spread, paid, knots=made.chances.get(exchange))
    learnt = made.ratios.get(place) or made.ratios.get(exchange)
    return Terms(constant) if learnt is None else Terms(constant, bounds=learnt[0], ratios=learnt[1])


def shade(on: Terms, worth: float) -> Shaded:
    """The bid for an impression worth `worth` (CPM micro-USD, after pacing) where winners pay what they bid."""
    if worth <= 0:
        return Shaded(0.0, "constant", math.nan)
    if on.spread:
        bid = min(worth, optimum(worth / on.paid, on.mu, on.spread))
        return Shaded(bid, "model", chance_of(on, bid))
    if on.ratios:
        return Shaded(worth * on.ratios[bisect_right(on.bounds, worth)], "segment", math.nan)
    return Shaded(worth * on.constant, "constant", math.nan)


def chance_of(on: Terms, bid: float) -> float:
    """P(m < bid), calibrated on the exchange's wins and losses where there were enough; terms of a model only."""
    raw = phi((math.log(bid) - on.mu) / on.spread) if bid > 0 else 0.0
    return raw if on.knots is None else interpolated(raw, *on.knots)


def optimum(worth: float, mu: float, spread: float) -> float:
    """The b that maximises (worth - b) P(m < b) for ln m ~ N(mu, spread), two interpolations in the table."""
    log_u = math.log(worth) - mu
    # Beyond the table the bid hardly grows with the value any more; below it the share hardly changes.
    top = min(log_u, LOG_U[1])
    return math.exp(mu + top) * best_share(top, spread)


def best_share(log_u: float, spread: float) -> float:
    """Share of the value to bid, b / v, bilinear in ln u and ln s.

    >>> round(best_share(0.0, 0.6), 2), round(best_share(math.log(2), 0.6), 2)
    (0.68, 0.54)
    """
    table = shares()
    x = (min(max(log_u, LOG_U[0]), LOG_U[1]) - LOG_U[0]) / _STEP_U
    y = (math.log(min(max(spread, SPREADS[0]), SPREADS[1])) - _LOG_S[0]) / _STEP_S
    i, j = min(int(x), N_U - 2), min(int(y), N_S - 2)
    x -= i
    y -= j
    low, high = table[j], table[j + 1]
    return (1 - y) * (low[i] + x * (low[i + 1] - low[i])) + y * (high[i] + x * (high[i + 1] - high[i]))


@lru_cache(maxsize=1)
def shares() -> tuple[tuple[float, ...], ...]:
    """N_S rows of N_U: the best b / v per spread and ln u.

    With y = b / e^mu and z = ln y / s the first-order condition is u = y (1 + s Phi(z) / phi(z)): both factors rise
    with z, so each z belongs to exactly one u, and the table is that relation read the other way round.
    """
    z = np.concatenate((np.linspace(-60, -8, 2_000, endpoint=False), np.linspace(-8, 8, 4_001)))
    mills = np.array([_mills(point) for point in z.tolist()])
    targets = np.linspace(*LOG_U, N_U)
    rows = []
    for spread in np.exp(np.linspace(*_LOG_S, N_S)).tolist():
        log_u = spread * z + np.log1p(spread * mills)
        rows.append(tuple(np.interp(targets, log_u, 1 / (1 + spread * mills)).tolist()))
    return tuple(rows)


def phi(z: float) -> float:
    """Standard normal distribution function."""
    return 0.5 * math.erfc(-z / _ROOT_2)


def _mills(z: float) -> float:
    """Phi(z) / phi(z); far left by its asymptotic series."""
    if z < -8:
        square = 1 / (z * z)
        return -(1 - square * (1 - 3 * square * (1 - 5 * square))) / z
    return phi(z) * math.sqrt(2 * math.pi) * math.exp(z * z / 2)


def load(root: Path, version: str | None = None) -> Landscape:
    """The live landscape, or a named version, after every check. Raises BadArtefact."""
    if version is None:
        version = artefacts.current(root, KIND)
        if version is None:
            raise BadArtefact(root / KIND, "nothing is published", "train one with `tagbid models landscape train`")
    return read(artefacts.folder(root, KIND, version), version)


def rollback(root: Path, version: str | None = None) -> str:
    """Make a version, or the live one's parent, live; returns it. Raises BadArtefact where that cannot be."""
    return artefacts.rollback(root, KIND, lambda name: load(root, name), "tagbid models landscape list", version)


def read(folder: Path, version: str) -> Landscape:
    """Check and compile the files of one version. Raises BadArtefact."""
    remedy = "train again, or `tagbid models landscape rollback`"
    manifest, files = artefacts.unseal(folder, Manifest, KIND, version, SIGNATURE, ("model.txt", "golden.bin"), remedy)
    if problem := _implausible(manifest):
        raise BadArtefact(folder, problem, remedy)
    try:
        forest = artefacts.forest_of(files, len(NAMES), 0, len(NAMES))
    except ValueError as error:
        raise BadArtefact(folder, str(error), remedy) from None
    codes = tuple(
        {value: float(code) for code, value in enumerate(manifest.vocabulary.get(name, ()))} for name in CATEGORICAL
    )
    held = frozenset() if manifest.held is msgspec.UNSET else frozenset(manifest.held)
    return Landscape(version, manifest, forest, forest.campaign_masks(np.empty((1, 0))), codes, held)


def _implausible(manifest: Manifest) -> str:
    """What in a manifest could lead to a bid nobody should make, "" when nothing does."""
    if not math.isfinite(manifest.base) or not all(SPREADS[0] <= s <= SPREADS[1] for s in manifest.spreads.values()):
        return f"a spread is not in {SPREADS}, or the base is no number"
    for bounds, ratios in manifest.ratios.values():
        if len(ratios) != len(bounds) + 1 or not all(LEAST <= r <= MOST for r in ratios) or sorted(bounds) != bounds:
            return f"a segment's ratios are not in [{LEAST}, {MOST}] between ascending bounds"
    for raw, calibrated in manifest.chances.values():
        if not raw or len(raw) != len(calibrated) or sorted(raw) != raw or sorted(calibrated) != calibrated:
            return "a calibration is not two ascending lists"
        if not all(0 <= p <= 1 for p in (*raw, *calibrated)):
            return "a calibration is not of probabilities"
    if not all(0 < share <= 1 for share in manifest.paid.values()):
        return "a share of the bid that is paid is not in (0, 1]"
    return ""
