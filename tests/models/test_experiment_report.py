import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dmp import events
from dmp.events import Bid, Click, Conversion, Win
from models import experiment_report as er
from models.experiment_report import BUCKETS, NoExperiment, compare, report, sample_ratio_p
from tests.stored import encode_all


def a_table(rng: np.random.Generator, users: int, rate: float = 0.05, taste: np.ndarray | None = None) -> np.ndarray:
    """(BUCKETS, 2): clicks and impressions of users, a tenth of whom see ten times as much; whole users per bucket."""
    impressions = rng.poisson(np.where(rng.random(users) < 0.1, 20, 2))
    chance = rng.beta(2, 2 / rate - 2, users) if taste is None else taste
    clicks = rng.binomial(impressions, chance)
    bucket = rng.integers(0, BUCKETS, users)
    return np.column_stack([np.bincount(bucket, x, BUCKETS) for x in (clicks, impressions)])


def test_equal_arms_are_found_different_as_often_as_the_level_says() -> None:
    """5,000 A/A experiments, users clustered and unequal: 4 to 6 % rejected. At a true 5 % the standard deviation is 15
    rejections, so one seed in a thousand fails a sound report (1,000 experiments would fail one seed in eight).
    """
    rng = np.random.default_rng(20_260_105)
    found = [compare("click rate", "b", a_table(rng, 500), a_table(rng, 500)).p for _ in range(5_000)]
    assert 200 <= sum(p is not None and p < 0.05 for p in found) <= 300


def test_impressions_taken_as_independent_would_reject_far_too_often() -> None:
    rng = np.random.default_rng(7)
    rejected = 0
    for _ in range(300):
        taste = rng.beta(0.3, 0.3 * 19, 4_000)  # users differ a lot
        a, b = a_table(rng, 2_000, taste=taste[:2_000]), a_table(rng, 2_000, taste=taste[2_000:])
        (c0, n0), (c1, n1) = a.sum(axis=0), b.sum(axis=0)
        pooled = (c0 + c1) / (n0 + n1)
        z = (c0 / n0 - c1 / n1) / np.sqrt(pooled * (1 - pooled) * (1 / n0 + 1 / n1))
        rejected += abs(z) > 1.96
    assert rejected > 45  # 15 expected


def test_an_effect_is_found_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(20_260_105)
    held = 0
    for _ in range(100):
        found = compare("click rate", "b", a_table(rng, 6_000, 0.05), a_table(rng, 6_000, 0.06))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.01 <= found.high
        assert found.p is not None
    assert held >= 87  # 95 expected; one seed in two thousand holds fewer


def test_the_difference_by_hand() -> None:
    control = np.zeros((BUCKETS, 2)) + np.array([1.0, 10.0])
    treated = np.zeros((BUCKETS, 2)) + np.array([2.0, 10.0])
    found = compare("click rate", "b", control, treated)
    assert (found.control, found.value) == (0.1, 0.2)
    assert found.difference == pytest.approx(0.1)
    assert (found.se, found.p) == (None, None)  # no bucket differs from another, which says nothing of the error


def test_arms_without_a_click_are_not_known_to_be_alike() -> None:
    nobody = np.zeros((BUCKETS, 2)) + np.array([0.0, 10.0])
    found = compare("click rate", "b", nobody, nobody)
    assert (found.value, found.control, found.difference) == (0, 0, 0)
    assert (found.se, found.low, found.high, found.p) == (None, None, None, None)


def test_nothing_to_divide_by_is_no_number() -> None:
    empty = np.zeros((BUCKETS, 2))
    found = compare("cost per click", "b", empty, empty + 1)
    assert (found.value, found.difference, found.p) == (None, None, None)
    one = empty.copy()
    one[0] = (1, 1)
    assert compare("cost per click", "b", one, empty + 1).se is None


def test_uneven_numbers_of_units_make_a_report_invalid() -> None:
    assert sample_ratio_p([5_000, 5_000], [0.5, 0.5]) == 1
    assert sample_ratio_p([5_000, 5_400], [0.5, 0.5]) < er.SRM_P
    assert sample_ratio_p([5_000, 10_000], [1 / 3, 2 / 3]) == pytest.approx(1)
    even, more = np.zeros((BUCKETS, len(er.COLUMNS))), np.zeros((BUCKETS, len(er.COLUMNS)))
    even[:, 0], more[:, 0] = 50, 54
    assert not report("x", {"a": even, "b": more}).valid
    assert report("x", {"a": even, "b": even}).valid


def test_a_period_before_narrows_the_interval_and_moves_nothing() -> None:
    rng = np.random.default_rng(3)
    narrower, shift = [], []
    for _ in range(60):
        past = [np.column_stack((rng.gamma(2, 50, BUCKETS), np.full(BUCKETS, 100.0))) for _ in range(2)]
        now = [np.column_stack((p[:, 0] * 0.8 + rng.normal(0, 8, BUCKETS), p[:, 1])) for p in past]
        plain, helped = compare("clicks per unit", "b", *now), compare("clicks per unit", "b", *now, past)
        assert helped.cuped
        assert plain.se is not None
        assert helped.se is not None
        assert helped.difference is not None
        narrower.append(helped.se / plain.se)
        shift.append(helped.difference / helped.se)
    assert np.mean(narrower) < 0.3
    assert abs(np.mean(shift)) < 3 / np.sqrt(60) + 0.1
    assert stats.kstest(shift, "norm").pvalue > 0.001


def test_holm_by_hand() -> None:
    rows = [er.Comparison("m", "b", 1.0, 1.0, 0.0, 1.0, -1.0, 1.0, p) for p in (0.01, 0.04, 0.03)]
    assert [c.holm for c in er._holm(rows)] == pytest.approx([0.03, 0.06, 0.06])


# ---- from a log


def a_log(folder: Path, users: int = 600, arms: tuple[str, ...] = ("a", "b")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    records: list[events.Event] = []
    for i in range(users):
        uid, arm = i.to_bytes(16), arms[i % len(arms)]
        for n in range(2):
            name = f"b{i}-{n}"
            records.append(
                Bid(
                    event_id=name, time_us=1_000 + i, exchange="x", auction_id=name, imp_id="1", campaign=arm,
                    creative="k", uid=uid, price_micros=2_000_000, arm=f"shade:{arm}",
                )
            )  # fmt: skip
            common = {"bid_id": name, "imp_id": "1", "time_us": 2_000 + i, "campaign": arm, "creative": "k"}
            if n == 0:
                records.append(Win(event_id=f"{name}:win", price_micros=1_500_000, **common))
            if n == 0 and i % 10 < 2 + (arm == "b"):
                records.append(Click(event_id=f"{name}:click", **common))
            if n == 0 and i % 100 == 0:
                records.append(
                    Conversion(event_id=f"{name}:c", uid=uid, time_us=3_000, bid_id=name, value_micros=5_000_000)
                )
    (folder / "bids-1.mpk").write_bytes(encode_all(records))
    return folder


def test_a_log_is_summed_by_arm(tmp_path: Path) -> None:
    during, _ = er.tables(a_log(tmp_path), "shade")
    found = report("shade", during)
    assert found.valid
    a, b = found.totals["a"], found.totals["b"]
    assert (a["units"], a["bids"], a["wins"], a["spend_micros"]) == (300, 600, 300, 300 * 1_500)
    assert (a["clicks"], b["clicks"]) == (60, 60)  # i even: 0 of 0, 2; i odd: 1 of 1 or 1, 2
    assert a["conversions"] == 6
    assert a["conversion_value_micros"] == 30_000_000
    rates = {line.metric: line for line in found.comparisons}
    assert rates["win rate"].control == 0.5
    assert rates["cost per thousand"].control == pytest.approx(1.5)
    assert rates["return on spend"].control == pytest.approx(30_000_000 / 450_000)


def test_what_came_before_is_counted_to_the_later_arm(tmp_path: Path) -> None:
    during, before = er.tables(a_log(tmp_path), "shade", since_us=1_300)
    bids = er.COLUMNS.index("bids")
    assert before["a"][:, bids].sum() + during["a"][:, bids].sum() == 600
    assert before["a"][:, bids].sum() == 300


def test_one_arm_or_none_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(NoExperiment, match="layer 'other'"):
        er.tables(a_log(tmp_path), "other")
    with pytest.raises(NoExperiment, match="one arm only"):
        report("shade", er.tables(a_log(tmp_path / "one", arms=("a",)), "shade")[0])


def test_the_command_prints_json_and_fails_on_uneven_arms(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from models.__main__ import app

    log = a_log(tmp_path / "log")
    arguments = ["experiment", "report", str(log), "--layer", "shade", "--json"]
    good = CliRunner().invoke(app, arguments)
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["valid"] is True
    shares = tmp_path / "experiments.toml"
    shares.write_text(
        '[[experiment]]\nlayer = "shade"\narms = [{name = "a", share = 0.2}, {name = "b", share = 0.8}]\n'
    )
    bad = CliRunner().invoke(app, [*arguments, "--experiments", str(shares)])
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["valid"] is False
