import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.overload import BEAT_S, BURST_S, LATE_S, LEAST, STANDING_S, WORK_S, Pressure, Quota


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def after(decisions, cost_s, pressure):
    """So many decisions later, at the next beat."""
    for _ in range(decisions):
        pressure.decided(cost_s)
    pressure.beat()
    return pressure


def settled(clock, cost_s=0.00005):
    return after(2_000, cost_s, Pressure(1_000, clock))


def test_as_many_decisions_are_in_hand_as_fit_into_the_time_set_aside(clock):
    pressure = settled(clock)
    assert not pressure.crowded(0, clock.now_s)
    # Of 0.05 ms each, less rounding.
    assert pressure.limit in (int(BURST_S / 0.00005), int(BURST_S / 0.00005) - 1)
    assert pressure.standing in (int(WORK_S / 0.00005), int(WORK_S / 0.00005) - 1)
    assert not pressure.crowded(pressure.limit - 1, clock.now_s)
    assert pressure.crowded(pressure.limit, clock.now_s)


def test_a_queue_that_stands_is_cut_and_stays_short_until_it_was_down(clock):
    pressure = settled(clock)
    begun_s, standing = clock.now_s, pressure.standing
    assert not pressure.crowded(standing // 2 - 1, begun_s)
    assert not pressure.crowded(standing + 10, begun_s + STANDING_S)
    late_s = begun_s + STANDING_S + 0.001
    assert pressure.crowded(standing, late_s)
    assert not pressure.crowded(standing - 1, late_s)  # and this does not make it well
    assert pressure.crowded(standing, late_s)
    assert not pressure.crowded((standing - 1) // 2, late_s)
    assert not pressure.crowded(pressure.limit - 1, late_s)


@given(st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 400)), max_size=60))
def test_nothing_above_the_limit_is_admitted_and_nothing_below_the_standing_one_refused(asked):
    clock = Clock()
    pressure = settled(clock)
    for gap_s, in_hand in asked:
        clock.now_s += gap_s
        crowded = pressure.crowded(in_hand, clock.now_s)
        assert crowded or in_hand < pressure.limit
        assert not crowded or in_hand >= pressure.standing


def test_slow_decisions_lower_the_limit_and_never_below_the_least(clock):
    pressure = Pressure(1_000, clock)
    before = pressure.limit
    assert LEAST <= after(50, 0.001, pressure).limit < before
    after(5_000, 1.0, pressure)
    assert pressure.limit == pressure.standing == LEAST


def test_the_operators_limit_holds_whatever_is_measured(clock):
    pressure = after(5_000, 0.000001, Pressure(12, clock))
    assert pressure.limit == pressure.standing == 12


def test_a_request_read_while_the_heartbeat_is_overdue_has_waited_since_then(clock):
    pressure = Pressure(1_000, clock)
    assert not pressure.late(clock.now_s + 1e6)
    pressure.beat()
    due_s = clock.now_s + BEAT_S
    assert pressure.since_s(clock.now_s) == clock.now_s
    clock.now_s = due_s + 0.015
    assert pressure.since_s(clock.now_s) == due_s
    assert not pressure.late(clock.now_s)
    clock.now_s = due_s + LATE_S + 0.001
    assert pressure.late(clock.now_s)
    pressure.beat()
    assert not pressure.late(clock.now_s)
    assert pressure.longest_stall_s == pytest.approx(LATE_S + 0.001)
    pressure.beat()  # early beats shorten nothing
    assert pressure.longest_stall_s == pytest.approx(LATE_S + 0.001)


def test_a_quota_admits_its_rate_and_a_tenth_of_a_second_at_once():
    quota = Quota(100.0)  # one in 10 ms, ten at once
    assert [quota.admit(5.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert quota.admit(5.01)
    assert not quota.admit(5.01)
    assert quota.admit(5.02)


def test_a_quota_below_ten_a_second_still_admits_single_requests():
    quota = Quota(0.5)
    assert quota.admit(10.0)
    assert not quota.admit(11.9)
    assert quota.admit(12.0)


@given(st.floats(0.1, 10_000), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_no_stream_of_requests_exceeds_its_quota(per_s, gaps):
    quota = Quota(per_s)
    now_s, admitted = 1_000.0, 0
    for gap in gaps:
        now_s += gap
        admitted += quota.admit(now_s)
    burst = max(0.1 * per_s, 1.0)
    assert admitted <= (now_s - 1_000.0) * per_s + burst + 1 + 1e-6


def test_without_its_heartbeat_a_process_that_leaves_still_answers_what_arrives(clock):
    pressure = Pressure(1_000, clock)

    async def begun_and_ended():
        pressure.start()
        pressure.stop()

    asyncio.run(begun_and_ended())
    clock.now_s += 10 * LATE_S
    assert not pressure.late(clock.now_s)
    assert pressure.since_s(clock.now_s) == clock.now_s
