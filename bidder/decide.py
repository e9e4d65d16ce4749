"""The decision, pure: a request, a user, a snapshot and the time become ranked offers or a reason.

Steps: currency -> request-wide rules -> per imp: rules, floor, the `max_candidates` ads that can be worth most, one
call of the forest, value, price; then more ads as long as one of them can be worth more than the best so far. Nothing
here reads a clock, a file, the store or a global.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from bidder import targeting, traffic
from bidder.config import BidderConfig, ExchangeConfig
from bidder.openrtb import Deal, Imp, Reason, Request
from bidder.openrtb_media import Timed
from bidder.pricing import bid_currency, floor_micros, length_floor, price_micros, value_micros
from bidder.privacy import PrivacyDecision
from bidder.quoting import Quote, Quotes
from bidder.redact import permitted, strip
from bidder.scoring import Scores, score
from bidder.snapshot import Snapshot
from bidder.tastes import UNASKED, Result
from bidder.view import View, context, view
from dmp.schema import User
from models.features import Context


class Offer(Struct, frozen=True, gc=False):
    """One bid we are willing to make.

    imp_index: position in `request.imp`. ad_index: position in `snapshot.ads`. price_micros: CPM in `currency`, rounded
    as it will be sent. price_usd_micros: the same in the currency of budgets. value_micros: what the impression is
    worth to us, CPM micro-USD. floor_micros: the floor it met, in `currency`. at: auction type that priced it. deal: id
    to echo, "" for the open auction. lot: 0 for that, else 1 + the position of the deal; bids of different lots stand
    beside each other (implementation guide, 7.3). pctr: calibrated click probability, the prior without a model. sides:
    the features behind it, of request, campaign and pair; () without a model. quote: pace and shading.
    """

    imp_index: int
    ad_index: int
    price_micros: int
    price_usd_micros: int
    value_micros: int
    floor_micros: int
    currency: str
    at: int
    deal: str
    pctr: float
    sides: tuple[list[float], ...] = ()
    lot: int = 0
    quote: Quote | None = None

    @property
    def worth_micros(self) -> int:
        """The value after pacing, CPM micro-USD."""
        return self.value_micros if self.quote is None else int(self.quote.worth)

    @property
    def row(self) -> list[float]:
        """The features in column order, [] without a model; joined here because one offer in five is logged."""
        return [value for side in self.sides for value in side]

    @property
    def vector(self) -> npt.NDArray[np.float64] | None:
        """float64 (40,): what the bid log stores, or None without a model."""
        return np.array(self.row) if self.sides else None


class Decision(Struct, frozen=True):
    """offers: per imp (same order as `request.imp`), best first, maybe empty, one per campaign and lot.

    A capped campaign stands in the list of one imp only, so any choice of one offer per imp is allowed.
    reason: BID when there is an offer, else why there is none. reasons: the same per imp. contexts: per imp, what
    the models saw and the bid log stores; None where nothing got that far. currency: of every offer in it.
    vector: what the user would like now, as the models saw it; taste: what came of the stored one (`bidder.tastes`).
    """

    offers: tuple[tuple[Offer, ...], ...]
    reason: Reason
    reasons: tuple[Reason, ...] = ()
    contexts: tuple[Context | None, ...] = ()
    currency: str = "USD"
    vector: bytes = b""
    taste: Result = ""


MOST_SCORED = 1_000
"""Ads scored for one imp before its best is taken for the best of all: about 0.7 ms, and no eligible ad is left out in
portfolios where fewer than that fit."""

POD_CHOICES = 20  # offers kept for a pod to be filled from
OPEN: tuple[tuple[int, Deal | None], ...] = ((0, None),)

_ORDER = {reason: i for i, reason in enumerate(Reason)}


def no_bid(request: Request, reason: Reason) -> Decision:
    """The same reason for every imp."""
    n = len(request.imp)
    return Decision(((),) * n, reason, (reason,) * n, (None,) * n)


def decide(
    request: Request,
    privacy: PrivacyDecision,
    user: User | None,
    snapshot: Snapshot,
    now_us: int,
    exchange: ExchangeConfig,
    name: str,
    exhausted: int = 0,
    late: Callable[[], bool] = lambda: False,
) -> Decision:
    """What to offer for each imp. user: None when nothing may be or could be read about the user.

    name: the exchange's. exhausted: ads that have no money right now (`Snapshot.mask_of`). late: whether there is no
    time for another imp; asked before each but the first. Floats enter only as
    probabilities and exchange rates; equal inputs give equal offers.
    """
    settings = snapshot.settings
    if request.refuse is not None:
        return no_bid(request, Reason.RESTRICTION_UNREADABLE)
    if not privacy.bid:
        return no_bid(request, Reason.PRIVACY)
    refused = traffic.refusal(request, exchange, settings, snapshot.quality)
    if refused is not None:
        return no_bid(request, refused)
    if not snapshot.ads:
        return no_bid(request, Reason.NO_CAMPAIGNS)
    imps = request.imp
    reasons = [_imp_reason(imp) for imp in imps]
    if Reason.BID not in reasons:
        return Decision(((),) * len(imps), _furthest(reasons), tuple(reasons), (None,) * len(imps))
    currency = bid_currency(request.cur, settings.rates)
    if currency is None:
        return no_bid(request, Reason.CURRENCY)
    request = strip(request, privacy)
    user = usable(user, privacy, settings)
    seen = view(request, user, now_us, exchange, name, privacy.frequency_cap)
    mask, reason = targeting.eligible(snapshot.index, seen)
    if not mask:
        return no_bid(request, reason)
    mask &= ~exhausted
    if not mask:
        return no_bid(request, Reason.BUDGET)
    vector, taste = UNASKED
    if user is not None and user.vector:
        vector, taste = snapshot.tastes.lately(user, request.id, now_us)
        seen = replace(seen, user=replace(user, vector=vector))
    offers: list[tuple[Offer, ...]] = [()] * len(imps)
    contexts: list[Context | None] = [None] * len(imps)
    names = Counter(imp.id for imp in imps) if len(imps) > 1 else {}
    for i, imp in enumerate(imps):
        if reasons[i] is not Reason.BID:
            continue
        if names and names[imp.id] > 1:  # an answer could not say which of them it is for
            reasons[i] = Reason.IMP_UNUSABLE
            continue
        if i and late():
            reasons[i] = Reason.NO_TIME
            continue
        candidates, reasons[i] = targeting.eligible_for(snapshot.index, seen, imp, mask)
        if candidates:
            offers[i], contexts[i] = _offers(i, imp, candidates, seen, snapshot, currency)
            if not offers[i]:
                reasons[i] = Reason.BELOW_FLOOR
    if len(imps) > 1:
        _keep_capped_once(offers, snapshot)
        reasons = [
            Reason.FREQUENCY_CAP if reason is Reason.BID and not found else reason
            for reason, found in zip(reasons, offers, strict=True)
        ]
    return Decision(tuple(offers), _furthest(reasons), tuple(reasons), tuple(contexts), currency, vector, taste)


def usable(user: User | None, privacy: PrivacyDecision, settings: BidderConfig) -> User | None:
    """As much of a user's record as privacy and the operator allow; contacts alone with tags off, so that caps hold."""
    user = permitted(user, privacy)
    if user is None or (settings.use_tags and settings.use_longterm and settings.use_realtime):
        return user
    if not settings.use_tags:
        return User(contacts=user.contacts)
    return replace(
        user,
        tags=user.tags if settings.use_longterm else {},
        vector=user.vector if settings.use_longterm else b"",
        realtime=user.realtime if settings.use_realtime else None,
    )


def _imp_reason(imp: Imp) -> Reason:
    if imp.unusable is not None:
        return Reason.IMP_UNUSABLE
    if imp.banner is None and imp.video is None and imp.audio is None and imp.native is None:
        return Reason.NO_MEDIA_FIT
    return Reason.BID


def _furthest(reasons: Sequence[Reason]) -> Reason:
    """BID when any imp has one, else the reason of the imp that passed the most rules."""
    return Reason.BID if Reason.BID in reasons else max(reasons, key=_ORDER.__getitem__)


def _offers(
    imp_index: int, imp: Imp, mask: int, seen: View, snapshot: Snapshot, currency: str
) -> tuple[tuple[Offer, ...], Context | None]:
    """Offers for one imp, best first, from the ads of a non-empty mask; no offer means all are below the floor."""
    settings = snapshot.settings
    rates = settings.rates
    floor = floor_micros(imp.bidfloor, imp.bidfloorcur, currency, rates)
    deals = imp.pmp.deals if imp.pmp is not None else None
    guided = _guidance(imp)
    if floor is None and not deals and not guided:
        return (), None
    rate = rates[currency]
    floor_usd = round((floor or 0) * rate)
    limit = settings.max_candidates
    floor_bound = 0 if deals or guided else floor_usd - 1  # a micro for rounding; deals have floors of their own
    candidates = _worth(targeting.members(mask, limit), floor_bound, snapshot)
    if not candidates:
        return (), None
    fences = snapshot.index.fences
    inside = tuple(fence.number for fence in fences.at(seen.lat, seen.lon)) if fences else ()
    where = context(seen, imp, floor_usd, inside)
    scores = score(candidates, where, seen, snapshot)
    offers = priced(imp_index, candidates, scores, seen, snapshot, currency, floor, deals, where)
    while len(candidates) == limit < MOST_SCORED:  # there may be more: go on until none of them can be worth more
        best = _to_beat(offers[0], snapshot) if offers else 0
        after = candidates[-1] + 1
        batch = _worth(targeting.members(mask >> after << after, limit), max(floor_bound, best), snapshot)
        if not batch:
            break
        more = score(batch, where, seen, snapshot)
        candidates += batch
        scores = Scores(
            scores.chances + more.chances, scores.expected + more.expected, scores.request, scores.pairs + more.pairs
        )
        offers = priced(imp_index, candidates, scores, seen, snapshot, currency, floor, deals, where)
        limit *= 2
    return offers, where


def _to_beat(best: Offer, snapshot: Snapshot) -> int:
    """The least worth that may rank before an offer."""
    paces = snapshot.paces
    if not paces.drawn:
        return best.worth_micros + 1
    return int(best.worth_micros * paces.drawn.get(snapshot.by_ad[best.ad_index].id, 1.0) / paces.most)


def _worth(candidates: list[int], least: int, snapshot: Snapshot) -> list[int]:
    """Those that can be worth at least so much; ads stand by the most they can be worth, so they come first."""
    bounds = snapshot.bounds
    while candidates and bounds[candidates[-1]] < least:
        candidates.pop()
    return candidates


def priced(
    imp_index: int,
    candidates: list[int],
    scores: Scores,
    seen: View,
    snapshot: Snapshot,
    currency: str,
    floor: int | None,
    deals: Sequence[Deal] | None,
    where: Context,
) -> tuple[Offer, ...]:
    """The best offers of scored candidates, at most one per campaign. floor: of the open auction, in `currency`."""
    settings = snapshot.settings
    rates = settings.rates
    rate = rates[currency]
    chances = scores.chances
    by_ad = snapshot.by_ad
    values = [
        value_micros(by_ad[ad].goal, by_ad[ad].price_micros, expected)
        for ad, expected in zip(candidates, scores.expected, strict=True)
    ]
    quotes = Quotes(snapshot, where, chances, seen.request.id)
    worths = quotes.worths(candidates, values)
    drawn = snapshot.paces.drawn
    ranks = worths
    if drawn:
        ranks = [worth * drawn.get(by_ad[ad].id, 1.0) for ad, worth in zip(candidates, worths, strict=True)]
    found: list[Offer] = []
    used: set[tuple[int, int]] = set()
    ceiling = settings.max_price_micros / rate
    imp = seen.request.imp[imp_index]
    guided = _guidance(imp)
    wanted = max(settings.offers, POD_CHOICES if pod_of(imp) else 0)
    for position in sorted(range(len(values)), key=ranks.__getitem__, reverse=True):  # the better bound first on a tie
        ad, value = candidates[position], values[position]
        owner = snapshot.owners[ad]
        below = False
        for lot, deal in _deals(deals, ad, snapshot) if by_ad[ad].deals else OPEN:
            if (lot, owner) in used:
                continue
            at, least = seen.at, floor
            if deal is not None:
                told = length_floor(deal, snapshot.lengths[ad], deal.bidfloor)
                least = floor_micros(told, deal.bidfloorcur, currency, rates)
                at = deal.at if deal.at in (1, 2, 3) else seen.at
            elif guided and (medium := guided.get(snapshot.creatives[ad].media)) is not None:
                told = length_floor(medium, snapshot.lengths[ad], imp.bidfloor)
                least = floor_micros(told, imp.bidfloorcur, currency, rates)
            quote = quotes.quote(ad, worths[position], at)
            at = quotes.type_of(at)
            price = None if least is None else price_micros(quote.worth / rate, least, at, quote.bid / rate, ceiling)
            if price is None or least is None:
                below = True
                continue
            used.add((lot, owner))
            found.append(
                Offer(
                    imp_index,
                    ad,
                    price,
                    price if currency == "USD" else round(price * rate),
                    value,
                    least,
                    currency,
                    at,
                    "" if deal is None else deal.id,
                    chances[position],
                    (scores.request, snapshot.values[ad], scores.pairs[position]) if scores.request else (),
                    lot,
                    quote,
                )
            )
        if not deals:
            if len(found) == wanted:
                break
            if below and not guided and not drawn:
                break  # every further ad is worth less
    return tuple(found)


def _deals(deals: Sequence[Deal] | None, ad: int, snapshot: Snapshot) -> list[tuple[int, Deal | None]]:
    """(lot, deal) of the offered deals that this ad may answer."""
    return [
        (lot, deal) for lot, deal in enumerate(deals or (), 1) if targeting.deal_ads(snapshot.index, deal) >> ad & 1
    ]


def _guidance(imp: Imp) -> dict[str, Timed]:
    """The media of an imp that set floors by length."""
    if imp.video is None and imp.audio is None:
        return {}
    return {
        name: timed
        for name, timed in (("video", imp.video), ("audio", imp.audio))
        if timed is not None and (timed.mincpmpersec or timed.durfloors)
    }


def pod_of(imp: Imp) -> Timed | None:
    """The dynamic pod an imp stands for: several ads, as long as they fit into `poddur` and `maxseq`."""
    for timed in (imp.video, imp.audio):
        if timed is not None and timed.poddur is not None:
            return timed
    return None


def _keep_capped_once(offers: list[tuple[Offer, ...]], snapshot: Snapshot) -> None:
    """Leave a campaign with a frequency cap in the list of the one imp where it is worth most (the first on a tie)."""
    best: dict[int, Offer] = {}
    for found in offers:
        for offer in found:
            owner = snapshot.owners[offer.ad_index]
            if snapshot.by_ad[offer.ad_index].caps and (
                owner not in best or best[owner].value_micros < offer.value_micros
            ):
                best[owner] = offer
    for i, found in enumerate(offers):
        offers[i] = tuple(
            offer for offer in found if best.get(snapshot.owners[offer.ad_index], offer).imp_index == offer.imp_index
        )
