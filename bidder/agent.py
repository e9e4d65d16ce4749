"""Pacing, shading and pricing of one campaign as one object without input, output, clock or chance of its own.

`start(info)`, then for every auction `bid(observation)` and, when it is known, `feedback(result)`. Whoever drives it
(a replay of real logs, a simulator, a test) brings money, auctions and outcomes; the arithmetic is that of the bidder:
`bidder.pacing`, `bidder.supply`, `bidder.pricing` and the shading of `models.landscape`.

The multiplier solves "expected cost at k = money to go per auction to go" before every bid, on a curve made from the
values of this stream, times a correction for what the curve gets wrong: the multiplicative dual step, taken once at
least 50 wins were expected since the last one. What was learnt outlives an episode; `start` begins a new budget.
"""

from collections.abc import Callable

from msgspec import Struct

from bidder import pacing, supply
from bidder.budget import cost_micros
from bidder.pricing import price_micros
from bidder.supply import Curve, Prices, Worths

EXPECTED_WINS = 50.0  # one step of the correction needs so many; a faster one chases noise
CORRECTION = (1 / 3, 3.0)

Shade = Callable[[float, object], float]
"""(paced value, context) -> bid for a first-price auction, CPM micros."""


class Info(Struct, frozen=True):
    """One budget and what is known before the first auction.

    budget_micros: money to spend. auctions: how many are expected. prices: what auctions went for before. worth:
    values expected before any was seen, CPM micros. second_price: what a win pays. most: cap of the multiplier; 1
    never bids above value, a large one spends the budget whatever a unit of value costs.
    """

    budget_micros: int
    auctions: float
    prices: Prices
    worth: tuple[float, ...]
    second_price: bool = True
    most: float = 1.0


class Observation(Struct, frozen=True, gc=False):
    """One auction before it is bid in. value_micros: what a thousand such impressions are worth; floor_micros: CPM.

    context: what the shading looks at, as it wants it.
    """

    value_micros: float
    floor_micros: int = 0
    context: object = None


class Result(Struct, frozen=True, gc=False):
    """What became of the last bid. price_micros: CPM paid, 0 unless won."""

    won: bool
    price_micros: int = 0


class Agent:
    """One campaign's bidding. shade: how to bid in first-price auctions; not needed for second price."""

    def __init__(self, shade: Shade | None = None) -> None:
        self.spent_micros = 0
        self.correction = 1.0
        self._shade = shade
        self._worths: Worths | None = None
        self._curve: Curve | None = None
        self._expected_cost = self._expected_wins = self._cost = 0.0

    def start(self, info: Info) -> None:
        """A new budget. Values and correction learnt so far stay."""
        self._info = info
        self.spent_micros = 0
        self._to_go = info.auctions
        if self._worths is None:
            self._worths = Worths(info.worth)
        self._redraw()

    @property
    def remaining_micros(self) -> int:
        return self._info.budget_micros - self.spent_micros

    def bid(self, seen: Observation) -> int | None:
        """CPM micros, or None for no bid; never more than what is left can pay."""
        info, worths, curve = self._info, self._worths, self._curve
        assert worths is not None  # noqa: S101 - `start` comes first
        assert curve is not None  # noqa: S101 - as above
        if worths.add(seen.value_micros):
            curve = self._redraw()
        left, to_go = self.remaining_micros, max(self._to_go, 1.0)
        self._to_go -= 1
        if left <= 0:
            return None
        per_auction = min(1000 * left / to_go, curve.costs[-1])
        k = min(info.most, curve.k(per_auction) * self.correction)
        worth = min(seen.value_micros * k, 1000.0 * left)
        self._expected_cost += per_auction
        self._expected_wins += per_auction / self._mean_price
        bid = worth if info.second_price or self._shade is None else self._shade(worth, seen.context)
        price = price_micros(worth, seen.floor_micros, 2 if info.second_price else 1, bid, 1000.0 * left)
        return price if price is not None and cost_micros(price) <= left else None

    def feedback(self, result: Result) -> None:
        """The outcome of the last bid; for a bid of None, or an outcome never told, nothing needs to be called."""
        if result.won:
            self.spent_micros += cost_micros(result.price_micros)
            self._cost += result.price_micros
        if self._expected_wins >= EXPECTED_WINS:
            slack = pacing.SLACK * self._expected_cost
            stepped = pacing.budget_step(self.correction, self._expected_cost, self._cost, slack, CORRECTION[1])
            self.correction = max(CORRECTION[0], stepped)
            self._expected_cost = self._expected_wins = self._cost = 0.0

    def _redraw(self) -> Curve:
        info, worths = self._info, self._worths
        assert worths is not None  # noqa: S101 - `start` comes first
        self._curve = supply.curve(worths.sample(), info.prices, info.second_price, info.most)
        self._mean_price = max(1.0, float((info.prices.levels * info.prices.shares).sum()))
        return self._curve
