import msgspec
import numpy as np
import pytest

from dmp import keys
from dmp.events import Bid, Billing, Click, Conversion, Event
from models import costs, live, live_commands
from models.live import Cost
from tests.models.factories import BORN_US, MINUTE_US, SECOND_US, bid, notice, uid
from tests.stored import encode_all

HOUR_US = 60 * MINUTE_US
NOW_US = BORN_US + 10 * HOUR_US


def billing(number: int, at_us: int, price_micros: int = 0) -> Event:
    return msgspec.structs.replace(notice(Billing, number, at_us), price_micros=price_micros)


def conversion(number: int, at_us: int, order: str = "") -> Conversion:
    return Conversion(
        event_id=f"{number}{order}:conversion", uid=uid(number), time_us=at_us, source="advertiser", campaign="travel",
        bid_id=f"b{number}",
    )  # fmt: skip


def today(folder, *logged: Event) -> Cost:
    (folder / "bids-1.mpk").write_bytes(encode_all(logged))
    return costs.today(folder, NOW_US)["travel"]


def test_spend_is_what_was_billed_and_never_more_than_was_bid(tmp_path):
    # Bids of 1,000,000 CPM micros: 1,000 an impression. Billed: 800; more than bid; without a price; not at all.
    logged = [bid(n, BORN_US) for n in range(4)]
    logged += [
        billing(0, BORN_US, 800_000),
        billing(1, BORN_US, 9_000_000),
        billing(2, BORN_US),
        billing(0, BORN_US + 1),
    ]
    assert today(tmp_path, *logged).spent_micros == 800 + 1_000 + 1_000


def test_spend_in_another_currency_is_what_the_impression_was_worth(tmp_path):
    made: Bid = msgspec.structs.replace(bid(1, BORN_US), currency="EUR", worth_micros=1_300_000)
    assert today(tmp_path, made, billing(1, BORN_US, 900_000)).spent_micros == 1_300


def test_yesterday_is_another_day(tmp_path):
    logged = [bid(1, BORN_US - 1), billing(1, BORN_US), conversion(1, BORN_US + 1), bid(2, BORN_US)]
    assert today(tmp_path, *logged) == Cost(0.0, 0.0, NOW_US)


def test_conversions_still_to_come_are_expected_by_the_age_of_clicks(tmp_path):
    """Half of conversions come at once, half after four hours. 400 clicks are old; 400 of two hours: half came."""
    logged: list[Event] = []
    for n in range(800):
        clicked_us = NOW_US - (9 if n < 400 else 2) * HOUR_US
        logged += [bid(n, clicked_us - SECOND_US), notice(Click, n, clicked_us)]
        if n % 4 == 0:  # a quarter converts
            at_us = clicked_us + (MINUTE_US if n % 8 == 0 else 4 * HOUR_US)
            if at_us <= NOW_US:
                logged.append(conversion(n, at_us))
    # 100 + 50 came; in all 200 will. The curve's points are 8 % apart, far from both delays.
    assert today(tmp_path, *logged).conversions == pytest.approx(200, rel=0.02)


def test_an_order_told_twice_and_one_of_nobodys_bid_count_once_and_never(tmp_path):
    logged = [bid(1, BORN_US), notice(Click, 1, BORN_US + 1), conversion(1, BORN_US + MINUTE_US)]
    logged += [conversion(1, BORN_US + 2 * MINUTE_US), conversion(77, BORN_US)]
    assert today(tmp_path, *logged).conversions == pytest.approx(1.0)


def test_costs_reach_the_store_beside_the_ratios_and_damaged_ones_count_for_nothing(client, tmp_path):
    logged = [bid(1, BORN_US), billing(1, BORN_US), notice(Click, 1, BORN_US + 1), conversion(1, BORN_US + MINUTE_US)]
    (tmp_path / "bids-1.mpk").write_bytes(encode_all(logged))
    live_commands.step(client, tmp_path, NOW_US, 30 * MINUTE_US)
    stored = client.get(keys.cost("travel"))
    assert live.read_costs({"travel": stored, "a": None, "b": b"\xc1"}) == {"travel": Cost(1_000.0, 1.0, NOW_US)}
    assert 0 < client.ttl(keys.cost("travel")) <= 2 * 86_400
    odd = [live.encode_cost(Cost(x, 1.0, 1)) for x in (-1.0, np.inf, np.nan)]
    assert live.read_costs(dict(zip("abc", odd, strict=True))) == {}
