"""What is offered for one imp: ads that passed its rules, scored, valued, ranked and priced.

The `max_candidates` ads that can be worth most are scored in one call; then more as long as one of them can be worth
more than the best so far. Every deal is a lot of its own beside the open auction, and its ads are looked for by
themselves, so that a deal is answered however dear the ads of the open auction are. Only offers somebody may want are
priced, as a price costs as much as a score.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from bidder import targeting
from bidder.openrtb import Deal, Imp
from bidder.openrtb_media import Timed
from bidder.pricing import floor_micros, length_floor, price_micros, value_micros
from bidder.quoting import Quote, Quotes
from bidder.scoring import Scores, score
from bidder.snapshot import Snapshot
from bidder.view import View, context
from dmp.schema import User
from models.context import Context
from models.features import in_columns
from models.lookups import ones
from models.pairs import Columns, row_of

MOST_SCORED = 1_000
"""Ads scored for one imp before its best is taken for the best of all: about 0.7 ms, and no eligible ad is left out in
portfolios where fewer than that fit."""

POD_CHOICES = 20  # offers kept for a pod to be filled from
OPEN: tuple[tuple[int, Deal | None], ...] = ((0, None),)


class Features(Struct, frozen=True, gc=False):
    """What a model saw of one candidate. request: in parts; campaign: of its ad; pairs: of all candidates by column,
    this one at `position`.
    """

    request: tuple[list[float], ...]
    campaign: list[float]
    pairs: Columns
    position: int


class Offer(Struct, frozen=True, gc=False):
    """One bid we are willing to make.

    imp_index: position in `request.imp`. ad_index: position in `snapshot.ads`. price_micros: CPM in `currency`, rounded
    as it will be sent. price_usd_micros: the same in the currency of budgets. value_micros: what the impression is
    worth to us, CPM micro-USD. floor_micros: the floor it met, in `currency`. at: auction type that priced it. deal: id
    to echo, "" for the open auction. lot: 0 for that, else 1 + the position of the deal; bids of different lots stand
    beside each other (implementation guide, 7.3). pctr: calibrated click probability, the prior without a model.
    features: those behind it, None without a model. quote: pace and shading.
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
    features: Features | None = None
    lot: int = 0
    quote: Quote | None = None

    @property
    def worth_micros(self) -> int:
        """The value after pacing, CPM micro-USD."""
        return self.value_micros if self.quote is None else int(self.quote.worth)

    @property
    def row(self) -> list[float]:
        """The features in column order, [] without a model; joined here because one offer in five is logged."""
        known = self.features
        if known is None:
            return []
        return [*in_columns(*known.request), *known.campaign, *row_of(known.pairs, known.position)]


class Auction(Struct, frozen=True, gc=False):
    """One imp as it is bid for. index: its position in `request.imp`. at: auction type as announced. currency: of the
    bid; rate: US dollars for one unit of it. floor: of the open auction, in `currency`, None when it cannot be told.
    guided: media of the imp that set floors by length. wanted: offers that may be of use, the best ones; beside deals
    all are made. deals: those that can be answered.
    """

    index: int
    imp: Imp
    at: int
    currency: str
    rate: float
    floor: int | None
    guided: dict[str, Timed]
    where: Context
    wanted: int
    deals: Sequence[Deal]


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
    inside = () if seen.lat is None else tuple(fence.number for fence in fences.at(seen.lat, seen.lon))
    where = context(seen, imp, floor_usd, inside)
    if timed and pod_of(imp):
        kept, wanted = POD_CHOICES, max(wanted, POD_CHOICES)
    auction = Auction(index, imp, seen.at, currency, rate, floor, guided, where, wanted, deals)
    scores = score(candidates, where, user, seen.now_us, snapshot)
    offers = priced(auction, candidates, scores, seen.request.id, snapshot)
    # There may be more: go on until none of them can be worth more.
    while len(candidates) >= limit and len(candidates) < MOST_SCORED:
        for ad in candidates if deals else ():
            lots = [lot & ~(1 << ad) for lot in lots]
        after = 0 if deals else candidates[-1] + 1
        batch = _next(lots, after, limit, _bounds(len(lots), offers, kept, floor_bound, snapshot), snapshot)
        if not batch:
            break
        scores = scores.with_more(score(batch, where, user, seen.now_us, snapshot))
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


def priced(
    auction: Auction, candidates: list[int], scores: Scores, request: str, snapshot: Snapshot
) -> tuple[Offer, ...]:
    """The best offers of scored candidates, at most one per campaign and lot. request: its id, for chance by hash."""
    settings = snapshot.settings
    rates, rate, currency = settings.rates, auction.rate, auction.currency
    chances = scores.chances
    goals, prices = snapshot.goals, snapshot.prices
    values = [
        prices[ad] if goals[ad] == "cpm" else value_micros(goals[ad], prices[ad], expected)
        for ad, expected in zip(candidates, scores.expected, strict=True)
    ]
    quotes = Quotes(snapshot, auction.where, chances, request)
    worths = quotes.worths(candidates, values)
    drawn = snapshot.paces.drawn
    ranks = worths
    if drawn:
        names = snapshot.names
        ranks = [worth * drawn.get(names[ad], 1.0) for ad, worth in zip(candidates, worths, strict=True)]
    found: list[Offer] = []
    used: set[tuple[int, int]] = set()
    ceiling = _in_units(settings.max_price_micros, rate)
    imp, guided, deals = auction.imp, auction.guided, auction.deals
    for position in best_first(ranks):
        ad = candidates[position]
        owner = snapshot.owners[ad]
        below = False
        for lot, deal in _deals(deals, ad, snapshot) if snapshot.by_ad[ad].deals else OPEN:
            if (lot, owner) in used:
                continue
            at, least = auction.at, auction.floor
            if deal is not None:
                told = length_floor(deal, snapshot.lengths[ad], deal.bidfloor)
                least = floor_micros(told, deal.bidfloorcur, currency, rates)
                at = deal.at if deal.at in (1, 2, 3) else at
            elif guided and (medium := guided.get(snapshot.creatives[ad].media)) is not None:
                told = length_floor(medium, snapshot.lengths[ad], imp.bidfloor)
                least = floor_micros(told, imp.bidfloorcur, currency, rates)
            quote = quotes.quote(ad, worths[position], at)
            at = quotes.type_of(at)
            # Whoever knows a deal's id can name a floor; what was agreed is what it may cost.
            agreed = snapshot.by_ad[ad].agreed_cpm_micros if deal is not None and deal.guar else 0
            most = min(ceiling, _in_units(agreed, rate)) if agreed else ceiling
            price = None if least is None else price_micros(quote.worth / rate, least, at, quote.bid / rate, most)
            if price is None and agreed and least and least <= most:
                price = least  # guaranteed, whatever this impression is worth or the pace says
            if price is None or least is None:
                below = True
                continue
            used.add((lot, owner))
            found.append(
                Offer(
                    auction.index,
                    ad,
                    price,
                    price if currency == "USD" else round(price * rate),
                    values[position],
                    least,
                    currency,
                    at,
                    "" if deal is None else deal.id,
                    chances[position],
                    Features(scores.request, snapshot.values[ad], scores.pairs, position) if scores.request else None,
                    lot,
                    quote,
                )
            )
        if not deals:
            if len(found) >= auction.wanted:
                break
            if below and not guided and not drawn:
                break  # every further ad is worth less
    return tuple(found)


def best_first(ranks: Sequence[float]) -> Iterator[int]:
    """Positions by falling rank, on a tie the better bound first; mostly nobody asks for the second."""
    yield ranks.index(max(ranks))
    yield from sorted(range(len(ranks)), key=ranks.__getitem__, reverse=True)[1:]


def _deals(deals: Sequence[Deal], ad: int, snapshot: Snapshot) -> list[tuple[int, Deal | None]]:
    """(lot, deal) of the offered deals that this ad may answer."""
    return [(lot, deal) for lot, deal in enumerate(deals, 1) if targeting.deal_ads(snapshot.index, deal) >> ad & 1]


def _in_units(most_micros: int, rate: float) -> int:
    """The highest price in micros of a currency that is no more than so many micro-dollars. rate: dollars for a unit.

    >>> _in_units(100_000_000, 3.25), _in_units(3_300_000, 1.1)
    (30769230, 3000000)
    """
    return int(most_micros / rate + 1e-3)  # 3_300_000 / 1.1 is a little less than 3_000_000


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
