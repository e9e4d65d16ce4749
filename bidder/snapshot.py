"""What one bidder process decides with: campaigns, index, model and policy as one immutable object.

Built off the loop, swapped by reference; a request keeps the one it started with.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from bidder import fences, indexing, traffic
from bidder.campaigns import Campaign, Portfolio
from bidder.config import BidderConfig
from bidder.creatives import Creative
from bidder.experiments import Experiment
from bidder.index import Index
from bidder.pacing import Pace
from bidder.parts import Parts
from bidder.pricing import Goal, value_micros
from bidder.results import PAID_RESULTS, Results
from bidder.results import build as results_of
from bidder.tastes import UNKNOWN, Tastes
from bidder.topics import Topics
from bidder.traffic import Quality
from dmp import keys
from dmp.taxonomy import tag_id
from models import features
from models.context import Ad
from models.forest import sigmoid
from models.landscape import Landscape
from models.pairs import PairColumns, columns_of, filler
from models.registry import Model


class Paces:
    """How campaigns bid at the moment; replaced whole, by the loop.

    of: campaign id -> pace, absent = all out. drawn: campaign id -> factor that its worth is ranked by, absent = 1
    (`bidder.drawing`); most: the highest of them, which bounds how far down the ads a better one may stand.
    """

    __slots__ = ("drawn", "most", "of")

    def __init__(self) -> None:
        self.of: Mapping[str, Pace] = {}
        self.drawn: Mapping[str, float] = {}
        self.most = 1.0

    def draw(self, drawn: Mapping[str, float]) -> None:
        """Rank by these from now on."""
        self.drawn = drawn
        self.most = max([1.0, *drawn.values()])


SLACK = 1e-12  # exp and the calibration's interpolation are monotone only up to their rounding


class Snapshot(Struct, frozen=True):
    """One ad is one creative of one campaign; `ads`, `owners`, `creatives`, `values` and the rows of `masks` line up.

    Ads stand in falling order of `bounds`, the most a thousand impressions of them can be worth in CPM micro-USD, so
    the lowest bits of an index mask are the best candidates. pairs: fills the ads' pair features. owners: position in
    `portfolio.campaigns` of an ad's campaign; by_ad: that campaign; names, goals, prices: of it. by_results: whether
    any is paid by what follows a click. lengths: seconds of a clip, 0 for what has none. campaign_bits: campaign id ->
    the mask of its ads. highest: float64 (ads,), no click probability is above it, before ratios. masks: uint64 (ads,
    trees), the forest's campaign side; None without a model; parts: its request side. values: campaign features per ad.
    version: names this in logs. landscape: of prices, None = not known. paces and the index's topics: the parts that
    change under a snapshot, by reference. results: models of what follows a click. ratios: per ad, factors on click
    probabilities from what was clicked lately; None = all 1. tastes: the space that users and ads have directions in.
    """

    portfolio: Portfolio
    settings: BidderConfig
    index: Index
    ads: tuple[Ad, ...]
    pairs: PairColumns
    owners: tuple[int, ...]
    by_ad: tuple[Campaign, ...]
    names: tuple[str, ...]
    goals: tuple[Goal, ...]
    prices: tuple[int, ...]
    by_results: bool
    creatives: tuple[Creative, ...]
    bounds: tuple[int, ...]
    lengths: tuple[float, ...]
    campaign_bits: dict[str, int]
    quality: Quality
    model: Model | None
    masks: npt.NDArray[np.uint64] | None
    parts: Parts | None
    values: tuple[list[float], ...]
    version: str
    landscape: Landscape | None
    paces: Paces
    experiments: tuple[Experiment, ...]
    highest: npt.NDArray[np.float64]
    results: Results = Results()
    ratios: tuple[float, ...] | None = None
    tastes: Tastes = UNKNOWN

    def mask_of(self, campaigns: Iterable[str]) -> int:
        """The ads of some campaigns, for `decide`'s `exhausted`; ids that are not in the portfolio are ignored."""
        mask = 0
        for name in campaigns:
            mask |= self.campaign_bits.get(name, 0)
        return mask


def build(
    portfolio: Portfolio,
    model: Model | None,
    settings: BidderConfig,
    version: str,
    landscape: Landscape | None = None,
    paces: Paces | None = None,
    experiments: tuple[Experiment, ...] = (),
    outcomes: Mapping[str, Model] | None = None,
    ratios: Mapping[str, float] | None = None,
    topics: Topics | None = None,
    tastes: Tastes | None = None,
    https: bool = True,
    too_large: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> Snapshot:
    """Index and campaign side of the model for a portfolio. Takes seconds at 10,000 ads: call it off the loop.

    landscape: prices of first-price auctions, None = not known. paces: None = nothing is paced.
    outcomes: models of what follows an impression, of the click model's training (`bidder.results.load`).
    ratios: {campaign: factor on its click probabilities} (`models.live`), 1 where absent.
    topics: what is hot, None = nothing ever is. tastes: None = nobody's is known. https, too_large: as in
    `indexing.build`.
    """
    rows = [
        (position, campaign, creative)
        for position, campaign in enumerate(portfolio.campaigns)
        for creative in campaign.creatives
    ]
    tastes = tastes or UNKNOWN
    ads = [ad_of(campaign, creative, tastes) for _, campaign, creative in rows]
    masks: npt.NDArray[np.uint64] | None = None
    highest = np.full(len(ads), settings.prior_ctr)
    values: list[list[float]] = [[] for _ in ads]
    if model is not None:
        values = [features.campaign_values(model.vocabulary, ad) for ad in ads]
        masks = model.forest.campaign_masks(np.array(values))
        highest = model.calibrate(sigmoid(model.forest.upper_bounds(masks)))
    results = Results() if outcomes is None or not values else results_of(dict(outcomes), values)
    factors = _factors(model, [campaign.id for _, campaign, _ in rows], ratios)
    terms = [(campaign.goal, campaign.price_micros) for _, campaign, _ in rows]
    bounds = _bounds(terms, highest, factors, results)
    order = sorted(range(len(rows)), key=lambda i: (-bounds[i], i))
    rows = [rows[i] for i in order]
    owners = tuple(position for position, _, _ in rows)
    bits: dict[str, int] = {}
    for i, (_, campaign, _) in enumerate(rows):
        bits[campaign.id] = bits.get(campaign.id, 0) | 1 << i
    return Snapshot(
        portfolio=portfolio,
        settings=settings,
        index=indexing.build(
            [(campaign, creative) for _, campaign, creative in rows],
            frozenset(name for name, exchange in settings.exchanges.items() if exchange.audits),
            topics,
            https,
            too_large,
        ),
        ads=tuple(ads[i] for i in order),
        pairs=filler(columns_of([ads[i] for i in order])),
        owners=owners,
        by_ad=tuple(campaign for _, campaign, _ in rows),
        names=tuple(campaign.id for _, campaign, _ in rows),
        goals=tuple(campaign.goal for _, campaign, _ in rows),
        prices=tuple(campaign.price_micros for _, campaign, _ in rows),
        by_results=any(campaign.goal in PAID_RESULTS for campaign in portfolio.campaigns),
        creatives=tuple(creative for _, _, creative in rows),
        bounds=tuple(bounds[i] for i in order),
        lengths=tuple(0.0 if creative.clip is None else creative.clip.duration_s for _, _, creative in rows),
        campaign_bits=bits,
        quality=traffic.load(settings),
        model=model,
        masks=None if masks is None else np.ascontiguousarray(masks[order]),
        parts=None if model is None else Parts(model),
        values=tuple(values[i] for i in order),
        version=version,
        landscape=landscape,
        paces=paces or Paces(),
        experiments=experiments,
        highest=highest[order],
        results=results.ordered(order),
        ratios=None if factors is None else tuple(factors[order].tolist()),
        tastes=tastes,
    )


def recalibrated(served: Snapshot, ratios: Mapping[str, float]) -> Snapshot:
    """The same snapshot with other ratios; all else stays where it is in memory, and the ads in their order.

    An ad may then stand before one that can be worth more, so a bound is the highest of all from there on: still more
    than any of them is worth, only less tight. No ad is lost by it where fewer than `bidder.shortlist.MOST_SCORED` fit,
    some may be scored in vain; with the next change of a file or model the order is made anew.
    """
    factors = _factors(served.model, served.names, ratios)
    terms = list(zip(served.goals, served.prices, strict=True))
    bounds = _bounds(terms, served.highest, factors, served.results)
    return msgspec.structs.replace(
        served,
        ratios=None if factors is None else tuple(factors.tolist()),
        bounds=tuple(accumulate(reversed(bounds), max))[::-1],
    )


def _factors(
    model: Model | None, campaigns: Iterable[str], ratios: Mapping[str, float] | None
) -> npt.NDArray[np.float64] | None:
    """(ads,) what click chances are multiplied by; None = by 1, all of them. campaigns: of the ads."""
    return np.array([ratios.get(name, 1.0) for name in campaigns]) if ratios and model is not None else None


def _bounds(
    terms: Sequence[tuple[Goal, int]],
    highest: npt.NDArray[np.float64],
    factors: npt.NDArray[np.float64] | None,
    results: Results,
) -> list[int]:
    """The most a thousand impressions of each ad can be worth, CPM micro-USD. terms: goal and price of its campaign."""
    chances = highest if factors is None else np.minimum(1.0, highest * factors)
    most = results.most([goal for goal, _ in terms], (chances * (1 + SLACK)).tolist())
    return [value_micros(goal, price, chance) for (goal, price), chance in zip(terms, most, strict=True)]


def ad_of(campaign: Campaign, creative: Creative, tastes: Tastes = UNKNOWN) -> Ad:
    """One creative of a campaign as the models see it."""
    interest = tag_id(campaign.interest) if campaign.interest else 0
    wanted = tuple(tag_id(name) for name in campaign.targeting.tags)
    return Ad(
        campaign=campaign.id,
        creative=creative.id,
        advertiser=campaign.advertiser,
        category=campaign.cat[0] if campaign.cat else "",
        interest=interest,
        width=creative.w,
        height=creative.h,
        target_tags=wanted,
        audiences=frozenset(keys.number(name) for name in campaign.targeting.audiences),
        preference=tastes.about((interest, *wanted)),
        fences=frozenset(map(fences.number, campaign.targeting.radius + campaign.targeting.polygons)),
    )
