"""The pacing loop: every few seconds, what was spent against the plan, and how each campaign bids from now on.

Every worker steps for itself on the spend the store told it (`bidder.budget.Account`), which all workers share, by the
arithmetic of `bidder.pacing`. An interval ends when the store has told a newer spend, so an interval without news is
not taken for one without spend. When there is no news for a minute, paces fade, and after ten minutes nothing is bid.

A campaign paid per click is paced by its multiplier, one paid per impression by the share of requests it bids in. What
a campaign had reached is kept in the store for the next worker; without that, the first minute's first-price bids (what
they were worth, and what the landscape expects of them) and their rate give the pace that spends the rest of the day's
budget by its end. A campaign that puts a fiftieth of its budget at stake before that minute is over is brought down at
once to what its plan allows, as if cost followed the pace, which errs on the side of bidding less.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import msgspec

from bidder import pacing
from bidder.budget import DAY_S, Account
from bidder.campaigns import Campaign
from bidder.pacing import FULL, Pace
from bidder.quoting import Quote
from models import landscape
from models.landscape import Terms

STEP_S = 10.0
WARM_S = 60.0
WARM_BIDS = 50
COLD_SHARE = 0.02  # of the budget, at stake before anything is known of a campaign's pace
SAMPLE = 256
KEEP_S = 2 * DAY_S

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
    """Where one campaign is. at_s, spent: of the last news. cold: nothing is known of its pace yet. bids, sample:
    how many it made since, and what some of them were worth on which terms.
    """

    __slots__ = ("at_s", "bids", "cold", "day", "pace", "plan", "sample", "seen_s", "spent")

    def __init__(self, campaign: Campaign, pace: Pace | None, now_s: float) -> None:
        self.plan = pacing.plan(campaign.pacing)
        self.pace = FULL if pace is None else pace
        self.cold = pace is None
        self.seen_s = now_s
        self.at_s, self.spent, self.day = now_s, 0, -1
        self.bids = 0
        self.sample: list[tuple[float, Terms]] = []


class Pacer:
    """Paces of one worker's campaigns. kept: what the store kept of them. save: keeps it there again."""

    def __init__(self, save: Callable[[str, bytes], None]) -> None:
        self.of: Mapping[str, Pace] = {}
        """Campaign id -> pace, for `snapshot.Paces`; those at full pace are absent."""
        self._save = save
        self._courses: dict[str, _Course] = {}
        self._stepped_s = -math.inf

    def configure(self, campaigns: Iterable[Campaign], kept: Mapping[str, Pace], now_s: float) -> None:
        """The campaigns to pace; "asap" ones never are. Those that stay keep their course unless their plan changed."""
        courses = {}
        for campaign in campaigns:
            if campaign.pacing == "asap":
                continue
            before = self._courses.get(campaign.id)
            if before is None:
                before = _Course(campaign, kept.get(campaign.id), now_s)
            before.plan = pacing.plan(campaign.pacing)
            courses[campaign.id] = before
        self._courses = courses
        self._publish(now_s, {})

    def knows(self, campaign: str) -> bool:
        """Whether it is being paced already."""
        return campaign in self._courses

    def saw(self, campaign: str, quote: Quote) -> None:
        """A bid was made; only the first ones of a campaign matter."""
        course = self._courses.get(campaign)
        if course is None or not course.cold:
            return
        course.bids += 1
        if quote.terms is not None and quote.terms.spread and len(course.sample) < SAMPLE:
            course.sample.append((quote.worth, quote.terms))

    def tick(self, accounts: Iterable[Account], campaigns: Mapping[str, Campaign], now_s: float) -> None:
        """Once a second; steps every `STEP_S`. now_s: on the store's clock. accounts: of the present day."""
        told = {account.campaign: account for account in accounts}
        rushed = [_brake(course, account, campaigns, now_s) for account, course in self._cold(told)]
        if now_s - self._stepped_s < STEP_S:
            if any(rushed):
                self._publish(now_s, told)
            return
        self._stepped_s = now_s
        for name, course in self._courses.items():
            account, campaign = told.get(name), campaigns.get(name)
            if account is not None and campaign is not None:
                self._step(name, course, account, campaign, now_s)
        self._publish(now_s, told)

    def _cold(self, told: Mapping[str, Account]) -> list[tuple[Account, _Course]]:
        """Campaigns of which nothing is known yet, with their money."""
        return [(told[name], course) for name, course in self._courses.items() if course.cold and name in told]

    def _step(self, name: str, course: _Course, account: Account, campaign: Campaign, now_s: float) -> None:
        if account.day != course.day:  # a new day, or the first news
            course.day, course.spent, course.at_s = account.day, account.spent, max(account.synced_s, course.at_s)
            return
        if account.synced_s - course.at_s < STEP_S:
            return
        start_s, until_s = course.at_s - account.day * DAY_S, account.synced_s - account.day * DAY_S
        spent = account.spent - course.spent
        target = pacing.target_spend(course.plan, start_s, until_s, max(0, account.budget - course.spent))
        course.at_s, course.spent = account.synced_s, account.spent
        pace = course.pace
        if course.cold:
            if now_s - course.seen_s < WARM_S:
                return
            course.cold = False
            pace = _warm(course, campaign, account, until_s) or _in_proportion(pace, campaign, target, spent)
        elif campaign.goal == "cpm":
            pace = Pace(pace.k, pacing.throttle_step(pace.share, target, spent))
        else:
            pace = Pace(pacing.budget_step(pace.k, target, spent, pacing.SLACK * target), pace.share)
        course.pace = pace
        self._save(name, encode(pace))

    def _publish(self, now_s: float, told: Mapping[str, Account]) -> None:
        found = {}
        for name, course in self._courses.items():
            account = told.get(name)
            age_s = 0.0 if account is None or not account.synced_s else now_s - account.synced_s
            pace = pacing.faded(course.pace, age_s)
            if pace != FULL:
                found[name] = pace
        self.of = found


def _brake(course: _Course, account: Account, campaigns: Mapping[str, Campaign], now_s: float) -> bool:
    """Bring a campaign down that puts too much at stake at first; whether that was needed."""
    campaign = campaigns.get(account.campaign)
    staked = account.pending + (account.spent - course.spent if course.day == account.day else 0)
    if campaign is None or staked <= COLD_SHARE * account.budget:
        return False
    start_s, until_s = course.seen_s - account.day * DAY_S, max(now_s, course.seen_s + 1) - account.day * DAY_S
    target = pacing.target_spend(course.plan, start_s, until_s, account.budget)
    course.cold, course.sample = False, []
    course.pace = _in_proportion(course.pace, campaign, target, staked)
    return True


def _in_proportion(pace: Pace, campaign: Campaign, target: float, spent: float) -> Pace:
    """The pace at which `target` is spent where `spent` was, if cost follows it; second-price costs fall faster."""
    part = min(1.0, target / spent) if spent > 0 else 1.0
    if campaign.goal == "cpm":
        return Pace(pace.k, max(pacing.SHARE_MIN, pace.share * part))
    return Pace(max(pacing.K_MIN, pace.k * part), pace.share)


def _warm(course: _Course, campaign: Campaign, account: Account, until_s: float) -> Pace | None:
    """The pace that spends what is left on bids like the first ones, None when too few of them tell."""
    sample, course.sample = course.sample, []
    elapsed_s = until_s - (course.seen_s - account.day * DAY_S)
    if len(sample) < WARM_BIDS or elapsed_s <= 0 or until_s >= DAY_S:
        return None
    to_go = course.bids / elapsed_s * (DAY_S - until_s)
    per_bid = 1000 * max(0, account.budget - account.spent) / to_go  # CPM micros

    def cost(k: float) -> float:
        shaded = [landscape.shade(terms, worth * k) for worth, terms in sample]
        return sum(one.bid * one.chance for one in shaded) / len(shaded)

    if campaign.goal == "cpm":
        return Pace(1.0, min(1.0, max(pacing.SHARE_MIN, per_bid / cost(1.0))))
    return Pace(pacing.solve(cost, per_bid), 1.0)
