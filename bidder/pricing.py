"""From a click probability to a price: value, auction type, floor, currency, rounding. Pure arithmetic on micros."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from bidder.openrtb_media import DurFloor

FIXED_PRICE = 3  # OpenRTB deal.at: bidfloor is the agreed price
TICK = 1
"""The least step of a price, a micro: a bid shaded below the floor stands clear of whoever bids exactly the floor."""


Goal = Literal["cpm", "cpc", "cpa", "roas"]


def value_micros(goal: Goal, price_micros: int, expected: float) -> int:
    """What one thousand impressions are worth, CPM micros.

    expected: of one impression, what the campaign pays for: clicks (cpc), conversions (cpa), revenue in whole units of
    the currency (roas, where price_micros is the revenue wanted for a million micros spent).

    >>> value_micros("cpm", 2_500_000, 0.0), value_micros("cpc", 400_000, 0.002), value_micros("roas", 4_000_000, 0.02)
    (2500000, 800000, 5000000)
    """
    if goal == "cpm":
        return price_micros
    if goal == "roas":
        return round(expected * 1000 * 1e12 / price_micros)
    return round(price_micros * expected * 1000)


def bid_currency(allowed: Sequence[str] | None, rates: Mapping[str, float]) -> str | None:
    """Dollars when the request allows them or names nothing, else the first allowed currency that has a rate.

    >>> bid_currency(None, {"USD": 1.0}), bid_currency(["EUR"], {"USD": 1.0}), bid_currency(["EUR"], {"EUR": 1.1})
    ('USD', None, 'EUR')
    """
    if not allowed or "USD" in allowed:
        return "USD"
    return next((name for name in allowed if name in rates), None)


def floor_micros(
    bidfloor: float | None, floor_currency: str | None, currency: str, rates: Mapping[str, float]
) -> int | None:
    """A floor in micros of the bid's currency, rounded up; 0 without one, None when its currency has no rate.

    The third decimal of a micro decides the rounding, so that binary dust (0.1 * 1e6) does not.

    >>> floor_micros(0.1, None, "USD", {"USD": 1.0}), floor_micros(1, "EUR", "USD", {"USD": 1.0, "EUR": 1.25})
    (100000, 1250000)
    """
    if not bidfloor or bidfloor < 0:
        return 0
    named = floor_currency or "USD"
    if named == currency:
        micros = bidfloor * 1e6
        whole = int(micros)
        return whole if whole == micros else math.ceil(round(micros, 3))  # rounding a float costs a microsecond
    rate, ours = rates.get(named), rates.get(currency)
    if rate is None or ours is None:
        return None
    return math.ceil(round(bidfloor * 1e6 * rate / ours, 3))


class Guidance(Protocol):
    """What may set a floor by the length of an ad: a deal, a video or an audio object (implementation guide, 7.11)."""

    @property
    def mincpmpersec(self) -> float | None: ...
    @property
    def durfloors(self) -> Sequence[DurFloor] | None: ...


def length_floor(told: Guidance, length_s: float, otherwise: float | None) -> float | None:
    """The floor (CPM) for an ad of a length: per second, else of the highest range that holds it, else `otherwise`.

    length_s: 0 for an ad that has none.
    """
    if not length_s:
        return otherwise
    if told.mincpmpersec:
        return told.mincpmpersec * length_s
    ranges = [
        part.bidfloor or 0.0
        for part in told.durfloors or ()
        if (part.mindur or 0) <= length_s <= (length_s if part.maxdur is None else part.maxdur)
    ]
    return max(ranges) if ranges else otherwise


def price_micros(worth_micros: float, floor: int, at: int, shaded_micros: float, ceiling_micros: float) -> int | None:
    """The bid, or None when the impression is not worth its floor or no more than nothing.

    All CPM micros of the bid's currency; the worth is after pacing, because a shaded bid must not be paced. at 2: what
    it is worth (the second price protects us). at 1: `shaded_micros`, or where the floor is above that and no more than
    the worth, a tick above the floor. at 3: the floor is the price. Half to even.

    >>> price_micros(2_000_000, 500_000, 1, 1_700_000, 1e9), price_micros(2_000_000, 1_900_000, 1, 1_700_000, 1e9)
    (1700000, 1900001)
    >>> price_micros(2_000_000, 0, 2, 1_700_000, 1e9), price_micros(2_000_000, 2_000_001, 2, 1_700_000, 1e9)
    (2000000, None)
    """
    most = min(worth_micros, ceiling_micros)
    if floor > most:
        return None
    if at == FIXED_PRICE:
        return floor or None
    price = round(min(worth_micros if at == 2 else shaded_micros, most))
    if price < floor:
        price = floor + TICK if floor + TICK <= most else floor
    return price if price > 0 else None
