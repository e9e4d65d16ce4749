"""What an experiment showed: metrics per arm, differences with intervals, and whether it may be believed at all.

Units (users, or requests without one) fall into 100 buckets by hash; a metric is a ratio of sums, and its standard
error comes from leaving out one bucket at a time, which keeps everything of a unit together. p-values are those of a
t distribution with 99 degrees, adjusted over all metrics and arms by Holm's procedure. Arms whose numbers of units
differ from their shares beyond chance (chi-square, p < .001) make the whole report invalid: something decides about who
is seen other than the assignment. Units are counted once they got a bid, so an arm that runs out of money or bids on
fewer users shows up here too, and rightly: its users are then not those of the other arm. With a period before the
experiment, CUPED (Deng et al., WSDM 2013) takes out what the units did then.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from dmp import events
from dmp.errors import BadEvents, TagbidError
from dmp.events import Bid, Billing, Click, Conversion, Impression, Win

Floats = npt.NDArray[np.float64]

BUCKETS = 100
SRM_P = 0.001
LEVEL = 0.05
COLUMNS = ("units", "bids", "wins", "spend_micros", "clicks", "conversions", "conversion_value_micros")
METRICS: Mapping[str, tuple[str, str, float]] = {
    "win rate": ("wins", "bids", 1.0),
    "click rate": ("clicks", "wins", 1.0),
    "cost per thousand": ("spend_micros", "wins", 1e-3),
    "cost per click": ("spend_micros", "clicks", 1e-6),
    "cost per conversion": ("spend_micros", "conversions", 1e-6),
    "return on spend": ("conversion_value_micros", "spend_micros", 1.0),
    "clicks per unit": ("clicks", "units", 1.0),
    "conversions per unit": ("conversions", "units", 1.0),
}
"""{metric: (sum, per sum, factor)}; money in units of the accounting currency."""


class NoExperiment(TagbidError):
    """There is nothing to report on."""


class Comparison(msgspec.Struct, frozen=True):
    """One metric of one arm against the first. difference, se, low, high (95 %) in the metric's unit; None where a sum
    it is divided by is 0, or no error can be told. p: two-sided, holm: adjusted for everything compared. cuped: an
    earlier period was used.
    """

    metric: str
    arm: str
    value: float | None
    control: float | None
    difference: float | None
    se: float | None
    low: float | None
    high: float | None
    p: float | None
    holm: float | None = None
    cuped: bool = False


class Report(msgspec.Struct, frozen=True):
    """totals: {arm: {column: sum}}. srm_p: chance of numbers of units as uneven as these. valid: not below .001."""

    layer: str
    totals: dict[str, dict[str, float]]
    srm_p: float
    valid: bool
    comparisons: list[Comparison]


def tables(bidlog: Path, layer: str, since_us: int = 0) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """({arm: float64 (BUCKETS, len(COLUMNS))}, the same of the time before since_us) from a bid log folder.

    Before `since_us` units are counted to the arm they are in later. Raises NoExperiment when no bid is in the layer.
    """
    paths = sorted(bidlog.glob("*.mpk"))
    if not paths:
        raise BadEvents(f"{bidlog}: no *.mpk bid log files; run the bidder first or name its bidlog directory")
    bids: dict[tuple[str, str], Bid] = {}
    paid: dict[tuple[str, str], int] = {}
    clicked: set[tuple[str, str]] = set()
    converted: dict[str, int] = {}
    for event in (event for path in paths for event in events.read_file(path)):
        if isinstance(event, Bid):
            bids.setdefault((event.event_id, event.imp_id), event)
        elif isinstance(event, Win | Billing | Impression):
            key = event.bid_id, event.imp_id
            paid[key] = max(event.price_micros, paid.get(key, 0))
        elif isinstance(event, Click):
            clicked.add((event.bid_id, event.imp_id))
        elif isinstance(event, Conversion) and event.bid_id:
            converted[event.bid_id] = converted.get(event.bid_id, 0) + event.value_micros
    prefix = f"{layer}:"
    arms = {unit_of(bid): bid.arm.removeprefix(prefix) for bid in bids.values() if bid.arm.startswith(prefix)}
    if not arms:
        raise NoExperiment(f"no bid of {bidlog} is in layer {layer!r}; see `layer` in the experiments file")
    during: dict[str, Floats] = {arm: np.zeros((BUCKETS, len(COLUMNS))) for arm in sorted(set(arms.values()))}
    before = {arm: np.zeros((BUCKETS, len(COLUMNS))) for arm in during}
    for unit, arm in arms.items():
        for table in (during, before):
            table[arm][bucket_of(unit), 0] += 1
    for key, bid in bids.items():
        unit = unit_of(bid)
        early = bid.time_us < since_us
        if unit not in arms or not (early or bid.arm.startswith(prefix)):
            continue
        row = (before if early else during)[arms[unit]][bucket_of(unit)]
        won = key in paid
        cost = paid.get(key, 0) / 1000
        row[1:] += (1, won, cost, key in clicked, key[0] in converted, converted.get(key[0], 0))
    return during, before


def unit_of(bid: Bid) -> bytes:
    """Whom or what a bid was assigned by."""
    return bid.uid if bid.uid is not None else bid.auction_id.encode()


def bucket_of(unit: bytes) -> int:
    """One of `BUCKETS`, independent of any assignment."""
    return int.from_bytes(blake2b(unit, digest_size=4, salt=b"jackknife").digest()) % BUCKETS


def report(
    layer: str,
    during: Mapping[str, Floats],
    before: Mapping[str, Floats] | None = None,
    shares: Mapping[str, float] | None = None,
) -> Report:
    """Compare every arm with the first. shares: of traffic by arm, None = equal. before: for CUPED, None = without."""
    arms = list(during)
    if len(arms) < 2:
        raise NoExperiment(f"layer {layer!r} has bids of one arm only ({', '.join(arms)}); a comparison takes two")
    totals = {
        arm: dict(zip(COLUMNS, (float(x) for x in table.sum(axis=0)), strict=True)) for arm, table in during.items()
    }
    srm_p = sample_ratio_p([totals[arm]["units"] for arm in arms], [1.0 if shares is None else shares[a] for a in arms])
    found = []
    for arm in arms[1:]:
        for metric, (top, bottom, factor) in METRICS.items():
            columns = COLUMNS.index(top), COLUMNS.index(bottom)
            sides = [during[name][:, columns] * np.array([factor, 1.0]) for name in (arms[0], arm)]
            covariates = None
            if before is not None and bottom == "units":
                covariates = [before[name][:, columns] * np.array([factor, 1.0]) for name in (arms[0], arm)]
            found.append(compare(metric, arm, sides[0], sides[1], covariates))
    return Report(layer, totals, srm_p, srm_p >= SRM_P, _holm(found))


def compare(
    metric: str, arm: str, control: Floats, treated: Floats, covariates: Sequence[Floats] | None = None
) -> Comparison:
    """One ratio metric. control, treated: float64 (BUCKETS, 2), sums above and below the line, per bucket.

    covariates: the same of the time before, (control, treated); for metrics per unit.
    """
    if not (control[:, 1].sum() > 0 and treated[:, 1].sum() > 0):
        return Comparison(metric, arm, None, None, None, None, None, None, None)
    value, other = (float(side[:, 0].sum() / side[:, 1].sum()) for side in (treated, control))
    sides = [control, treated]
    if covariates is not None:
        sides = _cuped(sides, covariates)
    left_out = [_without_each(side) for side in sides]
    known = (left_out[0][1] > 0) & (left_out[1][1] > 0)
    if not known.all():  # a single bucket holds all there is: no error can be told
        return Comparison(metric, arm, value, other, value - other, None, None, None, None)
    differences = left_out[1][0] / left_out[1][1] - left_out[0][0] / left_out[0][1]
    difference = float(sides[1][:, 0].sum() / sides[1][:, 1].sum() - sides[0][:, 0].sum() / sides[0][:, 1].sum())
    n = len(differences)
    se = math.sqrt((n - 1) / n * float(((differences - differences.mean()) ** 2).sum()))
    if se <= 1e-12 * max(abs(value), abs(other)):  # nothing varies, as where nobody clicked: that is no certainty
        return Comparison(metric, arm, value, other, difference, None, None, None, None)
    width = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * se
    p = float(2 * stats.t.sf(abs(difference) / se, n - 1))
    return Comparison(
        metric,
        arm,
        value,
        other,
        difference,
        se,
        difference - width,
        difference + width,
        p,
        None,
        covariates is not None,
    )


def sample_ratio_p(units: Sequence[float], shares: Sequence[float]) -> float:
    """Chance of numbers of units at least as far from their shares (chi-square)."""
    total, whole = sum(units), sum(shares)
    return float(stats.chisquare(units, [total * share / whole for share in shares]).pvalue)


def _without_each(side: Floats) -> tuple[Floats, Floats]:
    rest = side.sum(axis=0) - side
    return rest[:, 0], rest[:, 1]


def _cuped(sides: Sequence[Floats], covariates: Sequence[Floats]) -> list[Floats]:
    """Sums above the line less what the same units' past explains: theta = cov / var over the buckets of both arms."""
    y = np.concatenate([side[:, 0] / np.maximum(side[:, 1], 1) for side in sides])
    x = np.concatenate([side[:, 0] / np.maximum(side[:, 1], 1) for side in covariates])
    variance = float(x.var())
    if variance == 0:
        return list(sides)
    theta = float(((y - y.mean()) * (x - x.mean())).mean()) / variance
    mean = sum(float(c[:, 0].sum()) for c in covariates) / sum(float(c[:, 1].sum()) for c in covariates)
    return [
        np.column_stack((side[:, 0] - theta * (past[:, 0] - mean * side[:, 1]), side[:, 1]))
        for side, past in zip(sides, covariates, strict=True)
    ]


def _holm(found: Iterable[Comparison]) -> list[Comparison]:
    """The adjusted p-values: the smallest times the number of tests, and so on, never falling."""
    comparisons = list(found)
    tested = sorted((c.p, i) for i, c in enumerate(comparisons) if c.p is not None)
    least = 0.0
    for rank, (p, i) in enumerate(tested):
        least = max(least, min(1.0, p * (len(tested) - rank)))
        comparisons[i] = msgspec.structs.replace(comparisons[i], holm=least)
    return comparisons
