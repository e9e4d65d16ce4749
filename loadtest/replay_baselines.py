"""Published and obvious ways to bid with a budget, as agents a replay can drive: in second-price auctions, the constant
and the linear ones in any.

All know what `bidder.agent.Info` tells (prices of the training period, mean worth) and the values that came by so far,
nothing of the auctions to come. Values are proportional to click probabilities, so "worth" stands for them.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from bidder import supply
from bidder.agent import Info, Observation, Result
from bidder.budget import cost_micros
from bidder.supply import Worths

Floats = npt.NDArray[np.float64]


class Baseline(ABC):
    """Keeps the books; a strategy says what it would bid."""

    def __init__(self) -> None:
        self.spent_micros = 0
        self._worths: Worths | None = None

    def start(self, info: Info) -> None:
        self.info = info
        self.spent_micros = 0
        self.to_go = info.auctions
        self.per_auction = 1000 * info.budget_micros / info.auctions  # CPM micros
        if self._worths is None:
            self._worths = Worths(info.worth)
        self.plan(self._worths.sample())

    def bid(self, seen: Observation) -> int | None:
        """CPM micros, capped by the money that is left."""
        assert self._worths is not None  # noqa: S101 - `start` comes first
        self._worths.add(seen.value_micros)
        left = self.info.budget_micros - self.spent_micros
        price = int(min(self.offer(seen.value_micros, left), 1000 * left))
        self.to_go -= 1
        return price if price > 0 else None

    def feedback(self, result: Result) -> None:
        if result.won:
            self.spent_micros += cost_micros(result.price_micros)

    def plan(self, worths: Floats) -> None:  # noqa: B027 - a strategy that plans nothing needs none
        """Before each budget. worths: sample of the values seen so far."""

    @abstractmethod
    def offer(self, worth: float, left_micros: int) -> float:
        """CPM micros for an impression worth so much, uncapped."""


class Const(Baseline):
    """One bid for everything: the highest whose expected spend fits the budget."""

    def plan(self, worths: Floats) -> None:
        levels = self.info.prices.levels
        costs = self.info.prices.expected(levels, self.info.second_price)
        fits = int(np.searchsorted(costs, self.per_auction, "right"))
        self._bid = float(levels[fits - 1]) if fits else 0.0

    def offer(self, worth: float, left_micros: int) -> float:
        return self._bid


class Mcpc(Baseline):
    """What the value says, whatever the budget: clicks at the training period's cost per click."""

    def offer(self, worth: float, left_micros: int) -> float:
        return worth


class Linear(Baseline):
    """A multiple of the value whose expected spend fits the budget (Perlich et al., 2012), fixed for the budget."""

    def plan(self, worths: Floats) -> None:
        self._k = supply.curve(worths, self.info.prices, self.info.second_price, self.info.most).k(self.per_auction)

    def offer(self, worth: float, left_micros: int) -> float:
        return self._k * worth


class PacedLinear(Linear):
    """As `Linear`, scaled by how much more there is per auction to go than there was at first."""

    def offer(self, worth: float, left_micros: int) -> float:
        return self._k * worth * (1000 * left_micros / max(self.to_go, 1.0)) / self.per_auction


class Ortb(Baseline):
    """Optimal real-time bidding (Zhang, Yuan & Wang, KDD 2014): sqrt(c v / L + c^2) - c, c fitted to the prices."""

    def __init__(self) -> None:
        super().__init__()
        self._c: float | None = None

    def plan(self, worths: Floats) -> None:
        prices = self.info.prices
        if self._c is None:
            won = np.cumsum(prices.shares)
            tried = np.geomspace(max(float(prices.levels[-1]) / 1e3, 1.0), 10 * float(prices.levels[-1]), 300)
            errors = [float((prices.shares * (prices.levels / (c + prices.levels) - won) ** 2).sum()) for c in tried]
            self._c = float(tried[int(np.argmin(errors))])
        scales = np.geomspace(1e-6, 1e9, 400)
        bids = np.sqrt(self._c * worths[None, :] * scales[:, None] + self._c**2) - self._c
        costs = prices.expected(bids, second_price=True).mean(axis=1)
        self._scale = float(scales[max(int(np.searchsorted(costs, self.per_auction, "right")) - 1, 0)])

    def offer(self, worth: float, left_micros: int) -> float:
        c = self._c or 1.0
        return math.sqrt(c * worth * self._scale + c * c) - c


class DynamicProgramme(Baseline):
    """Reinforcement learning to bid (Cai et al., WSDM 2017): bid up to the price at which the click is worth the money.

    D[t, b], the clicks to come with t auctions and b units of money left, knows prices and the mean click probability
    only. unit_micros: grain of the money grid, CPM micros; a table for a larger budget serves all smaller ones.
    """

    def __init__(self, unit_micros: int) -> None:
        super().__init__()
        self._unit = unit_micros
        self._table: npt.NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def plan(self, worths: Floats) -> None:
        auctions, units = int(self.info.auctions), self._units(self.info.budget_micros)
        if self._table.shape[0] < auctions or self._table.shape[1] <= units:
            self._table = self._values(auctions, units)
        self._mean = self.info.worth[0]  # of the training period

    def offer(self, worth: float, left_micros: int) -> float:
        money = self._units(left_micros)
        ahead = self._table[int(self.to_go) - 1] if self.to_go >= 1 else self._table[0]
        # The most money whose loss costs no more clicks than the chance of this one: D falls as money goes.
        spared = float(ahead[money]) - worth / self._mean
        keep = int(np.searchsorted(ahead[: money + 1], spared, "left"))
        return float((money - keep) * self._unit)

    def _units(self, micros: int) -> int:
        return 1000 * micros // self._unit

    def _values(self, auctions: int, units: int) -> npt.NDArray[np.float32]:
        """float32 (auctions, units + 1), in clicks at a mean click probability of 1."""
        prices = self.info.prices
        steps = np.rint(prices.levels / self._unit).astype(np.intp)
        table = np.zeros((auctions, units + 1), dtype=np.float32)
        ahead = np.zeros(units + 1, dtype=np.float32)
        for t in range(1, auctions):
            found = ahead.copy()
            for step, share in zip(steps.tolist(), prices.shares.astype(np.float32).tolist(), strict=True):
                if step > units:
                    break
                gain = 1 + ahead[: units + 1 - step] - ahead[step:]
                np.maximum(gain, 0, out=gain)
                if not gain.any():
                    break  # a dearer win is worth even less
                gain *= share
                found[step:] += gain
            ahead = table[t] = found
        return table
