import numpy as np

from models import delay_bench
from models.delay_bench import BASELINES, planted, predictions
from models.evaluate import losses
from models.figures import Options


def test_soft_labels_beat_every_baseline_on_matured_truth() -> None:
    test = planted(20_000, seed=1, fresh=True)
    truth = np.isfinite(test.delay_s).astype(float)
    found = {name: losses(truth, q).mean() for name, q in predictions(planted(20_000, seed=1), test).items()}
    assert set(found) == {"soft labels", *BASELINES}
    for name in BASELINES:
        assert found["soft labels"] < found[name], name


def test_the_part_reports_every_method_and_the_true_probabilities(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(delay_bench, "SEEDS", 2)
    figures = list(delay_bench.figures(Options(tmp_path, rows=6_000)))
    assert len(figures) == 2 + len(BASELINES) + len(BASELINES)
    truth = next(figure for figure in figures if "true probabilities" in figure.metric)
    assert all(
        truth.value < figure.value for figure in figures if "matured truth, " in figure.metric and figure != truth
    )
    assert all(figure.se > 0 for figure in figures)
