import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import delay
from models.delay import Curve

DAY_S = 86_400.0


def clicks(n: int, q: float, mean_s: float, seed: int = 1, oldest_s: float = delay.WINDOW_S):
    """(delay or NaN as known now, age, delay in truth): exponential delays, ages uniform."""
    rng = np.random.default_rng(seed)
    age = rng.random(n) * oldest_s
    truth = np.where(rng.random(n) < q, rng.exponential(mean_s, n), np.inf)
    return np.where(truth <= age, truth, np.nan), age, truth


def test_kaplan_meier_by_hand() -> None:
    # four clicks: conversions after 10 and 40 s, none at ages 20 and 100. S: 3/4 after 10, then 2 at risk at 40: 3/8.
    found = delay.kaplan_meier(np.array([10.0, np.nan, 40.0, np.nan]), np.array([200.0, 20.0, 200.0, 100.0]), 100.0)
    assert found.at(np.array([5.0, 15.0, 50.0])) == pytest.approx([0.0, (1 / 4) / (5 / 8), 1.0], abs=1e-9)
    assert found.conversions == 2


def test_the_curve_of_young_clicks_is_not_too_short() -> None:
    known, age, _ = clicks(40_000, 0.2, 4 * DAY_S)
    found = delay.kaplan_meier(known, age)
    ages = np.array([1.0, 4.0, 10.0]) * DAY_S
    law = (1 - np.exp(-ages / (4 * DAY_S))) / (1 - np.exp(-30 / 4))
    assert found.at(ages) == pytest.approx(law, abs=0.03)
    naive = np.mean(known[~np.isnan(known)][:, None] <= ages, axis=0)  # of conversions that were seen
    assert naive[0] > law[0] + 0.02


def test_a_campaign_without_history_has_its_verticals_curve_and_that_everybodys() -> None:
    slow, fast = clicks(4_000, 0.2, 6 * DAY_S, 1), clicks(4_000, 0.2, DAY_S / 4, 2)
    known, age = (np.concatenate((slow[i], fast[i])) for i in (0, 1))
    names = ["slow"] * 3_990 + ["new"] * 10 + ["fast"] * 4_000
    verticals = ["loans"] * 4_000 + ["shops"] * 4_000
    found = delay.fit(known, age, names, verticals)
    day = np.array([DAY_S])
    assert found.of("slow", "loans").at(day)[0] < 0.25
    assert found.of("fast", "shops").at(day)[0] > 0.9
    assert found.of("new", "loans").at(day)[0] == pytest.approx(found.of("?", "loans").at(day)[0], abs=0.1)
    assert found.of("?", "?") is found.overall


def test_shrinking_weighs_by_conversions() -> None:
    own, parent = (Curve(10.0, np.full(delay.POINTS, level), 50.0) for level in (0.0, 1.0))
    assert delay.shrunk(own, parent).cdf[0] == pytest.approx(0.5)


@given(st.floats(0, 1), st.floats(0, 1))
def test_what_is_still_to_come_is_a_probability_not_above_q(q: float, g: float) -> None:
    s = float(delay.still_to_come(np.array([q]), np.array([g]))[0])
    assert -1e-12 <= s <= q + 1e-9


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_every_click_weighs_one(rows: list[tuple[bool, float, float]]) -> None:
    converted, q, g = (np.array(column) for column in zip(*rows, strict=True))
    labels = delay.soft_labels(converted, q, g)
    assert np.bincount(labels.rows, labels.weight, minlength=len(rows)) == pytest.approx(np.ones(len(rows)))
    assert set(np.unique(labels.label)) <= {0.0, 1.0}


def test_the_right_q_reproduces_itself() -> None:
    known, age, _ = clicks(200_000, 0.1, 5 * DAY_S)
    converted = ~np.isnan(known)
    g = 1 - np.exp(-age / (5 * DAY_S))
    labels = delay.soft_labels(converted, np.full(len(age), 0.1), g)
    assert labels.weight[labels.label == 1].sum() / len(age) == pytest.approx(0.1, rel=0.02)


def test_em_finds_the_rate_behind_the_delay() -> None:
    known, age, truth = clicks(50_000, 0.15, 5 * DAY_S, oldest_s=6 * DAY_S)
    converted = ~np.isnan(known)
    g = 1 - np.exp(-age / (5 * DAY_S))

    def mean_only(labels: delay.Labels) -> np.ndarray:
        return np.full(len(age), float((labels.label * labels.weight).sum() / labels.weight.sum()))

    q = delay.learn(mean_only, converted, g, passes=20)
    assert converted.mean() < 0.09
    assert q[0] == pytest.approx(0.15, rel=0.04)
    assert delay.learn(mean_only, converted, g)[0] == pytest.approx(q[0], rel=0.05)  # two passes are nearly all of it
    assert delay.projected(converted.sum(), g, q, converted) == pytest.approx(np.isfinite(truth).sum(), rel=0.04)


def test_without_conversions_nothing_is_expected_to_come() -> None:
    found = delay.kaplan_meier(np.full(5, np.nan), np.full(5, 100.0))
    assert found.at(np.array([0.0, 1e9])).tolist() == [1.0, 1.0]
