"""Which ads of one imp are scored, and what is offered of them.

The `max_candidates` ads that can be worth most are scored in one call; then more as long as one of them can be worth
more than the best so far. The ads of every deal are looked for by themselves, so that a deal is answered however dear
the ads of the open auction are.
"""

from collections.abc import Sequence

from bidder import targeting
from bidder.offers import Auction, Offer, priced
from bidder.openrtb import Deal, Imp
from bidder.openrtb_media import Timed
from bidder.pricing import floor_micros
from bidder.scoring import score
from bidder.snapshot import Snapshot
from bidder.view import View, context
from dmp.schema import User
from models.context import Context
from models.lookups import ones

MOST_SCORED = 1_000
"""Ads scored for one imp before its best is taken for the best of all: about 0.7 ms, and no eligible ad is left out in
portfolios where fewer than that fit."""

POD_CHOICES = 20  # offers kept for a pod to be filled from


def offers_for(
    index: int, mask: int, seen: View, user: User | None, snapshot: Snapshot, currency: str, wanted: int, kept: int = 1
) -> tuple[tuple[Offer, ...], Context | None]:
    """Offers for one imp, best first, from the ads of a non-empty mask; no offer means all are below the floor.

    index: position in `request.imp`. user: as the models may see them. wanted: how many offers may be of use, at least
    `kept`; a pod may use more. kept: offers of one lot that no ad left out may beat, as they are sent together.
    """
    settings = snapshot.settings
    imp = seen.request.imp[index]
    floor = floor_micros(imp.bidfloor, imp.bidfloorcur, currency, settings.rates)
    deals = targeting.deals_of(imp) if imp.pmp is not None else ()
    timed = imp.video is not None or imp.audio is not None
    guided = guidance(imp) if timed else {}
    if floor is None and not deals and not guided:
        return (), None
    rate = settings.rates[currency]
    floor_usd = round((floor or 0) * rate)
    limit = settings.max_candidates
    floor_bound = 0 if deals or guided else floor_usd - 1  # a micro for rounding; deals have floors of their own
    if deals:
        lots = _lots(mask, deals, snapshot)
        candidates = _next(lots, 0, limit, [floor_bound] * len(lots), snapshot)
    else:
        lots = [mask]
        candidates = _worth(ones(mask, limit), floor_bound, snapshot)
    if not candidates:
        return (), None
    fences = snapshot.index.fences
    inside = () if seen.lat is None else tuple([fence.number for fence in fences.at(seen.lat, seen.lon)])
    where = context(seen, imp, floor_usd, inside)
    if timed and pod_of(imp):
        kept, wanted = POD_CHOICES, max(wanted, POD_CHOICES)
    auction = Auction(index, imp, seen.at, currency, rate, floor, guided, where, wanted, deals)
    scores = score(candidates, seen, where, user, snapshot)
    offers = priced(auction, candidates, scores, seen.request.id, snapshot)
    # There may be more: go on until none of them can be worth more.
    while len(candidates) >= limit and len(candidates) < MOST_SCORED:
        for ad in candidates if deals else ():
            lots = [lot & ~(1 << ad) for lot in lots]
        after = 0 if deals else candidates[-1] + 1
        batch = _next(lots, after, limit, _bounds(len(lots), offers, kept, floor_bound, snapshot), snapshot)
        if not batch:
            break
        scores = scores.with_more(score(batch, seen, where, user, snapshot))
        candidates += batch
        offers = priced(auction, candidates, scores, seen.request.id, snapshot)
        limit *= 2
    return offers, where


def _lots(mask: int, deals: Sequence[Deal], snapshot: Snapshot) -> list[int]:
    """The ads of `mask` that may bid in the open auction, then those that may answer each deal."""
    index = snapshot.index
    return [mask & index.open, *(mask & targeting.deal_ads(index, deal) for deal in deals)]


def _bounds(lots: int, offers: Sequence[Offer], kept: int, least: int, snapshot: Snapshot) -> list[int]:
    """What an ad must be able to be worth to be among the `kept` best of each lot."""
    bounds, found = [least] * lots, [0] * lots
    for offer in offers:
        found[offer.lot] += 1
        if found[offer.lot] == kept:
            bounds[offer.lot] = max(least, _to_beat(offer, snapshot))
    return bounds


def _next(lots: Sequence[int], after: int, limit: int, bounds: Sequence[int], snapshot: Snapshot) -> list[int]:
    """The first `limit` ads of every lot from position `after` on that can be worth its bound, each ad once."""
    found = [
        _worth(ones(lot >> after << after, limit), bound, snapshot) for lot, bound in zip(lots, bounds, strict=True)
    ]
    return found[0] if len(found) == 1 else sorted({ad for ads in found for ad in ads})


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


def guidance(imp: Imp) -> dict[str, Timed]:
    """The media of an imp that set floors by length."""
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
