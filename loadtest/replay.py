"""Real auctions again, with their order, prices and budgets, against any bidding agent.

The log (iPinYou form) says per auction what the best rival bid, whether the impression was clicked, and a click
probability. A bid of at least the price wins and, in a second-price auction, pays it. The stream is cut into episodes,
each with a budget: the training period's mean price times a fraction times the number of auctions. An agent
(`bidder.agent.Agent` or a baseline of the same form) is told the training period's prices and each auction's score when
it comes; it never sees a price it did not pay.

What a replay cannot show: the log holds only auctions its own bidder won, so dearer impressions are missing; rivals do
not react.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bidder.agent import Info, Observation, Result
from bidder.budget import cost_micros
from bidder.supply import Prices
from dmp.errors import TagbidError

Ints = npt.NDArray[np.int64]

FEN_MICROS = 10_000  # 1 fen = 0.01 CNY
EPISODE = 1_000
FRACTIONS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
UNBOUNDED = 1e6
"""Cap of the multiplier: the goal is clicks for the budget, whatever one costs."""
ENOUGH = 0.98


class NoReplay(TagbidError):
    """What cannot be replayed."""


class Log(msgspec.Struct, frozen=True):
    """A stream of n auctions and the training period before it.

    price_micros: int64 (n,), CPM, what the best rival bid. click: int64 (n,). pctr: float64 (n,). train_prices: of the
    training period. train_cpm_micros, train_ctr: mean price and click rate of it.
    """

    name: str
    price_micros: Ints
    click: Ints
    pctr: npt.NDArray[np.float64]
    train_prices: Prices
    train_cpm_micros: float
    train_ctr: float

    @property
    def click_micros(self) -> float:
        """CPM micros a click cost in training: a thousand impressions with one click are worth that."""
        return self.train_cpm_micros / self.train_ctr


class Bidding(Protocol):
    """What a replay drives."""

    spent_micros: int

    def start(self, info: Info) -> None: ...
    def bid(self, seen: Observation) -> int | None: ...
    def feedback(self, result: Result) -> None: ...


class Outcome(msgspec.Struct, frozen=True):
    """One agent at one budget; arrays are per episode.

    surplus_micros: value of what was won at the training period's cost per click, less what was paid (money, not CPM).
    """

    agent: str
    fraction: float
    budget_micros: int
    clicks: Ints
    wins: Ints
    spent_micros: Ints
    surplus_micros: npt.NDArray[np.float64]
    auctions: int

    @property
    def budget_used(self) -> float:
        return float(self.spent_micros.sum()) / (self.budget_micros * len(self.spent_micros))

    @property
    def overspent(self) -> int:
        """Episodes that cost more than their budget."""
        return int((self.spent_micros > self.budget_micros).sum())


def read(folder: Path, name: str, advertiser: int, limit: int | None = None) -> Log:
    """One stream of `ipinyou_replay`. Raises NoReplay when the folder does not hold it."""
    home = folder / "ipinyou_replay"
    try:
        stream = pq.read_table(home / f"{name}.parquet")
        prices = pq.read_table(home / "market_price_hist_train.parquet", filters=[("advertiser", "=", advertiser)])
        totals = pq.read_table(home / "campaign_stats_train.parquet", filters=[("advertiser", "=", advertiser)])
    except (OSError, pa.ArrowException) as error:
        raise NoReplay(f"{home} does not hold the stream {name} ({error}); name the folder above it") from None
    stream = stream.slice(0, limit)
    totals = totals.to_pylist()[0]
    counts = prices["train_count"].to_numpy().astype(np.float64)
    kept = counts > 0
    return Log(
        name=name,
        price_micros=stream["market_price"].to_numpy().astype(np.int64) * FEN_MICROS,
        click=stream["click"].to_numpy().astype(np.int64),
        pctr=stream["logged_pctr"].to_numpy().astype(np.float64),
        train_prices=Prices(
            prices["market_price"].to_numpy().astype(np.float64)[kept] * FEN_MICROS, counts[kept] / counts.sum()
        ),
        train_cpm_micros=totals["cost_train"] / totals["imp_train"] * FEN_MICROS,
        train_ctr=totals["clk_train"] / totals["imp_train"],
    )


def play(
    log: Log,
    name: str,
    agent: Bidding,
    fraction: float,
    *,
    second_price: bool = True,
    episode: int = EPISODE,
    progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Whole episodes of the stream, one budget each; the books are kept here, not by the agent."""
    worth = log.click_micros
    budget = int(log.train_cpm_micros * fraction * episode / 1000)
    info = Info(budget, float(episode), log.train_prices, (log.train_ctr * worth,), second_price, UNBOUNDED)
    starts = range(0, len(log.price_micros) - episode + 1, episode)
    if not starts:
        raise NoReplay(f"{log.name} has {len(log.price_micros)} auctions, one episode takes {episode}")
    values, prices, clicked = (log.pctr * worth).tolist(), log.price_micros.tolist(), log.click.tolist()
    rows: list[tuple[int, int, int, float]] = []
    for start in starts:
        agent.start(info)
        clicks = wins = spent = 0
        surplus = 0.0
        for i in range(start, start + episode):
            price = agent.bid(Observation(values[i]))
            if price is None:
                continue
            if price >= prices[i]:
                paid = prices[i] if second_price else price
                wins += 1
                clicks += clicked[i]
                spent += cost_micros(paid)
                surplus += (values[i] - paid) / 1000
                agent.feedback(Result(True, paid))
            else:
                agent.feedback(Result(False))
        rows.append((clicks, wins, spent, surplus))
        progress(episode)
    clicks_, wins_, spent_, surplus_ = (np.array(column) for column in zip(*rows, strict=True))
    return Outcome(name, fraction, budget, clicks_, wins_, spent_, surplus_, len(rows) * episode)


def summed(outcomes: Sequence[Outcome]) -> Ints:
    """Clicks per episode over all budgets of one agent, int64 (episodes,)."""
    total: Ints = np.sum([outcome.clicks for outcome in outcomes], axis=0)
    return total


def bootstrap_se(values: npt.NDArray[np.int64], blocks: int = 100, draws: int = 2_000, seed: int = 1) -> float:
    """Standard error of the sum of values in order of time, by resampling whole blocks of neighbours."""
    sums = np.array([part.sum() for part in np.array_split(values, min(blocks, len(values)))], dtype=np.float64)
    picked = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    return float(sums[picked].sum(axis=1).std(ddof=1))
