import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import calibration, evaluate, logistic


def test_auc_is_the_share_of_ordered_pairs_and_ties_count_half():
    clicks = np.array([1.0, 0, 1, 0, 0])
    p = np.array([0.9, 0.5, 0.5, 0.1, 0.95])
    # Pairs (click, no click): (.9,.5) 1, (.9,.1) 1, (.9,.95) 0, (.5,.5) 1/2, (.5,.1) 1, (.5,.95) 0 -> 3.5 of 6.
    area, _ = evaluate.auc(clicks, p)
    assert area == pytest.approx(3.5 / 6)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40))
def test_auc_equals_counting_all_pairs(rows):
    clicks = np.array([float(click) for click, _ in rows])
    p = np.array([score / 10 for _, score in rows])
    up, down = p[clicks > 0], p[clicks == 0]
    if not len(up) or not len(down):
        assert evaluate.auc(clicks, p) is None
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in up for b in down]
    assert evaluate.auc(clicks, p)[0] == pytest.approx(np.mean(pairs))


def test_the_standard_error_of_auc_is_its_spread_over_repeated_samples():
    rng = np.random.default_rng(1)
    areas, errors = [], []
    for _ in range(400):
        clicks = (rng.random(300) < 0.3).astype(float)
        area, se = evaluate.auc(clicks, clicks + rng.normal(size=300))
        areas.append(area)
        errors.append(se)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def test_metrics_of_a_constant_at_the_click_rate():
    clicks = np.array([1.0, 0, 0, 0] * 25)
    metrics = evaluate.measure(clicks, np.full(100, 0.25))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert metrics.log_loss == pytest.approx(entropy)
    assert (metrics.ne, metrics.rig, metrics.auc) == (pytest.approx(1), pytest.approx(0), 0.5)
    assert metrics.calibration == pytest.approx(1)


def test_metrics_without_clicks_say_nothing():
    metrics = evaluate.measure(np.zeros(10), np.full(10, 0.1))
    assert (metrics.auc, metrics.ne, metrics.rig, metrics.calibration, metrics.ece) == (None,) * 5
    assert metrics.log_loss == pytest.approx(-math.log(0.9))


def test_calibration_error_is_the_gap_per_bin():
    clicks = np.array([1.0, 0] * 50)
    assert evaluate.measure(clicks, np.full(100, 0.6)).calibration == pytest.approx(1.2)
    perfect = evaluate.measure(np.repeat([0.0, 1.0], 50), np.repeat([0.0, 1.0], 50))
    assert perfect.ece == pytest.approx(0)


def test_the_gain_is_relative_and_paired():
    clicks = np.array([1.0, 0.0])
    better = evaluate.gain(clicks, np.array([0.8, 0.2]), np.array([0.5, 0.5]))
    assert better.value == pytest.approx((math.log(2) + math.log(0.8)) / math.log(2))
    assert better.se == pytest.approx(0)
    assert evaluate.gain(clicks, np.array([0.5, 0.5]), np.array([0.5, 0.5])).value == 0


def overconfident(n: int, rate: float, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True probabilities, clicks, and a model whose logits are twice too far apart and half too high."""
    rng = np.random.default_rng(seed)
    logits = math.log(rate / (1 - rate)) + rng.normal(size=n)
    truth = 1 / (1 + np.exp(-logits))
    wrong = 1 / (1 + np.exp(-(2 * (logits - logits.mean()) + logits.mean() + 0.5)))
    return truth, (rng.random(n) < truth).astype(float), wrong


@pytest.mark.parametrize(("n", "tolerance"), [(5_000, 0.25), (40_000, 0.1), (300_000, 0.05)])
def test_calibration_finds_the_true_probability_again(n, tolerance):
    truth, clicks, wrong = overconfident(n, 0.03 if n < 10_000 else 0.02)
    x, y, used = calibration.fit(wrong, clicks)
    assert used in ("platt", "beta")  # logits that are off by a factor and a constant are Platt's case, which beta has
    assert len(x) == len(y) <= 200
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) >= 0).all()
    p = np.interp(wrong, x, y)
    assert p.sum() == pytest.approx(clicks.sum(), rel=0.02)
    common = (truth > np.quantile(truth, 0.05)) & (truth < np.quantile(truth, 0.95))
    assert np.abs(np.log(p[common] / truth[common])).mean() < tolerance
    assert np.mean(evaluate.losses(clicks, p)) < np.mean(evaluate.losses(clicks, wrong))


def scored(n: int, told: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True probabilities about .05, clicks, and what a model tells instead of the truth."""
    rng = np.random.default_rng(5)
    truth = 1 / (1 + np.exp(3 - rng.normal(size=n)))
    return truth, (rng.random(n) < truth).astype(float), told(truth)


def test_a_calibrated_model_is_bent_by_no_calibrator():
    """Some 4,500 clicks, as in a day of a small advertiser: steps fitted to them would follow their noise."""
    truth, clicks, raw = scored(60_000, lambda p: p)
    assert 4_000 < clicks.sum() < 6_000
    x, y, used = calibration.fit(raw, clicks)
    assert used != "isotonic"
    assert np.abs(np.interp(raw, x, y) / truth - 1).mean() < 0.05


def test_a_step_no_curve_follows_is_taken_by_isotonic_regression_when_clicks_show_it():
    """All above .06 are told .3: neither a factor nor a constant of the logits mends that."""
    truth, clicks, raw = scored(60_000, lambda p: np.where(p > 0.06, 0.3 + p / 10, p))
    x, y, used = calibration.fit(raw, clicks)
    assert used == "isotonic"
    p = np.interp(raw, x, y)
    assert p[truth > 0.06].mean() == pytest.approx(truth[truth > 0.06].mean(), rel=0.05)
    assert p[truth < 0.06].mean() == pytest.approx(truth[truth < 0.06].mean(), rel=0.05)


def test_no_score_is_told_to_be_impossible():
    """The lowest thousand scores had no click: that does not make their next one impossible."""
    raw = np.linspace(0.001, 0.4, 40_000)
    clicks = (np.random.default_rng(7).random(40_000) < np.where(raw > 0.1, 0.1, raw)).astype(float)
    clicks[:1_000] = 0
    _, y, used = calibration.fit(raw, clicks)
    assert used == "isotonic"
    assert 0 < y[0] < 0.001


def test_labels_may_be_probabilities():
    """Half of the conversions are not there yet: an open row is one with the probability that it still becomes one."""
    rng = np.random.default_rng(8)
    truth = 1 / (1 + np.exp(2 - rng.normal(size=20_000)))
    seen = rng.random(20_000) < truth / 2
    labels = np.where(seen, 1.0, truth / 2 / (1 - truth / 2))
    assert evaluate.losses(np.array([0.25]), np.array([0.5])).tolist() == pytest.approx([math.log(2)])
    odds = 2 * truth / (1 - truth)  # the model tells twice the odds
    x, y, used = calibration.fit(odds / (1 + odds), labels)
    assert used != "none"
    assert np.interp(odds / (1 + odds), x, y).mean() == pytest.approx(truth.mean(), rel=0.05)


def test_scores_that_many_rows_share_are_told_one_probability():
    """Forests of few leaves tell few scores; means of groups of them differ by rounding, which orders nothing."""
    rng = np.random.default_rng(9)
    scores = np.array([0.011, 0.033, 0.1])
    raw = rng.choice(scores, 250_123)
    clicks = (rng.random(250_123) < np.where(raw > 0.05, 0.5, raw)).astype(float)
    means, found, rows = calibration._grouped(raw, clicks)
    assert means == pytest.approx(scores, rel=1e-12)
    assert (found.sum(), rows.tolist()) == (clicks.sum(), [(raw == score).sum() for score in scores])
    x, y, _ = calibration.fit(raw, clicks)
    assert (np.diff(x) > 1e-9).all()
    assert np.interp(scores[:2], x, y) == pytest.approx([clicks[raw == score].mean() for score in scores[:2]], rel=0.02)


def test_beta_calibration_comes_to_rest_where_its_curve_fits_best():
    """Scores that say too little of what happens; whole Newton steps went to and fro between two curves here."""
    scores = np.array([0.0475, 0.097, 0.1299, 0.156, 0.2849, 0.2854])
    clicks, rows = np.array([2_007.0, 21_018, 20_938, 20_709, 20_753, 20_928]), np.full(6, 41_700.0)
    logits = np.log(scores / (1 - scores))
    for beta in (False, True):
        design = calibration._design(logits, beta=beta)
        weights = calibration._logistic(design, clicks, rows)
        p = 1 / (1 + np.exp(-design @ weights))
        assert design[:, 0] @ (rows * p - clicks) == pytest.approx(0, abs=0.01)  # the intercept is free
        slopes = design[:, 1:].T @ (rows * p - clicks) + calibration._SHRINK * (weights[1:] - 1)
        assert slopes == pytest.approx(0, abs=0.01)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=40),
    st.floats(1e-6, 0.9),
)
def test_isotonic_keeps_knots_apart_that_rounding_would_put_on_each_other(rows, base):
    x = np.array([base + step * np.spacing(base) for step, _, _ in rows])
    n = np.array([1.0 + rows_of for _, rows_of, _ in rows])
    centres, levels = calibration.isotonic(x, n * np.array([share for _, _, share in rows]), n)
    assert (np.diff(centres) > 0).all()
    assert (np.diff(levels) >= 0).all()


def test_a_handful_of_clicks_is_not_asked_which_calibrator_it_likes():
    _, clicks, raw = scored(2_000, lambda p: np.where(p > 0.06, 0.3, p))
    assert clicks.sum() < calibration.CHOICE_CLICKS
    assert calibration.fit(raw, clicks)[2] == "platt"


def test_no_click_or_only_clicks_still_calibrate_to_ascending_probabilities():
    raw = np.linspace(0.01, 0.2, 50)
    for clicks in (np.zeros(50), np.ones(50)):
        x, y, _ = calibration.fit(raw, clicks)
        assert all(0 <= value <= 1 for value in y)
        assert (np.diff(x) > 0).all()
        assert (np.diff(y) >= 0).all()


def test_a_model_that_ranks_backwards_is_flattened_not_reversed():
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.1, 0.9, 3000)
    clicks = (rng.random(3000) < 0.1 * (1 - raw)).astype(float)
    _, y, _ = calibration.fit(raw, clicks)
    assert y[0] == pytest.approx(y[-1])


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60))
def test_isotonic_pools_violators_and_keeps_the_mean(rows):
    x = np.array([score / 10 for score, _ in rows])
    y = np.array([float(click) for _, click in rows])
    centres, levels = calibration.isotonic(x, y)
    assert (np.diff(centres) > 0).all()
    assert (np.diff(levels) > 0).all()
    assert 0 <= levels.min() <= y.mean() + 1e-12
    assert y.mean() - 1e-12 <= levels.max() <= 1


def test_the_logistic_baseline_learns_what_a_token_tells():
    rng = np.random.default_rng(2)
    X = np.column_stack((rng.integers(0, 50, 20_000), rng.normal(size=20_000), np.full(20_000, np.nan)))
    truth = np.where(X[:, 0] < 10, 0.3, 0.05) + 0.1 * (X[:, 1] > 0)
    clicks = (rng.random(20_000) < truth).astype(float)
    cuts = logistic.buckets(X[:10_000])
    slots = logistic.tokens(X, (0,), cuts)
    weights = logistic.fit(slots[:10_000], clicks[:10_000], slots[10_000:15_000], clicks[10_000:15_000])
    p = logistic.predict(weights, slots[15_000:])
    best = evaluate.losses(clicks[15_000:], truth[15_000:]).mean()
    base = evaluate.losses(clicks[15_000:], np.full(5_000, clicks.mean())).mean()
    assert evaluate.losses(clicks[15_000:], p).mean() < best + 0.15 * (base - best)
