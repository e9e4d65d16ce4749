"""What money buys: how much one auction costs on average when every impression is bid `k` times its worth.

Made from a sample of what recent impressions were worth and from a histogram of prices. Inverting the curve gives the
multiplier that spends a given amount per auction ("plan-based solve"), which is where pacing starts.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Floats = npt.NDArray[np.float64]

KEPT = 4_000  # values remembered
SAMPLE = 256  # quantiles of them a curve is made from: its error is far below that of any budget
GRID = 160
REFRESH = 1_000  # new values until a curve is made again, once there are many


class Prices(Struct, frozen=True):
    """Prices an auction went for. levels: float64 ascending, CPM micros. shares: float64, sum to 1."""

    levels: Floats
    shares: Floats

    def expected(self, bids: Floats, second_price: bool) -> Floats:
        """Mean cost of one auction per bid (CPM micros): what is paid when won, else nothing."""
        place = np.searchsorted(self.levels, bids, "right")
        if second_price:
            return np.concatenate(([0.0], np.cumsum(self.levels * self.shares)))[place]
        return np.concatenate(([0.0], np.cumsum(self.shares)))[place] * bids


class Curve(Struct, frozen=True):
    """ks: multipliers, ascending. costs: mean cost of one auction at each, strictly ascending, CPM micros.

    most: the multiplier when money does not bind.
    """

    ks: tuple[float, ...]
    costs: tuple[float, ...]
    most: float

    def k(self, cost: float) -> float:
        """The multiplier that costs this much per auction, linear in between; `most` when nothing costs more.

        >>> Curve((0.0, 1.0, 2.0), (0.0, 10.0, 40.0), 9.0).k(25.0), Curve((0.0, 1.0), (0.0, 10.0), 9.0).k(11.0)
        (1.5, 9.0)
        """
        place = bisect_right(self.costs, cost)
        if place == len(self.costs):
            return self.most
        low, high = self.costs[place - 1], self.costs[place]
        below = self.ks[place - 1]
        return below + (self.ks[place] - below) * (cost - low) / (high - low)

    def cost(self, k: float) -> float:
        """Mean cost of one auction at a multiplier."""
        return float(np.interp(k, self.ks, self.costs))


def curve(values: Floats, prices: Prices, second_price: bool, most: float) -> Curve:
    """values: what a sample of impressions was worth, CPM micros. most: the largest multiplier allowed."""
    worth = float(values.max()) if len(values) else 0.0
    if worth <= 0:
        return Curve((0.0, most), (0.0, 1e-9), most)
    # Below `low` not even the dearest impression is bid the cheapest price; above `high` the cheapest wins all.
    cheapest = max(float(prices.levels[0]), 1.0)
    least = float(values[values > 0].min())
    low = min(most, 0.5 * cheapest / worth)
    high = min(most, 2 * float(prices.levels[-1]) / least)
    ks = np.exp(np.linspace(math.log(low), math.log(max(high, low * 1.001)), GRID))
    bids = ks[:, None] * values[None, :]
    costs = prices.expected(bids, second_price).mean(axis=1)
    found_k, found_cost = [0.0], [0.0]
    for k, cost in zip(ks.tolist(), np.maximum.accumulate(costs).tolist(), strict=True):
        if cost > found_cost[-1]:
            found_k.append(k)
            found_cost.append(cost)
    if len(found_k) == 1:
        return Curve((0.0, most), (0.0, 1e-9), most)
    return Curve(tuple(found_k), tuple(found_cost), most)


class Worths:
    """What the latest impressions were worth, as a sample that is good enough for a curve."""

    def __init__(self, prior: Sequence[float]) -> None:
        self.seen = 0
        self._prior = np.sort(np.array(prior, dtype=np.float64))
        self._kept: deque[float] = deque(maxlen=KEPT)
        self._due = 16

    def add(self, value: float) -> bool:
        """Remember one; True when a curve should be made again (after 16, 32, ..., then every `REFRESH`)."""
        self._kept.append(value)
        self.seen += 1
        if self.seen < self._due:
            return False
        self._due += min(self.seen, REFRESH)
        return True

    def sample(self) -> Floats:
        """float64 (<= SAMPLE,), ascending: quantiles of what was seen, the prior before there is anything."""
        if not self._kept:
            return self._prior
        values = np.sort(np.array(self._kept, dtype=np.float64))
        if len(values) <= SAMPLE:
            return values
        found: Floats = values[np.linspace(0, len(values) - 1, SAMPLE).round().astype(np.intp)]
        return found
