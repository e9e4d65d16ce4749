import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import keys
from dmp.events import Bid, Click, Impression
from models import live, live_commands
from models.live import HALF_LIFE_US, HOUR_US, Ratio
from tests.models.factories import BORN_US, DAY_US, MINUTE_US, SECOND_US, bid, notice
from tests.stored import encode_all

WAIT_US = 30 * MINUTE_US


def test_a_ratio_is_shrunk_to_one_by_twenty_predicted_clicks():
    # 60 clicks where 20 were predicted: (60 + 20) / (20 + 20).
    assert live.mean(60, 20) == 2.0
    assert live.mean(0, 0) == 1.0
    assert (live.mean(10_000, 1), live.mean(0, 10_000)) == (3.0, 1 / 3)


def test_what_was_counted_loses_half_its_weight_in_a_day():
    first = live.updated(Ratio(as_of_us=BORN_US - 1), 8, 4, BORN_US)
    later = live.updated(first, 1, 2, BORN_US + HALF_LIFE_US)
    assert (later.clicks, later.predicted) == pytest.approx((5, 4))
    assert later.served == pytest.approx(25 / 24)


def test_a_jump_within_an_hour_freezes_what_is_served_and_a_real_change_is_taken_up_hour_by_hour():
    good = live.updated(Ratio(as_of_us=BORN_US - 1), 100, 100, BORN_US)
    assert (good.served, good.frozen) == (1.0, False)
    # Tracking breaks: 400 clicks predicted, none seen. (100 + 20) / (500 + 20) = .23.
    broken = live.updated(good, 0, 400, BORN_US + MINUTE_US)
    assert (broken.served, broken.frozen) == (1.0, True)
    # Tracking is back before the sums forget: as good as before.
    back = live.updated(broken, 400, 20, BORN_US + 2 * MINUTE_US)
    assert not back.frozen
    assert back.served == pytest.approx((500 + 20) / (520 + 20), rel=1e-3)


def test_a_change_that_stays_is_taken_up_by_a_quarter_an_hour():
    """Clicks are twice what was predicted, seen at once: 1, 1.25, 1.25^2, 1.25^3, then the ratio."""
    state = live.updated(Ratio(as_of_us=BORN_US - 1), 380, 180, BORN_US)
    served = [state.served]
    for hour in (1, 2, 3, 4):
        state = live.updated(state, 0, 0, BORN_US + hour * HOUR_US)
        served.append(state.served)
    assert served[:4] == [1.0, 1.25, 1.5625, 1.953125]
    # The counts fade by 2 ** (-4 / 24): (380 f + 20) / (180 f + 20).
    left = 0.5 ** (4 / 24)
    assert served[4] == pytest.approx((380 * left + 20) / (180 * left + 20), rel=1e-6)
    assert not state.frozen


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.integers(0, 2 * HOUR_US)), max_size=20))
def test_no_update_moves_what_is_served_by_more_than_a_quarter_from_where_its_hour_began(steps):
    state, now_us = Ratio(), BORN_US
    for clicks, predicted, later_us in steps:
        now_us += later_us
        state = live.updated(state, clicks, predicted, now_us)
        assert live.LOW <= state.served <= live.HIGH
        assert abs(state.served / state.hour_ago - 1) <= live.JUMP + 1e-9
        assert math.isfinite(state.clicks + state.predicted)


def test_states_survive_the_store_and_damaged_ones_count_for_nothing():
    state = live.updated(Ratio(), 30, 10, BORN_US)
    assert live.decode(live.encode(state)) == state
    far = live.encode(Ratio(served=99.0))
    known = live.read({"a": live.encode(Ratio(served=1.2)), "b": None, "c": b"\xc1", "d": far})
    assert live.served(known, {}) == {"a": 1.2}
    before = msgspec.msgpack.encode([30.0, 10.0, BORN_US, 1.25, 1.0, BORN_US, False])  # as written before learning
    assert live.decode(before) == Ratio(30.0, 10.0, BORN_US, 1.25, 1.0, BORN_US)
    assert not live.learning(live.decode(before), BORN_US)


@pytest.mark.parametrize(
    ("clicks", "later_us", "learns"),
    [(0, 1, True), (49, 1, True), (50, 1, False), (0, 3 * DAY_US - 1, True), (0, 3 * DAY_US, False)],
)
def test_a_campaign_learns_until_its_fiftieth_click_or_for_three_days(clicks, later_us, learns):
    state = live.updated(live.updated(Ratio(), 0, 1, BORN_US), clicks, 1, BORN_US + 1)
    assert live.learning(state, BORN_US + later_us) is learns
    assert live.prior(state, BORN_US + later_us) == (5.0 if learns else 20.0)


def test_a_learning_campaign_adapts_four_times_as_fast():
    # 1 click where 2 were predicted: (1 + 5) / (2 + 5), where one that is known has (1 + 20) / (2 + 20).
    assert live.updated(Ratio(), 1, 2, BORN_US).served == pytest.approx(6 / 7)
    assert live.updated(Ratio(as_of_us=1), 1, 2, BORN_US).served == pytest.approx(21 / 22)


def test_a_new_campaign_has_the_ratio_of_its_advertisers_others():
    states = {"a1": Ratio(40, 20, served=1.5), "a2": Ratio(0, 20, served=0.5), "b1": Ratio(5, 5),
              "c1": Ratio(0, 500, served=1.0, frozen=True)}  # fmt: skip
    of = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b", "c1": "c", "c2": "c", "d1": "d"}
    # a: (40 + 20) / (40 + 20) = 1 is left out. With 40 more clicks 100 / 60. What jumped says nothing of others.
    assert live.served(states, of) == {"a1": 1.5, "a2": 0.5}
    states["a1"] = Ratio(80, 20, served=1.5)
    assert live.served(states, of)["a3"] == pytest.approx(100 / 60)


def test_only_ripe_impressions_count_and_each_once(client, tmp_path):
    def a_bid(number, shown_us, chance=0.5):
        made: Bid = bid(number, shown_us - SECOND_US)
        return [msgspec.structs.replace(made, pctr=chance, model="m"), notice(Impression, number, shown_us)]

    start = BORN_US
    logged = [event for n in range(40) for event in a_bid(n, start + n * SECOND_US)]
    logged += [notice(Click, n, start + n * SECOND_US + MINUTE_US) for n in range(30)]
    logged += a_bid(99, start + 2 * WAIT_US)  # not ripe at the first step
    (tmp_path / "bids-1.mpk").write_bytes(encode_all(logged))
    now_us = start + 2 * WAIT_US + SECOND_US
    first = live_commands.step(client, tmp_path, now_us, WAIT_US)["travel"]
    assert (first.clicks, first.predicted) == pytest.approx((30, 20))
    assert live.decode(client.get(keys.calibration("travel"))) == first
    again = live_commands.step(client, tmp_path, now_us, WAIT_US)["travel"]
    assert (again.clicks, again.predicted) == pytest.approx((30, 20))
    ripened = live_commands.step(client, tmp_path, now_us + WAIT_US, WAIT_US)["travel"]
    left = 0.5 ** (WAIT_US / HALF_LIFE_US)
    assert (ripened.clicks, ripened.predicted) == pytest.approx((30 * left, 20 * left + 0.5))
