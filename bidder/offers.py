"""What scored ads of one imp offer: valued, ranked and priced.

Every deal is a lot of its own beside the open auction. Only offers somebody may want are priced, as a price costs as
much as a score.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from bidder import targeting
from bidder.openrtb import Deal, Imp
from bidder.openrtb_media import Timed
from bidder.pricing import floor_micros, length_floor, price_micros, value_micros
from bidder.quoting import Quote, Quotes
from bidder.scoring import Scores
from bidder.snapshot import Snapshot
from models.context import Context
from models.features import in_columns
from models.pairs import Columns, row_of

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


def priced(
    auction: Auction, candidates: list[int], scores: Scores, request: str, snapshot: Snapshot
) -> tuple[Offer, ...]:
    """The best offers of scored candidates, at most one per campaign and lot. request: its id, for chance by hash."""
    quotes = Quotes(snapshot, auction.where, scores.chances, request)
    drawn, deals, guided = snapshot.paces.drawn, auction.deals, auction.guided
    if auction.wanted == 1 and not (deals or guided or drawn):
        position, value, worth = _best(candidates, scores, quotes, snapshot)
        if not snapshot.by_ad[candidates[position]].deals:
            offer = _offer(auction, candidates[position], position, 0, None, value, worth, scores, quotes, snapshot)
            return () if offer is None else (offer,)  # every other ad is worth less
    goals, prices = snapshot.goals, snapshot.prices
    values = [
        value_micros(goals[ad], prices[ad], expected) for ad, expected in zip(candidates, scores.expected, strict=True)
    ]
    worths = quotes.worths(candidates, values)
    ranks = worths
    if drawn:
        names = snapshot.names
        ranks = [worth * drawn.get(names[ad], 1.0) for ad, worth in zip(candidates, worths, strict=True)]
    found: list[Offer] = []
    used: set[tuple[int, int]] = set()
    for position in best_first(ranks):
        ad = candidates[position]
        owner = snapshot.owners[ad]
        below = False
        for lot, deal in _deals(deals, ad, snapshot) if snapshot.by_ad[ad].deals else OPEN:
            if (lot, owner) in used:
                continue
            value, worth = values[position], worths[position]
            offer = _offer(auction, ad, position, lot, deal, value, worth, scores, quotes, snapshot)
            if offer is None:
                below = True
                continue
            used.add((lot, owner))
            found.append(offer)
        if not deals:
            if len(found) >= auction.wanted:
                break
            if below and not guided and not drawn:
                break  # every further ad is worth less
    return tuple(found)


def _best(candidates: list[int], scores: Scores, quotes: Quotes, snapshot: Snapshot) -> tuple[int, int, float]:
    """(position, value, worth) of the ad that is worth most, on a tie the better bound first.

    Ads stand by the most they can be worth, so that the first few are mostly all that have to be looked at.
    """
    bounds, goals, prices = snapshot.bounds, snapshot.goals, snapshot.prices
    expected, paced = scores.expected, bool(snapshot.paces.of)
    at = value = 0
    most: float = -1
    for position, ad in enumerate(candidates):
        if bounds[ad] <= most:
            break
        own = prices[ad] if goals[ad] == "cpm" else value_micros(goals[ad], prices[ad], expected[position])
        worth = quotes.worth(ad, own) if paced else own
        if worth > most:
            at, value, most = position, own, worth
    return at, value, most


def _offer(
    auction: Auction,
    ad: int,
    position: int,
    lot: int,
    deal: Deal | None,
    value: int,
    worth: float,
    scores: Scores,
    quotes: Quotes,
    snapshot: Snapshot,
) -> Offer | None:
    """The offer of an ad in one lot, None when it is not worth its floor. position: of the ad among the scored ones."""
    settings, imp, rate, currency = snapshot.settings, auction.imp, auction.rate, auction.currency
    at, least = auction.at, auction.floor
    if deal is not None:
        told = length_floor(deal, snapshot.lengths[ad], deal.bidfloor)
        least = floor_micros(told, deal.bidfloorcur, currency, settings.rates)
        at = deal.at if deal.at in (1, 2, 3) else at
    elif auction.guided and (medium := auction.guided.get(snapshot.creatives[ad].media)) is not None:
        told = length_floor(medium, snapshot.lengths[ad], imp.bidfloor)
        least = floor_micros(told, imp.bidfloorcur, currency, settings.rates)
    if least is None:
        return None
    at = quotes.type_of(at)
    quote = quotes.quote(ad, worth, at)
    most = _in_units(settings.max_price_micros, rate)
    # Whoever knows a deal's id can name a floor; what was agreed is what it may cost.
    agreed = snapshot.by_ad[ad].agreed_cpm_micros if deal is not None and deal.guar else 0
    if agreed:
        most = min(most, _in_units(agreed, rate))
    price = price_micros(quote.worth / rate, least, at, quote.bid / rate, most)
    if price is None and agreed and 0 < least <= most:
        price = least  # guaranteed, whatever this impression is worth or the pace says
    if price is None:
        return None
    return Offer(
        auction.index,
        ad,
        price,
        price if currency == "USD" else round(price * rate),
        value,
        least,
        currency,
        at,
        "" if deal is None else deal.id,
        scores.chances[position],
        Features(scores.request, snapshot.values[ad], scores.pairs, position) if scores.request else None,
        lot,
        quote,
    )


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
