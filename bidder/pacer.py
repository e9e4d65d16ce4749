"""The pacing loop: every few seconds, what was spent against the plan, and how each campaign bids from now on.

Every worker steps for itself on the spend the store told it (`bidder.budget.Account`), which all workers share, by the
arithmetic of `bidder.pacing`. An interval ends when the store has told a newer spend, so an interval without news is
not taken for one without spend. Steps are as small as late bills make necessary, and while no bill of the day can have
come, no pace rises. When there is no news for a minute, paces fade, and after ten minutes nothing is bid.

A campaign paid per click is paced by its multiplier, one paid per impression by the share of requests it bids in. What
a campaign had reached is kept in the store for the next worker; without that, the first minute's first-price bids (what
they were worth, and what the landscape expects of them) and their rate give the pace that spends the rest of the day's
budget by its end. Until that is known, or where it cannot be, a campaign that puts a fiftieth of its budget at stake is
brought down within a second to what its plan allows, as if cost followed the pace, which errs on the side of bidding
less. Where a landscape says how likely bids win, that share of the stake counts: a campaign that wins one bid in ten
has a tenth of its stake to lose. Of bids and stakes a worker sees its own, and takes the others to have as many.

A campaign that pays per conversion has a second multiplier, which holds the cost of one at its price, and bids by the
smaller of the two. It moves once five conversions or three prices of spend have come since it last did. Where nobody
tells what conversions cost, it falls by a twentieth a minute to one half.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import msgspec

from bidder import pacing, supply_week
from bidder.budget import DAY_S, Account
from bidder.campaigns import Campaign
from bidder.pacing import FULL, Pace
from bidder.quoting import Quote
from bidder.supply_week import NOTHING, Week
from models import landscape
from models.landscape import Terms
from models.live import Cost

STEP_S = 10.0
WARM_S = 60.0
WARM_BIDS = 50
COLD_SHARE = 0.02  # of the budget, at stake before anything is known of a campaign's pace
SAMPLE = 256
RECENT = 0.02  # share of a new bid in the mean of recent ones
KEEP_S = 2 * DAY_S
DAY_US = DAY_S * 1_000_000
UNTOLD = 0.5  # of its value, at most, where what conversions cost is not known
NO_COSTS: Mapping[str, Cost] = {}

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[float, float])


def encode(pace: Pace) -> bytes:
    """What is kept of a pace: [k, share] as JSON."""
    return _encoder.encode((pace.k, pace.share))


def decode(data: bytes | None) -> Pace | None:
    """A kept pace; None when there is none or it cannot be one."""
    if not data:
        return None
    try:
        k, share = _decoder.decode(data)
    except msgspec.DecodeError:
        return None
    fits = pacing.K_MIN <= k <= pacing.K_MAX and 0 < share <= 1
    return Pace(k, share) if fits else None


class _Course:
    """Where one campaign is. at_s, spent: of the last news; day_s: of the day's first. cold: nothing is known of its
    pace yet. bids, sample: how many it made since, and what some of them were worth on which terms; staked, likely:
    their sum, and what of it is expected to be won. bid: recent mean at full pace, CPM micros. aim: multiplier of its
    cost target, 1 where there is none; aimed: the cost it was last moved by.
    """

    __slots__ = (
        "aim", "aimed", "at_s", "bid", "bids", "cold", "day", "day_s", "likely", "pace", "plan", "sample", "seen_s",
        "spent", "staked",
    )  # fmt: skip

    def __init__(self, campaign: Campaign, pace: Pace | None, now_s: float) -> None:
        self.plan: tuple[float, ...] = ()
        self.pace = FULL if pace is None else pace
        self.cold = pace is None
        self.seen_s = now_s
        self.at_s, self.spent, self.day, self.day_s = now_s, 0, -1, now_s
        self.bid = 0.0
        self.bids = 0
        self.staked = self.likely = 0.0
        self.sample: list[tuple[float, Terms]] = []
        self.aim = 1.0
        self.aimed = Cost(0.0, 0.0, 0)


class Pacer:
    """Paces of one worker's campaigns. kept: what the store kept of them. save: keeps it there again."""

    def __init__(self, save: Callable[[str, bytes], None]) -> None:
        self.of: Mapping[str, Pace] = {}
        """Campaign id -> pace, for `snapshot.Paces`; those at full pace are absent. Replaced whole."""
        self._save = save
        self._week = NOTHING
        self._courses: dict[str, _Course] = {}
        self._stepped_s: dict[int, float] = {}
        self._untold: set[str] = set()
        self._told: dict[str, Account] = {}

    @property
    def untold(self) -> int:
        """Campaigns that pay per conversion and bid less because nobody tells what one costs."""
        return len(self._untold)

    def configure(
        self, campaigns: Iterable[Campaign], kept: Mapping[str, Pace], now_s: float, week: Week = NOTHING
    ) -> None:
        """The campaigns to pace; "asap" ones never are. Those that stay keep their course unless their plan changed.

        week: when auctions come.
        """
        self._week = week
        courses: dict[str, _Course] = {}
        plans: dict[tuple[str, int], tuple[float, ...]] = {}
        for campaign in campaigns:
            if campaign.pacing == "asap":
                continue
            before = self._courses.get(campaign.id)
            if before is None:
                before = _Course(campaign, kept.get(campaign.id), now_s)
            day = before.day if before.day >= 0 else int(now_s) // DAY_S
            plan = plans.get((campaign.pacing, day))
            if plan is None:
                plan = plans[campaign.pacing, day] = pacing.plan(campaign.pacing, supply_week.slots(week, day))
            before.plan = plan
            courses[campaign.id] = before
        self._courses = courses
        self._told = {name: account for name, account in self._told.items() if name in courses}
        self._untold &= courses.keys()
        self.of = {}
        self._publish(courses, now_s)

    def knows(self, campaign: str) -> bool:
        """Whether it is being paced already."""
        return campaign in self._courses

    def saw(self, campaign: str, quote: Quote) -> None:
        """A bid was made."""
        course = self._courses.get(campaign)
        if course is None:
            return
        course.bid += (quote.bid / quote.pace - course.bid) * (RECENT if course.bid else 1.0)
        if not course.cold:
            return
        course.bids += 1
        course.staked += quote.bid
        course.likely += quote.bid * (quote.chance or 1.0)
        if quote.terms is not None and quote.terms.spread and len(course.sample) < SAMPLE:
            course.sample.append((quote.worth, quote.terms))

    def tick(
        self,
        accounts: Iterable[Account],
        campaigns: Mapping[str, Campaign],
        now_s: float,
        costs: Mapping[str, Cost] = NO_COSTS,
        part: int = 0,
    ) -> None:
        """Once a second for each part of the campaigns; steps every `STEP_S`. now_s: on the store's clock.

        accounts: of the present day and this part. costs: of campaigns that pay per conversion; absent = not known.
        """
        told = {account.campaign: account for account in accounts if account.campaign in self._courses}
        self._told |= told
        cold = ((account, self._courses[name]) for name, account in told.items() if self._courses[name].cold)
        rushed = [account.campaign for account, course in cold if _brake(course, account, campaigns, now_s)]
        if now_s - self._stepped_s.get(part, -math.inf) < STEP_S:
            if rushed:
                self._publish(rushed, now_s)
            return
        self._stepped_s[part] = now_s
        for name, account in told.items():
            course, campaign = self._courses[name], campaigns.get(name)
            if campaign is not None:
                if _aim(course, campaign, costs.get(name), now_s):
                    self._untold.discard(name)
                else:
                    self._untold.add(name)
                self._step(name, course, account, campaign, now_s)
        self._publish(told, now_s)

    def _step(self, name: str, course: _Course, account: Account, campaign: Campaign, now_s: float) -> None:
        if not account.synced_s:
            return
        if account.day != course.day:  # a new day, or the first news
            course.day, course.spent, course.day_s = account.day, account.spent, account.synced_s
            course.plan = pacing.plan(campaign.pacing, supply_week.slots(self._week, account.day))
            course.at_s = max(account.synced_s, course.at_s)
            return
        if account.synced_s - course.at_s < STEP_S:
            return
        start_s, until_s = course.at_s - account.day * DAY_S, account.synced_s - account.day * DAY_S
        spent = account.spent - course.spent
        if course.cold:
            pace = _warm(course, campaign, account, until_s) if now_s - course.seen_s >= WARM_S else None
            if pace is None:
                return
        else:
            target = pacing.target_spend(course.plan, start_s, until_s, max(0, account.budget - course.spent))
            slack = pacing.slack(target, course.pace.k * course.bid / 1000)
            eta = pacing.gain(until_s - start_s, account.hold_s, slack / max(target, pacing.DUST))
            before = _part(course.pace)
            part = pacing.budget_step(before, target, spent, slack, eta=eta)
            told_s = account.synced_s - course.day_s
            pace = _pace(campaign, part if told_s > account.hold_s else min(before, part))
        course.at_s, course.spent, course.cold, course.pace = account.synced_s, account.spent, False, pace
        self._save(name, encode(pace))

    def _publish(self, names: Iterable[str], now_s: float) -> None:
        """Let bids know of the present paces of some campaigns."""
        found = dict(self.of)
        for name in names:
            course, account = self._courses[name], self._told.get(name)
            age_s = 0.0 if account is None or not account.synced_s else now_s - account.synced_s
            pace = pacing.faded(Pace(min(course.pace.k, course.aim), course.pace.share), age_s)
            if pace != FULL:
                found[name] = pace
            else:
                found.pop(name, None)
        self.of = found


def _part(pace: Pace) -> float:
    """A pace as one number, whichever kind of campaign it was made for."""
    return pace.k * pace.share


def _pace(campaign: Campaign, part: float) -> Pace:
    """That number as its campaign is paced by."""
    part = min(1.0, part)
    return Pace(1.0, max(pacing.SHARE_MIN, part)) if campaign.goal == "cpm" else Pace(max(pacing.K_MIN, part), 1.0)


def _aim(course: _Course, campaign: Campaign, cost: Cost | None, now_s: float) -> bool:
    """Move a campaign's cost multiplier by what its bids since the last move cost and brought; False = nobody told."""
    if campaign.goal != "cpa":
        course.aim = 1.0
        return True
    if cost is None or now_s - cost.as_of_us / 1e6 > pacing.STALE_STOP_S:
        faded = course.aim * pacing.STALE_DECAY ** (STEP_S / 60)
        course.aim = max(faded, min(course.aim, UNTOLD))
        return False
    before = course.aimed
    if cost.as_of_us // DAY_US != before.as_of_us // DAY_US:  # costs are of a day
        before = Cost(0.0, 0.0, 0)
    spent, conversions = cost.spent_micros - before.spent_micros, cost.conversions - before.conversions
    if conversions < pacing.TARGET_PRIOR and spent <= 3 * campaign.price_micros:
        return True
    if course.aimed.as_of_us:
        course.aim = pacing.target_step(course.aim, campaign.price_micros, max(0.0, spent), max(0.0, conversions))
    else:  # the first one told to this process: start from what the day so far says
        course.aim = pacing.target_start(campaign.price_micros, spent, conversions)
    course.aimed = cost
    return True


def _brake(course: _Course, account: Account, campaigns: Mapping[str, Campaign], now_s: float) -> bool:
    """Bring a campaign down that puts too much at stake at first; whether that was needed."""
    if not account.pending and not account.spent:
        return False
    campaign = campaigns.get(account.campaign)
    spent = account.spent - course.spent if course.day == account.day else 0
    won = course.likely / course.staked if course.bids >= WARM_BIDS and course.staked else 1.0
    staked = account.pending * account.workers * won + spent
    if campaign is None or staked <= COLD_SHARE * account.budget:
        return False
    start_s, until_s = course.seen_s - account.day * DAY_S, max(now_s, course.seen_s + 1) - account.day * DAY_S
    target = pacing.target_spend(course.plan, start_s, until_s, max(0, account.budget - account.spent + spent))
    course.cold, course.sample = False, []
    if course.day == account.day:
        course.at_s, course.spent = account.synced_s, account.spent
    course.pace = _pace(campaign, _part(course.pace) * target / staked)  # if cost follows it; second price falls faster
    return True


def _warm(course: _Course, campaign: Campaign, account: Account, until_s: float) -> Pace | None:
    """The pace that spends what is left on bids like the first ones, None when too few of them tell."""
    sample, elapsed_s = course.sample, until_s - (course.seen_s - account.day * DAY_S)
    if len(sample) < WARM_BIDS or elapsed_s <= 0 or until_s >= DAY_S:
        return None
    course.sample = []
    to_go = course.bids * account.workers / elapsed_s * (DAY_S - until_s)
    per_bid = 1000 * max(0, account.budget - account.spent) / to_go  # CPM micros

    def cost(k: float) -> float:
        shaded = [landscape.shade(terms, worth * k) for worth, terms in sample]
        return sum(one.bid * one.chance for one in shaded) / len(shaded)

    if campaign.goal == "cpm":
        all_out = cost(1.0)
        return _pace(campaign, per_bid / all_out if all_out > per_bid else 1.0)
    return _pace(campaign, pacing.solve(cost, per_bid))
