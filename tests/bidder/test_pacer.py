import math

import numpy as np
import pytest

from bidder import pacer, pacing
from bidder.budget import DAY_S, Account
from bidder.pacer import Pacer
from bidder.pacing import FULL, Pace
from bidder.quoting import Quote
from models import landscape
from models.landscape import Terms
from models.live import Cost
from tests.bidder.factories import a_campaign

DAY = 20_000
START_S = DAY * DAY_S


def an_account(budget: int = 1_000_000, spent: int = 0, synced_s: float = START_S, campaign: str = "acme") -> Account:
    account = Account(campaign, DAY, budget)
    account.spent, account.synced_s = spent, synced_s
    return account


class Day:
    """One campaign's day: supply that would cost `full` micros a second at full pace."""

    def __init__(self, full: float, kept: dict[str, Pace] | None = None, **fields: object) -> None:
        self.campaign = (
            a_campaign(goal="cpc", pacing="even", **fields) if "goal" not in fields else a_campaign(**fields)
        )
        self.saved: dict[str, bytes] = {}
        self.pacer = Pacer(self.saved.__setitem__)
        self.pacer.configure([self.campaign], kept or {}, START_S)
        self.account = an_account()
        self.full = full
        self.rng = np.random.default_rng(1)

    def run(self, seconds: int, news: bool = True) -> None:
        """News of the spend come every 15 seconds, as from the store."""
        for _ in range(seconds):
            self.now = getattr(self, "now", START_S) + 1
            pace = self.pacer.of.get("acme", FULL)
            cost = self.full * pace.k**1.5 * pace.share * self.rng.uniform(0.5, 1.5)
            self.unsettled = getattr(self, "unsettled", 0.0) + min(cost, self.account.budget - self.account.spent)
            if news and self.now % 15 == 0:
                self.account.spent += int(self.unsettled)
                self.unsettled = 0.0
                self.account.synced_s = self.now
            self.pacer.tick([self.account], {"acme": self.campaign}, self.now)


def test_a_click_campaign_follows_its_plan_by_the_multiplier() -> None:
    day = Day(full=200.0)  # 17 budgets a day at full pace
    day.run(3 * 3600)
    before = day.account.spent
    day.run(3 * 3600)
    spent = day.account.spent - before
    rest = (1_000_000 - before) * 3 / 21
    assert spent == pytest.approx(rest, rel=0.15)
    assert day.pacer.of["acme"].k < 0.5
    assert day.pacer.of["acme"].share == 1


def test_a_fixed_price_campaign_follows_its_plan_by_the_share_of_requests() -> None:
    day = Day(full=200.0, goal="cpm", pacing="even")
    day.run(4 * 3600)
    before = day.account.spent
    day.run(2 * 3600)
    assert day.account.spent - before == pytest.approx((1_000_000 - before) * 2 / 20, rel=0.2)
    assert day.pacer.of["acme"].k == 1
    assert day.pacer.of["acme"].share < 0.2


def test_a_campaign_that_cannot_spend_its_plan_bids_all_out() -> None:
    day = Day(full=1.0)
    day.run(3600)
    assert day.pacer.of == {}


def test_as_soon_as_possible_is_not_paced() -> None:
    paced = Pacer(lambda *_: None)
    paced.configure([a_campaign(pacing="asap")], {"acme": Pace(0.5)}, START_S)
    assert paced.of == {}


def test_without_news_paces_fade_and_after_ten_minutes_nothing_is_bid() -> None:
    day = Day(full=200.0, kept={"acme": Pace(0.4, 1.0)})
    day.run(44)
    k = day.pacer.of["acme"].k
    day.run(180, news=False)
    age_s = day.now - day.account.synced_s
    assert day.pacer.of["acme"].k == pytest.approx(k * 0.95 ** ((age_s - 60) / 60), rel=0.02)
    day.run(500, news=False)
    assert day.pacer.of["acme"] == Pace(0.0, 0.0)
    day.run(30)
    assert day.pacer.of["acme"].k > 0.2  # near where it was, once the store tells again


def test_silence_is_not_taken_for_no_spend() -> None:
    day = Day(full=200.0, kept={"acme": Pace(0.4, 1.0)})
    day.run(44)
    saved = day.saved["acme"]
    day.run(50, news=False)
    assert day.saved["acme"] == saved


def test_where_a_pace_was_kept_it_starts_there() -> None:
    day = Day(full=200.0, kept={"acme": Pace(0.25, 0.5)})
    assert day.pacer.of["acme"] == Pace(0.25, 0.5)


def test_the_first_minute_of_bids_gives_the_pace_of_the_day() -> None:
    day = Day(full=0.0)
    terms = Terms(0.85, mu=math.log(1e6), spread=0.5)
    for _ in range(600):
        day.pacer.saw("acme", Quote(2e6, 1.0, 1e6, terms=terms))
    day.run(75)
    k = day.pacer.of["acme"].k
    shaded = landscape.shade(terms, 2e6 * k)
    per_day = (
        shaded.bid / 1000 * shaded.chance * 600 / 60 * (DAY_S - 60)
    )  # known once the store told of the 60th second
    assert per_day == pytest.approx(1_000_000, rel=0.02)


def test_a_new_day_starts_at_the_pace_reached() -> None:
    day = Day(full=200.0)
    day.run(2 * 3600)
    k = day.pacer.of["acme"].k
    day.account = an_account(synced_s=START_S + DAY_S)
    day.account.day = DAY + 1
    day.now = START_S + DAY_S
    day.run(30)
    assert day.pacer.of["acme"].k == pytest.approx(k, rel=0.35)


@pytest.mark.parametrize("data", [None, b"", b"{", b"[1]", b"[2.0, 1.0]", b"[0.5, 0.0]", b'["x", 1]', b"[NaN, 1]"])
def test_what_cannot_be_a_pace_is_none(data: bytes | None) -> None:
    assert pacer.decode(data) is None


def test_a_kept_pace_is_read_back() -> None:
    assert pacer.decode(pacer.encode(Pace(0.25, 0.5))) == Pace(0.25, 0.5)
    assert pacer.decode(b"[0.25,0.5]") == Pace(0.25, 0.5)  # as version one wrote it


def test_a_new_campaign_that_rushes_is_brought_down_within_a_second() -> None:
    day = Day(full=0.0)
    day.account.pending = 30_000  # 3 % of the budget at stake
    day.run(2)
    pace = day.pacer.of["acme"]
    assert pace.k <= 1_000_000 / DAY_S * 2 / 30_000 * 1.01  # what the plan allows for two seconds, of that
    assert pace.k >= pacing.K_MIN


def test_a_new_campaign_that_does_not_is_left_alone() -> None:
    day = Day(full=0.0)
    day.account.pending = 19_000
    day.run(20)
    assert day.pacer.of == {}


def test_without_a_landscape_the_first_fiftieth_of_the_budget_gives_the_pace() -> None:
    day = Day(full=200.0, goal="cpm", pacing="even")  # the plan is 11.6 a second; a fiftieth is gone after 100 seconds
    day.run(90)
    assert day.pacer.of == {}
    day.run(30)
    assert day.pacer.of["acme"].share == pytest.approx(1_000_000 / DAY_S / 200, rel=0.1)


def test_silence_of_the_first_minute_does_not_lift_the_brake() -> None:
    """Exchanges may bill ten minutes late: no spend until then is no reason to go on at full pace."""
    day = Day(full=0.0)
    day.run(300)
    day.account.pending = 30_000
    day.run(1)
    assert day.pacer.of["acme"].k <= 1_000_000 / DAY_S * 301 / 30_000 * 1.01


def test_workers_share_the_budget_that_the_first_minute_is_measured_against() -> None:
    """Four workers with the same bids each find the pace at which all four spend the budget, not each of them."""
    terms = Terms(0.85, mu=math.log(1e6), spread=0.5)
    paces = []
    for workers in (1, 4):
        day = Day(full=0.0)
        day.account.workers = workers
        for _ in range(600 // workers):
            day.pacer.saw("acme", Quote(2e6, 1.0, 1e6, terms=terms))
        day.run(75)
        paces.append(day.pacer.of["acme"].k)
    assert paces[1] == pytest.approx(paces[0])


def test_a_new_campaign_is_braked_by_what_all_workers_may_have_at_stake() -> None:
    day = Day(full=0.0)
    day.account.workers, day.account.pending = 4, 7_500  # 3 % of the budget, if the others do as this one
    day.run(2)
    assert day.pacer.of["acme"].k <= 1_000_000 / DAY_S * 2 / 30_000 * 1.01


def saw_bids(day: Day, chance: float, n: int = 60) -> None:
    for _ in range(n):
        day.pacer.saw("acme", Quote(2e6, 1.0, 1e6, chance=chance))


def test_bids_that_hardly_ever_win_put_hardly_anything_at_stake() -> None:
    day = Day(full=0.0)
    saw_bids(day, chance=0.1)
    day.account.pending = 150_000  # 15 % of the budget, of which a tenth is likely to be won
    day.run(2)
    assert day.pacer.of == {}
    day.account.pending = 300_000
    day.run(1)
    assert day.pacer.of["acme"].k == pytest.approx(1_000_000 / DAY_S * 3 / 30_000, rel=0.01)


@pytest.mark.parametrize(("chance", "bids"), [(0.0, 60), (0.1, 10)])
def test_chances_that_are_not_known_yet_count_as_certain(chance: float, bids: int) -> None:
    day = Day(full=0.0)
    saw_bids(day, chance, bids)
    day.account.pending = 30_000
    day.run(2)
    assert day.pacer.of["acme"].k <= 1_000_000 / DAY_S * 2 / 30_000 * 1.01


def test_the_brake_plans_with_what_is_left_of_the_budget() -> None:
    day = Day(full=0.0)
    day.account.spent = 900_000
    day.run(16)
    day.account.pending = 30_000
    day.run(1)
    assert day.pacer.of["acme"].k <= 100_000 / DAY_S * 17 / 30_000 * 1.01


@pytest.mark.parametrize("goal", ["cpm", "cpc"])
def test_a_landscape_that_expects_no_win_at_all_is_no_defect(goal: str) -> None:
    day = Day(full=0.0, goal=goal, pacing="even")
    never = Terms(0.85, mu=math.log(1e6), spread=0.5, knots=([0.0, 1.0], [0.0, 0.0]))
    for _ in range(600):
        day.pacer.saw("acme", Quote(2e6, 1.0, 1e6, terms=never))
    day.run(75)
    assert day.pacer.of == {}


@pytest.mark.parametrize(("goal", "cpm_micros", "a_second"), [("cpm", 4_000_000, 0.1), ("cpc", 40_000_000, 0.01)])
def test_a_budget_of_few_impressions_is_spread_over_the_day_too(goal: str, cpm_micros: int, a_second: float) -> None:
    """About 200 a day: most intervals see no spend, and that must not count as too little."""
    part = []
    for seed in range(5):
        day = Day(full=0.0, goal=goal, pacing="even")
        rng = np.random.default_rng(seed)
        for _ in range(8 * 240):
            pace = day.pacer.of.get("acme", FULL)
            bid = cpm_micros * pace.k
            for _ in range(
                rng.poisson(15 * a_second * pace.k * pace.share)
            ):  # what is bid half of is won half as often
                day.pacer.saw("acme", Quote(bid, pace.k, bid))
                day.account.spent += int(bid / 1000)
            day.run(15)
        part.append(day.account.spent / 1_000_000)
    assert np.mean(part) == pytest.approx(8 / 24, rel=0.2)


def test_a_campaign_that_changes_its_goal_keeps_how_much_it_bids_and_can_recover() -> None:
    day = Day(full=1.0, kept={"acme": Pace(1.0, 0.05)})  # a fixed price until now, paid per click from here on
    day.run(45)
    pace = day.pacer.of["acme"]
    assert pace.share == 1
    assert pace.k == pytest.approx(0.05, rel=0.5)
    day.run(1800)
    assert day.pacer.of == {}


def test_a_new_portfolio_does_not_freshen_a_stale_pace() -> None:
    day = Day(full=200.0, kept={"acme": Pace(0.4, 1.0)})
    day.run(44)
    day.run(700, news=False)
    day.pacer.configure([day.campaign], {}, day.now)
    assert day.pacer.of["acme"] == Pace(0.0, 0.0)


def test_the_first_news_of_a_day_half_spent_is_not_taken_for_an_intervals_spend() -> None:
    day = Day(full=0.0)
    day.account.synced_s = 0.0
    day.run(13, news=False)
    day.account.spent = 500_000
    day.run(40)
    assert day.pacer.of == {}


PRICE = 1_000_000  # per conversion


def paying_per_conversion(costs: list[tuple[int, float, float] | None], every_s: int = 60) -> list[float]:
    """k of a campaign after each of these (seconds since the start, spend, conversions), read once a minute."""
    campaign = a_campaign(goal="cpa", price_micros=PRICE)
    made = Pacer(lambda _name, _record: None)
    made.configure([campaign], {"acme": FULL}, START_S)
    account = an_account(budget=10**15)
    found = []
    for minute, cost in enumerate(costs):
        told = {} if cost is None else {"acme": Cost(cost[1], cost[2], int((START_S + cost[0]) * 1e6))}
        for second in range(every_s):
            account.synced_s = START_S + minute * every_s + second
            made.tick([account], {"acme": campaign}, account.synced_s, told)
        found.append(made.of.get("acme", FULL).k)
    return found


def test_a_cost_above_the_price_lowers_the_bid_from_the_day_so_far_and_then_by_what_is_new() -> None:
    k = paying_per_conversion([
        (0, 2 * PRICE, 1.0),  # not enough to tell
        (60, 25 * PRICE, 10.0),  # (10 + 5) / (25 + 5)
        (120, 27 * PRICE, 12.0),  # two new conversions: wait
        (180, 55 * PRICE, 20.0),  # since: 30 prices for 10 conversions, (30 + 5) / (10 + 5)
        (240, 60 * PRICE, 40.0),  # since: 5 for 20: cheap, so up again
    ])  # fmt: skip
    assert k[:3] == pytest.approx([1.0, 0.5, 0.5])
    assert k[3] == pytest.approx(0.5 * (15 / 35) ** 0.1)
    assert k[4] == pytest.approx(k[3] * (25 / 10) ** 0.1)


def test_a_new_days_costs_are_not_compared_with_yesterdays() -> None:
    campaign, made = a_campaign(goal="cpa", price_micros=PRICE), Pacer(lambda _name, _record: None)
    made.configure([campaign], {"acme": FULL}, START_S)
    for day, spent, conversions, expected in ((0, 25, 10.0, 0.5), (1, 10, 25.0, 0.5 * (30 / 15) ** 0.1)):
        now_s = START_S + day * DAY_S + 100
        account = an_account(budget=10**15, synced_s=now_s)
        cost = Cost(spent * PRICE, conversions, int(now_s * 1e6))
        made.tick([account], {"acme": campaign}, now_s, {"acme": cost})
        assert made.of["acme"].k == pytest.approx(expected)


def test_without_costs_a_campaign_that_pays_per_conversion_falls_to_half_and_no_further() -> None:
    k = paying_per_conversion([None] * 30)
    assert k[0] == pytest.approx(0.95, abs=0.01)
    assert k[9] == pytest.approx(0.95**10, abs=0.01)
    assert k[-1] == 0.5
    # One that is lower already stays; costs of half an hour ago are none.
    told: list[tuple[int, float, float] | None] = [(0, 55 * PRICE, 10.0)]
    assert paying_per_conversion(told + told * 40)[-1] == pytest.approx(15 / 60)


@pytest.mark.parametrize("goal", ["cpm", "cpc", "roas"])
def test_only_campaigns_that_pay_per_conversion_have_a_cost_target(goal: str) -> None:
    campaign, made = a_campaign(goal=goal, price_micros=PRICE), Pacer(lambda _name, _record: None)
    made.configure([campaign], {"acme": FULL}, START_S)
    made.tick([an_account()], {"acme": campaign}, START_S + 10, {"acme": Cost(99.0 * PRICE, 1.0, int(START_S * 1e6))})
    assert (made.of, made.untold) == ({}, 0)
    paid = a_campaign(goal="cpa", price_micros=PRICE)
    made.tick([an_account()], {"acme": paid}, START_S + 20)
    assert made.untold == 1


@pytest.mark.parametrize("workers", [1, 4])
def test_bills_that_come_ten_minutes_late_do_not_make_it_swing(workers: int) -> None:
    """Bids are held as long; eighteen budgets a day could be spent at full pace, shared by workers told in turn."""
    campaign = a_campaign(goal="cpc", pacing="even")
    pacers, accounts = [Pacer(lambda *_: None) for _ in range(workers)], [an_account() for _ in range(workers)]
    for one, account in zip(pacers, accounts, strict=True):
        account.workers, account.hold_s = workers, 600
        one.configure([campaign], {"acme": Pace(0.3, 1.0)}, START_S)
    bills, swung = [0.0] * 600, []
    for second in range(1, 4 * 3600):
        ks = [one.of.get("acme", FULL).k for one in pacers]
        bills.append(sum(200 / workers * k**1.5 for k in ks))
        swung.append(max(ks))
        for i, (one, account) in enumerate(zip(pacers, accounts, strict=True)):
            if (second + 4 * i) % 15 == 0:
                account.spent, account.synced_s = int(sum(bills[:-600])), START_S + second
            one.tick([account], {"acme": campaign}, START_S + second)
    spent = sum(bills)
    assert spent == pytest.approx(1_000_000 * 4 / 24, rel=0.3)
    assert max(swung[7200:]) < 1.5 * min(swung[7200:])
