"""What one imp's ads are bid at: values paced, then shaded where winners pay their bid, a hundredth of prices varied.

Paced first, shaded second: a shaded bid is never multiplied by a pace. Chance comes by hash of request and campaign, so
that a replay makes the same bids. Varied prices are what later landscapes and off-policy estimates learn from: ln of
the factor is uniform on [-.3, .3], the bid stays at or below what the impression is worth.
"""

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from bidder.buckets import place
from bidder.pacing import FULL, Pace
from bidder.snapshot import Snapshot
from models import landscape
from models.context import Context

WIDTH = 0.3
"""Largest |ln| of the factor a price is varied by."""


LEAST = 1e-9  # click probability


class Quote(Struct, frozen=True, gc=False):
    """How a bid came about, for the log. worth: value after pace, CPM micro-USD. bid: of a first-price auction, before
    floor and ceiling. how: `landscape.How`, "" in other auctions. chance: of winning, 0 = not known. quality: mean ln
    click probability of the scored ads, 0 = not known. explored: ln of the factor the price was varied by;
    propensity: that of having been varied, or not. terms: what the landscape says of the impression.
    """

    worth: float
    pace: float
    bid: float
    how: landscape.How | Literal[""] = ""
    chance: float = 0.0
    quality: float = 0.0
    explored: float = 0.0
    propensity: float = 1.0
    terms: landscape.Terms | None = None


class Quotes:
    """The quotes of one imp. chances: click probabilities of the scored ads. request: its id."""

    __slots__ = ("_chances", "_quality", "_request", "_snapshot", "_terms", "_where")

    def __init__(self, snapshot: Snapshot, where: Context, chances: Sequence[float], request: str) -> None:
        self._snapshot = snapshot
        self._where = where
        self._chances = chances
        self._request = request
        self._terms: landscape.Terms | None = None
        self._quality = 0.0

    def worths(self, ads: Sequence[int], values: list[int]) -> Sequence[float]:
        """`worth` of each; where nothing is paced, the values themselves."""
        if not self._snapshot.paces.of:
            return values
        return [self.worth(ad, value) for ad, value in zip(ads, values, strict=True)]

    def worth(self, ad: int, value_micros: int) -> float:
        """What an ad's impression is worth after pacing; 0 where its campaign passes this request up."""
        pace = self._pace(ad)
        if pace is FULL:
            return float(value_micros)
        if pace.share < 1 and place(b"pace", self._unit(ad)) >= pace.share:
            return 0.0
        return value_micros * pace.k

    def quote(self, ad: int, worth: float, at: int) -> Quote:
        """The bid for what `worth` said. at: the auction type, by `type_of`."""
        pace = self._pace(ad).k
        if at != 1:
            return Quote(worth, pace, worth)
        if self._terms is None:
            self._read_terms()
        terms = self._terms
        assert terms is not None  # noqa: S101 - just read
        shaded = landscape.shade(terms, worth)
        chance = 0.0 if math.isnan(shaded.chance) else shaded.chance
        share = self._snapshot.settings.explore_share
        if not share or place(b"explore", unit := self._unit(ad)) >= share:
            return Quote(worth, pace, shaded.bid, shaded.how, chance, self._quality, 0.0, 1 - share, terms)
        factor = WIDTH * (2 * place(b"explore by", unit) - 1)
        bid = min(worth, shaded.bid * math.exp(factor))
        chance = landscape.chance_of(terms, bid) if chance else 0.0
        return Quote(worth, pace, bid, shaded.how, chance, self._quality, factor, share, terms)

    def type_of(self, at: int) -> int:
        """1 where winners pay their bid, as announced or as seen; else as announced."""
        land = self._snapshot.landscape
        return 1 if land is not None and at == 2 and self._where.exchange in land.manifest.first else at

    def _read_terms(self) -> None:
        snapshot = self._snapshot
        quality = math.nan
        if snapshot.model is not None and self._chances:
            self._quality = quality = sum(map(math.log, self._likely())) / len(self._chances)
        self._terms = landscape.terms(snapshot.landscape, self._where, quality, snapshot.settings.first_price_keep)

    def _likely(self) -> Sequence[float]:
        """The chances, none of them so small that its logarithm alone would tell."""
        return self._chances if min(self._chances) >= LEAST else [max(p, LEAST) for p in self._chances]

    def _pace(self, ad: int) -> Pace:
        paces = self._snapshot.paces.of
        return paces.get(self._snapshot.names[ad], FULL) if paces else FULL

    def _unit(self, ad: int) -> bytes:
        return f"{self._request}|{self._snapshot.names[ad]}".encode()
