import json
import math
import shutil
from pathlib import Path

import lightgbm as lgb
import msgspec
import numpy as np
import pytest

from models import artefacts, features, registry
from models.features import Rates, Vocabulary
from models.forest import sigmoid
from models.registry import Artefact, BadArtefact, Manifest

DAY_US = 86_400_000_000
BORN_US = 20_000 * DAY_US  # 2024-10-04

RATES = Rates(places={(): (0.01, 5.0), ("x",): (0.02, 4.0)}, ads={(): (0.01, 5.0)})


def an_artefact(seed: int = 0, created_us: int = BORN_US, **changes: object) -> Artefact:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, len(features.FEATURES)))
    X[:, list(features.CATEGORICAL)] = rng.integers(0, 9, size=(400, len(features.CATEGORICAL)))
    X[rng.random(X.shape) < 0.1] = np.nan
    y = np.nan_to_num(X[:, 15]) + rng.normal(size=400) > 0
    data = lgb.Dataset(X, y, categorical_feature=list(features.CATEGORICAL))
    booster = lgb.train({"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1}, data, 4)
    artefact = Artefact(
        text=booster.model_to_string(), vocabulary=Vocabulary({"site": ["a.example"], "device_type": [2, 4]}, RATES),
        knots_x=[0.0, 0.5, 1.0], knots_y=[0.0, 0.1, 0.4], golden_rows=X[:50],
        golden_scores=booster.predict(X[:50], raw_score=True), created_us=created_us, from_us=1, to_us=2, rows=400,
        positives=int(y.sum()), metrics={"auc": 0.7}, card={"title": "a model"},
    )  # fmt: skip
    return msgspec.structs.replace(artefact, **changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_a_published_model_scores_as_it_was_trained(root):
    artefact = an_artefact()
    version = registry.publish(root, "response", artefact)
    model = registry.load(root, "response")
    assert model.version == version == registry.current(root, "response")
    assert version.startswith("20241004T000000000000-")
    assert np.abs(model.forest.predict(artefact.golden_rows) - artefact.golden_scores).max() <= 1e-12
    assert model.vocabulary.values["site"] == ("a.example",)
    assert model.vocabulary.values["device_type"] == (2, 4)
    assert model.vocabulary.rates == RATES
    assert json.loads((root / "response" / version / "card.json").read_text()) == {"title": "a model"}


def test_calibration_is_linear_between_knots_and_constant_outside(root):
    registry.publish(root, "response", an_artefact(knots_x=[0.2, 0.6], knots_y=[0.1, 0.2]))
    model = registry.load(root, "response")
    assert model.calibrate(np.array([0.0, 0.2, 0.4, 0.6, 1.0])).tolist() == pytest.approx([0.1, 0.1, 0.15, 0.2, 0.2])


def test_without_knots_the_probability_is_the_models_own(root):
    registry.publish(root, "response", an_artefact(knots_x=[], knots_y=[]))
    p = sigmoid(np.array([0.3, -2.0]))
    assert registry.load(root, "response").calibrate(p).tolist() == p.tolist()


def test_nothing_published_is_told_apart_from_something_broken(root):
    assert registry.current(root, "response") is None
    assert registry.versions(root, "response") == []
    with pytest.raises(BadArtefact, match=r"nothing is published.*tagbid models train"):
        registry.load(root, "response")


def test_publishing_moves_the_pointer_and_rollback_moves_it_back(root):
    first = registry.publish(root, "response", an_artefact(0))
    second = registry.publish(root, "response", an_artefact(1, BORN_US + DAY_US))
    assert registry.current(root, "response") == second
    assert registry.load(root, "response").manifest.parent == first
    assert registry.rollback(root, "response") == first == registry.current(root, "response")
    assert registry.load(root, "response", second).version == second
    with pytest.raises(BadArtefact, match="no parent"):
        registry.rollback(root, "response")
    assert registry.versions(root, "response") == [first, second]


def test_publishing_the_same_again_is_harmless(root):
    version = registry.publish(root, "response", an_artefact())
    other = root.parent / "elsewhere"
    assert registry.publish(other, "response", an_artefact()) == version


def test_old_versions_go_but_the_live_one_and_its_parent_stay(root):
    first = registry.publish(root, "response", an_artefact())
    later = [registry.publish(root, "response", an_artefact(0, BORN_US + day * DAY_US)) for day in range(1, 7)]
    assert first not in registry.versions(root, "response")
    assert registry.versions(root, "response") == later[-registry.KEEP :]


def test_a_crash_before_the_pointer_moves_changes_nothing(root, monkeypatch):
    first = registry.publish(root, "response", an_artefact())

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artefacts, "point", crash)
    with pytest.raises(KeyboardInterrupt):
        registry.publish(root, "response", an_artefact(1))
    monkeypatch.undo()
    assert registry.load(root, "response").version == first
    assert registry.publish(root, "response", an_artefact(1)) != first


def break_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BREAKS = {
    "a file gone": (lambda folder: (folder / "model.txt").unlink(), "model.txt cannot be read"),
    "model changed": (lambda folder: (folder / "model.txt").write_text("tree"), "model.txt was changed"),
    "golden cut": (lambda folder: (folder / "golden.bin").write_bytes(b"1234"), "golden.bin was changed"),
    "no json": (lambda folder: (folder / "manifest.json").write_text("{"), "not a manifest"),
    "knots changed": (lambda folder: break_json(folder / "manifest.json", knots_y=[0, 0, 1]), "manifest.json was"),
    "other kind": (lambda folder: break_json(folder / "manifest.json", kind="x"), "calls itself x/"),
    "later format": (lambda folder: break_json(folder / "manifest.json", format=2), "format 2"),
}  # fmt: skip


@pytest.mark.parametrize("how", BREAKS)
def test_a_changed_artefact_is_refused_with_what_is_wrong_and_what_to_do(root, how):
    version = registry.publish(root, "response", an_artefact())
    damage, why = BREAKS[how]
    damage(root / "response" / version)
    with pytest.raises(BadArtefact, match=why) as error:
        registry.load(root, "response")
    assert "tagbid models rollback" in str(error.value)


def test_a_pointer_cannot_name_a_path(root):
    registry.publish(root, "response", an_artefact())
    (root / "response" / "current").write_text("../../etc")
    with pytest.raises(BadArtefact, match="no version name"):
        registry.load(root, "response")


def test_a_model_of_another_feature_definition_is_refused(root, monkeypatch):
    registry.publish(root, "response", an_artefact())
    monkeypatch.setattr(features, "SIGNATURE", "another")
    with pytest.raises(BadArtefact, match="feature signature"):
        registry.load(root, "response")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"golden_scores": np.zeros(50)}, "golden rows score differently"),
        ({"golden_scores": np.full(50, math.nan)}, "50 of 50 golden rows"),
        ({"golden_rows": np.empty((0, 40)), "golden_scores": np.empty(0)}, "no whole rows"),
        ({"knots_x": [0.5, 0.1, 1.0]}, "calibration knots"),
        ({"knots_y": [0.5, 0.1, 1.0]}, "calibration knots"),
        ({"knots_y": [0.0, 0.1, 1.2]}, "calibration knots"),
        ({"knots_y": [0.0, 0.1, math.nan]}, "calibration knots|not a manifest"),
        ({"text": "tree\n"}, "cut off"),
    ],
)
def test_what_would_not_load_is_never_published(root, changes, why):
    first = registry.publish(root, "response", an_artefact(1))
    with pytest.raises(BadArtefact, match=why):
        registry.publish(root, "response", an_artefact(0, **changes))
    assert registry.current(root, "response") == first
    assert registry.versions(root, "response") == [first]


def test_a_manifest_of_format_one_still_reads():
    written = b"""{"format": 1, "kind": "response", "version": "20241004T000000000000-0123456789ab", "signature": "s",
      "created_us": 1, "from_us": 2, "to_us": 3, "rows": 4, "positives": 1, "metrics": {"auc": 0.5}, "knots_x": [0.0],
      "knots_y": [0.1], "vocabulary": {"site": ["a", 1]}, "parent": "", "sha256": {"model.txt": "00"}}"""
    manifest = msgspec.json.decode(written, type=Manifest)
    assert (manifest.to_us, manifest.vocabulary, manifest.forced) == (3, {"site": ["a", 1]}, False)


def test_a_pointer_to_a_lost_folder_is_told(root):
    version = registry.publish(root, "response", an_artefact())
    shutil.rmtree(root / "response" / version)
    with pytest.raises(BadArtefact, match="cannot be read"):
        registry.load(root, "response")
