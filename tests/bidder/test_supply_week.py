"""When auctions come, from a bid log to the plan of a campaign."""

from pathlib import Path

import pytest

from bidder import pacing, supply_week
from bidder.pacer import Pacer
from bidder.pacing import FULL
from bidder.supply_week import DAY_US, HOUR_US, NOTHING, Week
from dmp.errors import BadEvents
from dmp.events import Bid
from tests.bidder.factories import a_campaign
from tests.bidder.test_pacer import DAY, START_S, an_account
from tests.stored import encode_all

FRIDAY = 4  # of the day 20,000: 2024-10-04


def a_log(folder: Path, auctions: list[tuple[int, int, str]]) -> Path:
    """(day, hour, auction id) of bids."""
    folder.mkdir(exist_ok=True)
    bids = [
        Bid(
            event_id=f"b{n}", time_us=day * DAY_US + hour * HOUR_US + n, exchange="x", auction_id=name, imp_id="1",
            campaign="acme", creative="k", price_micros=1,
        )
        for n, (day, hour, name) in enumerate(auctions)
    ]  # fmt: skip
    (folder / "bids-1.mpk").write_bytes(encode_all(bids))
    return folder


def test_whole_days_are_counted_once_by_auction(tmp_path: Path) -> None:
    assert supply_week.weekday(DAY) == FRIDAY
    log = a_log(
        tmp_path / "log", [(DAY, 9, "a"), (DAY, 9, "a"), (DAY, 9, "b"), (DAY, 20, "c"), (DAY + 1, 3, "today")]
    )  # two bids in auction a
    week = supply_week.learn(NOTHING, log, (DAY + 1) * DAY_US + 1)
    assert (week.hours[FRIDAY][9], week.hours[FRIDAY][20], sum(week.hours[FRIDAY])) == (2, 1, 3)
    assert [len(hours) for hours in week.hours] == [0, 0, 0, 0, 24, 0, 0]
    assert supply_week.learn(week, log, (DAY + 1) * DAY_US + 2) == week
    later = supply_week.learn(week, log, (DAY + 2) * DAY_US)  # now that day is over as well
    assert later.hours[5][3] == 1
    assert later.hours[FRIDAY] == week.hours[FRIDAY]


def test_weeks_fade_with_a_half_life_of_two(tmp_path: Path) -> None:
    log = a_log(tmp_path / "log", [(DAY, 9, "a"), *((DAY + 7 * n, 10, f"n{n}") for n in (1, 2))])
    week = supply_week.learn(NOTHING, log, (DAY + 15) * DAY_US)
    assert week.hours[FRIDAY][9] == pytest.approx(0.5)


def test_what_was_learnt_is_read_back_and_damage_is_no_plan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert supply_week.load(tmp_path) == NOTHING
    assert not caplog.records
    week = Week(1, 5, ((1.0,) * 24, *((),) * 6))
    supply_week.save(tmp_path, week)
    assert supply_week.load(tmp_path) == week
    for broken in (b"{", b'{"hours": [[1.0], [], [], [], [], [], []]}', b'{"version": 2}', b'{"hours": []}'):
        (tmp_path / supply_week.FILE).write_bytes(broken)
        assert supply_week.load(tmp_path) == NOTHING
    assert len(caplog.records) == 4


def test_without_a_log_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadEvents, match="run the bidder first"):
        supply_week.learn(NOTHING, tmp_path, 0)


def test_a_paced_campaign_spends_where_auctions_come_and_plans_each_day_by_its_weekday() -> None:
    """All of Friday's auctions come before six, all of Saturday's after eighteen."""
    early = tuple(float(hour < 6) for hour in range(24))
    late = tuple(float(hour >= 18) for hour in range(24))
    week = Week(1, DAY, ((), (), (), (), early, late, ()))
    campaign, paced = a_campaign(goal="cpc", pacing="even"), Pacer(lambda *_: None)
    paced.configure([campaign], {"acme": FULL}, START_S, week)
    course = paced._courses["acme"]
    assert pacing.planned(course.plan, 0, 6 * 3600) == pytest.approx(0.8 + 0.2 / 4)  # a fifth is flat
    account = an_account()
    account.day, account.synced_s = DAY + 1, START_S + 86_400
    paced.tick([account], {"acme": campaign}, START_S + 86_410)
    assert pacing.planned(course.plan, 18 * 3600, 24 * 3600) == pytest.approx(0.8 + 0.2 / 4)
    paced.configure([campaign], {}, START_S + 86_420, NOTHING)
    assert course.plan == pacing.plan("even")
