"""The benchmark's parts over the world and real logs, at a size that takes seconds."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from loadtest import click_bench, realtime_bench, refit_bench, training_bench, world_bench
from models import response
from models.figures import Options


def by_metric(figures):
    return {figure.metric: figure for figure in figures}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(world_bench, "SEEDS", 2)
    return Options(Path("unused"), rows=40_000)


def test_the_world_is_judged_against_its_own_truth(small):
    found = by_metric(world_bench.figures(small))
    truth = found["normalised entropy of the true probabilities"].value
    ours = found["normalised entropy, ours"].value
    # Nothing that does not know the truth predicts better than the truth; what learnt anything is below 1.
    assert truth < ours < 1
    assert 0 < found["share of the reachable gain, ours"].value < 1
    assert found["normalised-entropy gain over hashed logistic regression"].se > 0
    assert found["global calibration of the true probabilities"].value == pytest.approx(1, abs=0.2)


def test_a_stopped_run_goes_on_with_the_seeds_it_lacks(tmp_path, monkeypatch):
    measured = []

    def measure(seed, rows, *, crossed):
        measured.append((seed, rows, crossed))
        return {"metric": float(seed)}

    monkeypatch.setattr(world_bench, "_one", measure)
    options = Options(Path("unused"), rows=1_000, seeds=2, work=tmp_path / "work")
    list(world_bench.figures(options))
    (figure,) = world_bench.figures(msgspec.structs.replace(options, seeds=4))
    assert measured == [(seed, 1_000, True) for seed in (1, 2, 3, 4)]
    assert figure.value == 2.5
    # Another size or another world is another measurement.
    list(world_bench.figures(msgspec.structs.replace(options, rows=2_000)))
    list(world_bench.additive(options))
    assert measured[4:] == [(1, 2_000, True), (2, 2_000, True), (1, 1_000, False), (2, 1_000, False)]


def test_seeds_measured_by_other_code_are_measured_again(tmp_path, monkeypatch):
    measured = []

    def measure(seed, rows, *, crossed):
        measured.append(seed)
        return {"metric": float(seed)}

    monkeypatch.setattr(world_bench, "_one", measure)
    options = Options(Path("unused"), rows=1_000, seeds=1, work=tmp_path / "work")
    trainer, other = tmp_path / "trainer.py", SimpleNamespace(__file__=str(tmp_path / "trainer.py"))
    for text in ("PATIENCE = 100", "PATIENCE = 100", "PATIENCE = 30"):
        trainer.write_text(text)
        monkeypatch.setattr(world_bench, "MEASURED", (other,))
        world_bench.code.cache_clear()
        list(world_bench.figures(options))
    world_bench.code.cache_clear()
    assert measured == [1, 1]


def test_labels_dealt_out_at_random_teach_nothing(small):
    (figure,) = world_bench.leak(small)
    # 5,000 test rows a seed with about 140 clicks: an AUC of chance has a standard error of .025 a seed.
    assert figure.value == pytest.approx(0.5, abs=4 * 0.025 / 3**0.5)


def test_what_people_did_minutes_ago_is_worth_something(monkeypatch):
    monkeypatch.setattr(realtime_bench, "WISHERS", 0.8)
    monkeypatch.setattr(response, "FEW_CLICKS", 0)  # a forest alone: a regression first takes three times as long
    gain, share = realtime_bench.figures(Options(Path("unused"), rows=40_000, seeds=1))
    assert gain.value > 2 * gain.about["se_by_rows"][0]
    # Four in five want something and so have a record; of the others a quarter did this or that. 95 % bring an id.
    assert share.value == pytest.approx(0.95 * (0.8 + 0.2 * 0.26), abs=0.03)


def test_refits_every_hour_neither_wear_the_model_out_nor_miss_a_change(monkeypatch):
    monkeypatch.setattr(refit_bench, "EVERY_H", 9)  # eight of them; the bench does seventy-two
    found = {(f.data.split(",")[0], f.metric.split(" ")[0]): f for f in refit_bench.figures(Options(Path("-"), 60_000))}
    same, risen = found["the same world", "log-loss"], found["rates risen", "log-loss"]
    assert same.value > -0.01 - 2 * same.se
    assert risen.value > 2 * risen.se
    assert found["rates risen", "calibration"].value > 0.85  # left alone it would say 1 / e^.4 = .67 of the clicks


def test_open_bandit_keeps_its_clicks_and_policies(shared):
    rows = click_bench.open_bandit(shared / "data" / "open_bandit")
    assert (len(rows), int(rows.clicks.sum())) == (29_161, 138)
    assert {context.exchange for context, *_ in rows.items} == {"random", "bts"}


@pytest.mark.long
def test_real_clicks_of_ipinyou_are_predicted_no_worse_than_by_logistic_regression(shared):
    figures = list(click_bench.figures(Options(shared / "data")))
    gains = [figure for figure in figures if figure.goal and figure.data.startswith("ipinyou")]
    assert len(gains) == 3
    assert [figure.data for figure in gains if not figure.met] == []


@pytest.mark.long
def test_training_costs_are_ratios_of_two_processes(monkeypatch):
    monkeypatch.setattr(training_bench, "ROUNDS", 2)
    monkeypatch.setattr(training_bench, "TREES", 3)
    wall, memory = training_bench.figures(Options(Path("unused"), rows=20_000))
    assert memory.value > 0.5  # libraries alone are most of it at this size
    assert wall.value > 0
    assert len(wall.about["ours"]) == 2
