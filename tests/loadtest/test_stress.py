import numpy as np
import pytest

from loadtest.load import Result
from loadtest.stress import in_time, read_outage, recovery_s


def a_result(due_s, latency_ms, status=200, tmax_ms=100, bodies=None):
    n = len(due_s)

    def column(value, scale=1):
        return np.full(n, value * scale) if np.isscalar(value) else np.array(value) * scale

    return Result(
        due_us=(np.array(due_s) * 1e6).astype(np.int64),
        lag_us=np.zeros(n, np.int64),
        latency_us=column(latency_ms, 1000),
        status=column(status),
        bid=np.zeros(n, np.int64),
        tmax_us=column(tmax_ms, 1000),
        bodies=bodies or {},
        errors={},
        opened=1,
        duration_s=1.0,
        elapsed_s=1.0,
        cpu_s=0.0,
    )


def test_an_answer_is_in_time_up_to_its_limit_and_silence_is_not():
    result = a_result([0, 0, 0, 0], [100, 101, 1, -1], [200, 200, 204, 0])
    assert in_time(result).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("late_slices", "recovered"),
    [([], 0.0), ([0, 1, 2], 0.3), ([0, 4], 0.5), ([9], None)],
)
def test_recovery_is_the_end_of_the_last_bad_slice(late_slices, recovered):
    due_s = [k * 0.01 + 0.005 for k in range(100)]  # ten requests in each of ten slices
    latency = [500 if int(moment / 0.1) in late_slices else 5 for moment in due_s]
    found = recovery_s(a_result(due_s, latency))
    assert found is None if recovered is None else found == pytest.approx(recovered)


def test_an_outage_is_read_off_who_bid_when():
    """Ten requests a second for six seconds; the store stands still from second 2 to second 4."""
    due_s = [k / 10 for k in range(60)]
    bodies = {}
    for number, moment in enumerate(due_s):
        name = "tagged" if number % 2 else "free"
        if 2 <= moment < 4.5:
            name = "free" if number % 10 else ""  # nine of ten
        bodies[number] = f'{{"cid":"{name}"}}'.encode() if name else b""
    status = [503 if 3.0 <= moment < 3.15 else 200 for moment in due_s]
    latency = [150 if 2.5 <= moment < 2.75 else 5 for moment in due_s]
    found = read_outage(a_result(due_s, latency, status, 100, bodies), 10, 2.0, 4.0, 0.21, {"free"}, {"tagged"})
    assert found.seconds == 2.0
    assert found.errors == 2
    assert found.in_time == pytest.approx(1 - 3 / 20)
    assert found.free_kept == pytest.approx((18 / 2) / (10 / 2))
    assert found.breaker_ms == 210
    assert found.back_s == pytest.approx(0.5, abs=0.11)


def test_tags_that_never_come_back_are_told():
    bodies = dict.fromkeys(range(60), b'{"cid":"free"}')
    found = read_outage(
        a_result([k / 10 for k in range(60)], 5, 200, 100, bodies), 10, 2, 4, None, {"free"}, {"tagged"}
    )
    assert found.back_s is None
    assert found.breaker_ms is None
    assert found.free_kept == 1.0
