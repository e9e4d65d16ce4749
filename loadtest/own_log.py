"""A bid log of our own, bid in again by the production agent: other budgets, the landscape of today, the same auctions.

The first half of the log's time is what is known beforehand: prices, what impressions were worth, how many come. The
second half is replayed per campaign and auction type, one budget a day: what the log itself spent on those auctions,
times a fraction. Every bid is one auction, with the value the bidder put on it before pacing, its floor and its
context.

What its notices tell of m, the least bid that wins (`models.landscape_train.known_of`): the number, or that it was at
most, or above, what we bid. A bid on the certain side of that wins or loses. Between, the landscape's chance given what
is known decides, by the auction's own random number, so that two agents differ by their bids only; without a landscape
such a bid counts as lost. `unsure` says of how many wins and losses that is so. Clicks are those of impressions that
the log won too; what was clicked on others nobody knows, so the clicks expected by the logged probabilities stand
beside. So does what baselines get for the same money: one bid for everything, a multiple of the value fixed or paced.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from bidder.agent import Agent, Info, Observation, Result
from bidder.buckets import place
from bidder.budget import cost_micros
from bidder.supply import Prices
from dmp.errors import TagbidError
from dmp.events import Bid
from loadtest.replay import NoReplay
from loadtest.replay_baselines import Baseline, Const, Linear, PacedLinear
from models import landscape, landscape_train, offpolicy
from models.context import Context, decode_context
from models.figures import Figure
from models.landscape import Landscape, Terms
from models.landscape_fit import ABOVE, BELOW, EXACT

PART = "own log"
DAY_US = 86_400_000_000
FRACTIONS = (1.0, 1 / 2, 1 / 4, 1 / 8)
TRAIN_SHARE = 0.5  # of the log's time
BASELINES: dict[str, type[Baseline]] = {"one bid": Const, "linear": Linear, "paced linear": PacedLinear}
LEAST = 100  # auctions of a campaign on either side, and prices told
WORTHS = 256
VARIED = ((-0.3, -0.1), (-0.1, 0.1), (0.1, 0.3))  # ln of the factor a price was varied by


class Auction(msgspec.Struct, frozen=True, gc=False):
    """known, kind: of m, CPM micros, as in `landscape_train.known_of`. clicked: None where the log did not win it.
    paid: CPM micros; the bid where nobody told.
    """

    bid: Bid
    context: Context
    known: float
    kind: int
    clicked: bool | None
    paid: int


class Outcome(msgspec.Struct, frozen=True):
    """What one agent got of some days. budget, spent, surplus: micros of money. unsure: auctions the landscape decided,
    or that count as lost for want of one.
    """

    budget: int
    spent: int
    overspent_days: int
    auctions: int
    wins: int
    clicks: int
    expected_clicks: float
    surplus: float
    unsure: int


def read(bidlog: Path) -> list[Auction]:
    """The auctions of a log in order of time; those whose outcome tells nothing are left out. Raises BadEvents."""
    log = landscape_train.gather(bidlog)
    counts = Counter[str]()
    found = []
    for key, bid in sorted(log.bids.items(), key=lambda item: (item[1].time_us, item[0])):
        known = landscape_train.known_of(bid, log.wins.get(key), log.lost.get(key), counts)
        if known is not None and bid.value_micros > 0 and bid.currency == "USD":
            context = decode_context(bid.context) if bid.context else Context()
            clicked = key in log.clicked if key in log.wins else None
            paid = 0 if clicked is None else log.wins[key] or bid.price_micros
            found.append(Auction(bid, context, *known, clicked, paid))
    return found


def figures(
    auctions: Sequence[Auction], land: Landscape | None, keep: float, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Figure]:
    """Every campaign and auction type at every budget; then what varied prices tell.

    keep: share of the value to bid where no landscape knows better. Raises NoReplay when no campaign has enough.
    """
    if not auctions:
        raise NoReplay("no bid of this log has an outcome that tells of prices; wins, losses and prices are needed")
    first_us, last_us = auctions[0].bid.time_us, auctions[-1].bid.time_us
    cut_us = first_us + (last_us - first_us) * TRAIN_SHARE
    groups: dict[tuple[str, int], list[Auction]] = {}
    for auction in auctions:
        groups.setdefault((auction.bid.campaign, auction.bid.at), []).append(auction)
    played = False
    for (campaign, at), own in sorted(groups.items()):
        before = [auction for auction in own if auction.bid.time_us < cut_us]
        after = own[len(before) :]
        told = [auction.known for auction in before if auction.kind == EXACT]
        if min(len(before), len(after), len(told)) < LEAST:
            continue
        played = True
        for fraction in FRACTIONS:
            shade = None if at == 2 else lambda worth, on: landscape.shade(on, worth).bid
            agents = {"": Agent(shade)} | {name: kind() for name, kind in BASELINES.items()}
            for name, agent in agents.items():
                outcome = play(agent, before, after, told, fraction, at == 2, land, keep, (cut_us - first_us) / DAY_US)
                progress(len(after))
                data = f"{campaign}, {'second' if at == 2 else 'first'} price" + (f", {name}" if name else "")
                yield _told(data, after, fraction, outcome)
    if not played:
        raise NoReplay(
            f"no campaign has {LEAST} auctions in both halves of the log and {LEAST} prices told in the first; "
            "bid longer, or ask exchanges for prices in their notices"
        )
    yield from varied(auctions)


def play(
    agent: Agent | Baseline,
    before: Sequence[Auction],
    after: Sequence[Auction],
    told: Sequence[float],
    fraction: float,
    second_price: bool,
    land: Landscape | None,
    keep: float,
    before_days: float,
) -> Outcome:
    """One campaign's second half at a fraction of its spend. before_days: length of the first half."""
    levels, counts = np.unique(np.array(told), return_counts=True)
    prices = Prices(levels, counts / counts.sum())
    worth = np.quantile([auction.bid.value_micros for auction in before], np.linspace(0, 1, WORTHS))
    days: dict[int, list[Auction]] = {}
    for auction in after:
        days.setdefault(auction.bid.time_us // DAY_US, []).append(auction)
    total = Counter[str]()
    money = clicks_expected = 0.0
    for own in days.values():
        lasts = max(1, own[-1].bid.time_us - own[0].bid.time_us) / DAY_US
        budget = int(sum(cost_micros(auction.paid) for auction in own) * fraction)
        expected = max(1.0, len(before) / max(before_days, 1e-9) * lasts)
        agent.start(Info(budget, expected, prices, tuple(worth.tolist()), second_price))
        spent = 0
        for auction in own:
            bid = auction.bid
            on = landscape.terms(land, auction.context, bid.quality or math.nan, keep)
            price = agent.bid(Observation(float(bid.value_micros), bid.floor_micros, on))
            won, sure = (False, True) if price is None else result(auction, price, on)
            total["unsure"] += not sure
            if not won or price is None:
                agent.feedback(Result(False))
                continue
            paid = min(price, round(auction.known)) if second_price and auction.kind == EXACT else price
            agent.feedback(Result(True, paid))
            spent += cost_micros(paid)
            money += (bid.value_micros - paid) / 1000
            total["wins"] += 1
            total["clicks"] += bool(auction.clicked)
            clicks_expected += bid.pctr
        total["budget"] += budget
        total["spent"] += spent
        total["over"] += spent > budget
    return Outcome(
        total["budget"], total["spent"], total["over"], len(after), total["wins"], total["clicks"], clicks_expected,
        money, total["unsure"],
    )  # fmt: skip


def result(auction: Auction, price: float, on: Terms) -> tuple[bool, bool]:
    """(whether a bid would have won, whether that is certain)."""
    known = auction.known
    if auction.kind == EXACT:
        return price >= known, True
    if auction.kind == BELOW and price >= known:
        return True, True
    if auction.kind == ABOVE and price <= known:
        return False, True
    if not on.spread:
        return False, False
    mine, theirs = landscape.chance_of(on, price), landscape.chance_of(on, known)
    chance = mine / theirs if auction.kind == BELOW and theirs else (mine - theirs) / (1 - theirs) if theirs < 1 else 0
    return place(b"replay", f"{auction.bid.event_id}|{auction.bid.imp_id}".encode()) < chance, False


def _told(data: str, after: Sequence[Auction], fraction: float, found: Outcome) -> Figure:
    logged = [auction for auction in after if auction.clicked is not None]
    about: dict[str, Any] = {
        "budget_used": found.spent / found.budget if found.budget else None,
        "win_rate": found.wins / found.auctions,
        "unsure_share": found.unsure / found.auctions,
        "clicks_of_impressions_the_log_won": found.clicks,
        "ecpc_micros": round(found.spent / found.expected_clicks) if found.expected_clicks else None,
        "surplus_micros": found.surplus,
        "overspent_days": found.overspent_days,
        "logged": {
            "wins": len(logged),
            "clicks": sum(bool(auction.clicked) for auction in logged),
            "expected_clicks": sum(auction.bid.pctr for auction in logged),
            "spent_micros": sum(cost_micros(auction.paid) for auction in logged),
        },
    }
    # Expected clicks vary by which auctions come: the error of a sum of independent ones.
    se = math.sqrt(found.expected_clicks) if found.expected_clicks else 0.0
    return Figure(
        part=PART, data=data, metric=f"expected clicks at {fraction:.3g} of what the log spent",
        value=found.expected_clicks, se=se, goal="no overspend", met=not found.overspent_days, about=about,
    )  # fmt: skip


def varied(auctions: Sequence[Auction]) -> Iterator[Figure]:
    """What bids higher or lower than ours would have earned, from first-price bids that were varied by chance.

    Surplus per bid, CPM micros, by SNIPS; groups with fewer than 200 effective bids are told as refused.
    """
    tried = [auction for auction in auctions if auction.bid.explored and auction.bid.at == 1]
    if not tried:
        return
    rewards = np.array([0.0 if a.clicked is None else a.bid.value_micros - a.paid for a in tried])
    by = np.array([a.bid.explored for a in tried])
    width = VARIED[-1][1] - VARIED[0][0]
    for low, high in VARIED:
        # The factor's logarithm is uniform, so a band's share of the width is the propensity of being in it.
        target: npt.NDArray[np.float64] = ((by >= low) & (by < high)).astype(np.float64)
        data = f"prices times {math.exp(low):.2f} to {math.exp(high):.2f}"
        try:
            found = offpolicy.snips(rewards, np.full(len(by), (high - low) / width), target)
        except TagbidError as error:
            yield Figure(
                part=PART,
                data=data,
                metric="surplus per bid",
                value=math.nan,
                se=math.inf,
                about={"refused": str(error)},
            )
        else:
            yield Figure(
                part=PART, data=data, metric="surplus per bid, CPM micros", value=found.value, se=found.se,
                about={"effective": found.effective, "bids": len(by)},
            )  # fmt: skip
