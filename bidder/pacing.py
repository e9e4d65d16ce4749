"""Spending a budget over a day: the plan, and the multiplier that keeps to it. Pure arithmetic; the loop is elsewhere.

A campaign bids `k` times what an impression is worth, 0 < k <= 1: with a budget the best bid is the value divided by
one plus the price of money (decision-theoretic dual), and `k` is that fraction. It starts from a solve of
"expected cost at k = money to go per auction to go" and is then corrected by a slow multiplicative step on what was
spent. A cost target has a controller of its own and the smaller multiplier counts: applied one after the other they
can badly miss both (Balseiro et al., 2023). Where the bid is a fixed price, the same step moves the share of
the auctions that are bid in (as LinkedIn's pacing does, Agarwal et al., KDD 2014), by hash, so that a replay passes up
the same ones.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

SLOTS = 288
"""Slots of a day's plan, five minutes each."""
SLOT_S = 86_400 // SLOTS
FLAT = 0.2  # share of a learnt plan that is spread evenly, so that no slot is ever without money

K_MIN, K_MAX = 1e-4, 1.0
ETA = 0.3  # step per interval on the logarithm of the spend error
MOST = 0.15  # no interval changes k by more than 16 %
SLACK = 0.05  # share of the plan added to both sides, so that near-empty intervals do not swing it
EXPECTED_WINS = 20.0  # so many have to be missing, or too many, until k has followed; fewer are noise
DEADBAND = 0.02
DUST = 1e-9  # of a micro: keeps logarithms finite
TARGET_ETA = 0.1
TARGET_PRIOR = 5.0  # conversions a cost target is believed to have met before there were any
SHARE_MIN = 0.001
STALE_S = 60.0
STALE_DECAY = 0.95  # of k, per minute beyond STALE_S
STALE_STOP_S = 600.0

Mode = Literal["even", "front", "asap"]


class Pace(Struct, frozen=True):
    """How a campaign bids now. k: multiplier on value. share: of auctions that are bid in, 1 = all."""

    k: float = 1.0
    share: float = 1.0


FULL = Pace()
STOPPED = Pace(0.0, 0.0)


def plan(mode: Mode, supply: Sequence[float] = ()) -> tuple[float, ...]:
    """Shares of the day's budget per slot, summing to 1. supply: what was eligible per slot (any unit), () = not known.

    "even" follows supply, one fifth of it flat; "front" spends twice as fast at the start of the day as at its end;
    "asap" plans everything for the first slot, so that the budget alone ends spending.

    >>> plan("asap")[:2], round(sum(plan("front")), 9), plan("even")[0] == 1 / 288
    ((1.0, 0.0), 1.0, True)
    """
    if mode == "asap":
        return (1.0, *[0.0] * (SLOTS - 1))
    total = math.fsum(supply)
    shares = [FLAT / SLOTS + (1 - FLAT) * x / total for x in supply] if total > 0 else [1 / SLOTS] * SLOTS
    if mode == "front":
        shares = [share * (2 - i / (SLOTS - 1)) for i, share in enumerate(shares)]
        total = math.fsum(shares)
        shares = [share / total for share in shares]
    return tuple(shares)


def learnt(supply: Sequence[float], seen: Sequence[float], weight: float) -> tuple[float, ...]:
    """Supply per slot after another day of the same weekday. weight: of the new day; half-life two weeks = 1 - 2^-.5.

    >>> learnt([1.0, 3.0], [3.0, 3.0], 0.5)
    (2.0, 3.0)
    """
    if not supply:
        return tuple(seen)
    return tuple((1 - weight) * old + weight * new for old, new in zip(supply, seen, strict=True))


def planned(shares: Sequence[float], from_s: float, to_s: float) -> float:
    """Share of the day's budget planned for [from_s, to_s), seconds of the day.

    >>> round(planned([1 / 288] * 288, 0, 86_400), 9), round(planned([1 / 288] * 288, 150, 450) * 288, 9)
    (1.0, 1.0)
    """
    from_s, to_s = max(0.0, from_s), min(float(SLOTS * SLOT_S), to_s)
    total = 0.0
    for slot in range(int(from_s // SLOT_S), min(SLOTS, math.ceil(to_s / SLOT_S))):
        start = slot * SLOT_S
        total += shares[slot] * max(0.0, min(to_s, start + SLOT_S) - max(from_s, start)) / SLOT_S
    return total


def target_spend(shares: Sequence[float], from_s: float, to_s: float, remaining: float) -> float:
    """What to spend in [from_s, to_s): the plan's share of what is planned for the rest of the day, of `remaining`.

    After a shortfall the rest of the day is asked for more, after a surplus for less.
    """
    rest = planned(shares, from_s, SLOTS * SLOT_S)
    return remaining * planned(shares, from_s, to_s) / rest if rest > 0 else remaining


def slack(target: float, win: float) -> float:
    """What `budget_step` adds to both sides: a share of the plan, and enough that one win hardly counts.

    win: what one win costs, in the unit of target, 0 = not known. Without it an interval with no win, of which there
    are many where budgets are small, would raise the multiplier as far as one with a win lowers it, and the day's money
    would be gone in hours. With several wins on both sides the steps are in proportion to the error.

    >>> slack(100.0, 0.0), slack(100.0, 2.0)
    (5.0, 12.0)
    """
    return max(SLACK * target, ETA * EXPECTED_WINS * win)


def gain(interval_s: float, late_s: float, damped: float) -> float:
    """`eta` of a step after an interval, where what a bid costs is told up to late_s after it was made.

    damped: slack / target, by which the step is smaller already. A loop that answers faster than it hears of its last
    answer swings from one bound to the other, and as those are bounds of ln k it spends several times the plan.

    >>> gain(15.0, 0.0, 0.0), gain(15.0, 600.0, 0.0), gain(15.0, 600.0, 1.0), gain(15.0, 600.0, 99.0)
    (0.3, 0.0075, 0.015, 0.3)
    """
    return ETA * min(1.0, interval_s / late_s * (1 + damped)) if late_s > 0 else ETA


def budget_step(k: float, target: float, spent: float, slack: float, most: float = K_MAX, eta: float = ETA) -> float:
    """The multiplier after an interval in which `target` should have been and `spent` was spent (any one unit).

    slack: added to both. At its cap k does not rise, and there is nothing to unwind later: the state is k itself
    (anti-windup). Errors within the deadband change nothing.

    >>> budget_step(0.5, 100, 100, 5), budget_step(0.5, 100, 101, 5), budget_step(1.0, 100, 0, 5)
    (0.5, 0.5, 1.0)
    """
    if abs(spent - target) <= DEADBAND * target:
        return k
    error = math.log(max(target, 0.0) + slack + DUST) - math.log(max(spent, 0.0) + slack + DUST)
    return min(most, max(K_MIN, k * math.exp(max(-MOST, min(MOST, eta * error)))))


def target_step(k: float, goal: float, spent: float, conversions: float, most: float = K_MAX) -> float:
    """The multiplier of a cost target: cost per conversion towards `goal`.

    conversions: projected, those still to come included. Nothing happens before five of them or three goals of spend.

    >>> target_step(0.5, 10.0, 20.0, 2.0), target_step(0.5, 10.0, 200.0, 10.0) < 0.5
    (0.5, True)
    """
    if conversions < TARGET_PRIOR and spent <= 3 * goal:
        return k
    cost = (spent + TARGET_PRIOR * goal) / (conversions + TARGET_PRIOR)
    return min(most, max(K_MIN, k * math.exp(TARGET_ETA * math.log(goal / cost))))


def target_start(goal: float, spent: float, conversions: float, most: float = K_MAX) -> float:
    """The multiplier a cost target starts from where a day has already cost and brought something.

    As if cost followed the multiplier, which errs on the side of bidding less.

    >>> target_start(10.0, 250.0, 10.0), target_start(10.0, 10.0, 10.0)
    (0.5, 1.0)
    """
    return min(most, max(K_MIN, goal * (conversions + TARGET_PRIOR) / (spent + TARGET_PRIOR * goal)))


def faded(pace: Pace, age_s: float) -> Pace:
    """What a pace is still good for when the spend it was made from is `age_s` old: less each minute, then nothing.

    >>> faded(FULL, 60) == FULL, round(faded(FULL, 120).k, 4), faded(FULL, 601) == STOPPED
    (True, 0.95, True)
    """
    if age_s <= STALE_S:
        return pace
    if age_s > STALE_STOP_S:
        return STOPPED
    keep = STALE_DECAY ** ((age_s - STALE_S) / 60)
    return Pace(pace.k * keep, pace.share * keep)


def solve(cost: Callable[[float], float], per_auction: float, least: float = K_MIN, most: float = K_MAX) -> float:
    """The multiplier whose expected cost per auction is `per_auction`; `most` when even that costs no more.

    cost: expected spend of one auction at k, not falling in k. Bisection on ln k, to a relative 1e-6.

    >>> round(solve(lambda k: 100 * k**2, 25.0), 4), solve(lambda k: k, 2.0)
    (0.5, 1.0)
    """
    if cost(most) <= per_auction:
        return most
    low, high = math.log(least), math.log(most)
    while high - low > 1e-6:
        middle = (low + high) / 2
        if cost(math.exp(middle)) > per_auction:
            high = middle
        else:
            low = middle
    return math.exp(low)
