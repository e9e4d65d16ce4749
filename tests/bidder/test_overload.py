import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.overload import BEAT_S, LATE_S, LEAST, WORK_S, Pressure, Quota


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_as_many_decisions_are_in_hand_as_fit_into_the_time_set_aside(clock):
    pressure = Pressure(1_000, clock)
    for _ in range(2_000):
        pressure.decided(0.0002)
    assert pressure.limit in (int(WORK_S / 0.0002), int(WORK_S / 0.0002) - 1)  # of 0.2 ms each, less rounding
    assert not pressure.crowded(pressure.limit - 1)
    assert pressure.crowded(pressure.limit)


def test_slow_decisions_lower_the_limit_and_never_below_the_least(clock):
    pressure = Pressure(1_000, clock)
    before = pressure.limit
    for _ in range(50):
        pressure.decided(0.001)
    assert LEAST <= pressure.limit < before
    for _ in range(5_000):
        pressure.decided(1.0)
    assert pressure.limit == LEAST


def test_the_operators_limit_holds_whatever_is_measured(clock):
    pressure = Pressure(12, clock)
    for _ in range(5_000):
        pressure.decided(0.000001)
    assert pressure.limit == 12


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
