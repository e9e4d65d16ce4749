import math

import numpy as np
import pytest

from models import drift, evaluate, gate
from models.evaluate import Gain
from models.gate import Check


@pytest.mark.parametrize(
    ("gain", "clicks", "passes"),
    [(Gain(0.02, 0.01), 5.0, True), (Gain(0.016, 0.01), 5.0, False), (Gain(-0.1, 0.01), 5.0, False),
     (Gain(0.0, 0.0), 5.0, False), (Gain(math.nan, 0.1), 5.0, False), (Gain(0.02, 0.01), 0.0, False)],
)  # fmt: skip
def test_the_gate_wants_a_gain_beyond_doubt(gain, clicks, passes):
    labels = np.zeros(50)
    labels[: int(clicks)] = 1
    metrics = evaluate.measure(labels, np.linspace(0.9, 0.1, 50))
    assert gate.over_base(gain, metrics).passed is passes


@pytest.mark.parametrize(
    ("predicted", "clicks", "passed"),
    # 10,000 clicks: the ratio is known to +-1 %, its 95 % interval is +-.02. 100 clicks: to +-10 %, +-.2.
    [(1.0, 10_000, True), (1.045, 10_000, True), (1.06, 10_000, False), (0.93, 10_000, False), (1.2, 100, True),
     (1.4, 100, False)],
)  # fmt: skip
def test_calibration_is_held_to_its_range_as_far_as_the_clicks_can_tell(predicted, clicks, passed):
    rows = clicks * 100
    labels = np.zeros(rows)
    labels[:clicks] = 1
    check = gate.calibration(labels, np.full(rows, predicted * 0.01), *gate.CALIBRATED, "calibration")
    assert check.passed is passed
    assert check.value.startswith(f"{predicted:.3f}")


def test_campaigns_are_judged_once_they_have_two_hundred_clicks():
    labels = np.zeros(60_000)
    labels[:250], labels[30_000:30_199] = 1, 1
    campaigns = np.repeat(["large", "small"], 30_000)
    p = np.full(60_000, 2 * 250 / 30_000)
    (check,) = gate.by_campaign(labels, p, campaigns)
    assert "large" in check.name
    assert not check.passed


def test_drift_warns_then_blocks_and_the_calendar_only_warns():
    found = gate.stability({"site": 0.3, "os": 0.12, "hour": 9.0, "city": 0.05}, 0.26, blocks=True)
    verdicts = {check.name.rpartition(" ")[2]: (check.passed, check.blocks) for check in found}
    assert verdicts == {
        "site": (False, True), "os": (True, False), "hour": (True, False), "score": (False, True)
    }  # fmt: skip
    short = gate.stability({"site": 0.3}, 0.0, blocks=False)
    assert [check.passed for check in short] == [True]


def test_a_refusal_tells_every_number_that_failed():
    checks = [
        Check("calibration", "1.300", "0.97 to 1.03", passed=False),
        Check("drift of site", "0.3", "at most 0.25", passed=False, blocks=False),
        Check("size", "9", "at most 10", passed=True),
        gate.parity(10_000, 3),
    ]
    assert gate.refusal(checks) == (
        "calibration is 1.300, allowed is 0.97 to 1.03; "
        "logged rows that the trainer computes differently is 3 of 10,000, allowed is 0"
    )
    assert gate.refusal(checks[2:3]) == ""


def a_fight(better: float, n: int = 40_000, seed: int = 0):
    """True probabilities, clicks, and a rival that knows only a part of what moves them."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    truth = 1 / (1 + np.exp(3 - signal))
    clicks = (rng.random(n) < truth).astype(float)
    rival = 1 / (1 + np.exp(3 - (1 - better) * signal))
    return clicks, truth, rival, rng.integers(0, n // 4, n)


def test_a_better_model_replaces_the_live_one_and_a_worse_one_does_not():
    clicks, good, bad, users = a_fight(0.5)
    assert gate.against_live(clicks, good, bad, users, newer=False).passed
    assert not gate.against_live(clicks, bad, good, users, newer=True).passed


def test_an_equal_model_replaces_the_live_one_only_with_newer_data():
    clicks, good, _, users = a_fight(0.5)
    assert gate.against_live(clicks, good, good, users, newer=True).passed
    assert not gate.against_live(clicks, good, good, users, newer=False).passed


def test_rows_of_one_user_do_not_count_as_many():
    """The same gain on every row is certain over a thousand users, and no more than a coin's toss over one."""
    gains = np.full(1_000, 0.1)
    gains[::2] = -0.099
    assert gate.worse_by_chance(gains, np.zeros(1_000, dtype=np.int64)) == pytest.approx(math.exp(-1), abs=0.06)
    one_good_user = np.concatenate((np.full(500, 1.0), np.full(500, -0.5)))
    owners = np.repeat([0, 1], 500)
    assert gate.worse_by_chance(one_good_user, owners) > 0.05
    assert gate.worse_by_chance(one_good_user, np.arange(1_000)) < 0.05


def test_the_stability_index_is_the_sum_over_its_bins():
    # Two values, half and half against 9:1: (.9-.5) ln(.9/.5) + (.1-.5) ln(.1/.5) = .8789.
    expected, actual = np.repeat([1.0, 2.0], 500), np.repeat([1.0, 2.0], [900, 100])
    assert drift.stability(expected, actual, categorical=True) == pytest.approx(0.8789, abs=1e-3)
    assert drift.stability(expected, expected, categorical=True) == pytest.approx(0, abs=1e-9)
    numbers = np.random.default_rng(0).normal(size=20_000)
    assert drift.stability(numbers[:10_000], numbers[10_000:]) < 0.01
    assert drift.stability(numbers[:10_000], numbers[10_000:] + 1) > drift.BLOCK


def test_values_that_went_missing_or_are_new_are_drift():
    known = np.repeat([1.0, 2.0], 500)
    gone = known.copy()
    gone[:400] = np.nan
    assert drift.stability(known, gone, categorical=True) > drift.BLOCK
    assert drift.stability(known, np.full(1_000, 7.0), categorical=True) > drift.BLOCK
    assert drift.stability(np.full(10, np.nan), np.full(10, np.nan)) == pytest.approx(0)


def test_heaps_of_scores_that_move_a_little_are_no_drift_and_a_lot_are():
    heaps = np.repeat([-4.0, -2.0], 5_000)
    assert drift.stability(heaps, heaps + 0.02) > drift.BLOCK
    assert drift.of_scores(heaps, heaps + 0.02) < drift.WARN
    assert drift.of_scores(heaps, heaps + 1.0) > drift.BLOCK


def test_calibration_must_not_depend_on_how_likely_the_bid_was_to_win() -> None:
    rng = np.random.default_rng(3)
    chance = rng.uniform(0.05, 0.95, 40_000)
    p = rng.uniform(0.02, 0.1, 40_000)
    fair = (rng.random(40_000) < p).astype(float)
    (check,) = gate.by_chance(fair, p, chance)
    assert check.passed
    # Bids that rarely win are clicked half as often as said: from twice to once, a slope of -1 and a little less.
    cursed = (rng.random(40_000) < p * (0.5 + 0.5 * (chance - 0.05) / 0.9)).astype(float)
    (check,) = gate.by_chance(cursed, p, chance)
    assert not check.passed
    assert not check.blocks
    assert -1.2 < float(check.value.split()[0]) < -0.5


def test_where_the_chance_to_win_is_not_known_nothing_is_said_of_it() -> None:
    assert gate.by_chance(np.ones(1_000), np.ones(1_000), np.zeros(1_000)) == []
