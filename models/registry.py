"""Models over the features as artefacts (`models.artefacts` says how versions live and are published).

<root>/<kind>/<version>/
    manifest.json                 `Manifest`; names and hashes the other files
    model.txt                     LightGBM's text format
    rates.bin                     click rates of placements and ads, MessagePack of `models.features.Rates`
    golden.bin                    rows with their scores, float64 little endian: (rows, features + 1)
    card.json                     model card for people: data, metrics, slices, limits
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from models import artefacts, features
from models.artefacts import KEEP as KEEP
from models.artefacts import BadArtefact as BadArtefact
from models.artefacts import current as current
from models.artefacts import versions as versions
from models.features import Vocabulary
from models.forest import Forest, kernel, probabilities, sigmoid
from models.knots import interpolations

Floats = npt.NDArray[np.float64]

MAX_KNOTS = 200
MOST_OFF = 1.5  # predicted over observed clicks; the gate allows much less, this is what no chance explains


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an artefact says about itself; extended only at the end, with defaults.

    signature: `models.features.SIGNATURE` it was trained under. from_us, to_us: time of its first and last training
    row, 0 when the source has no time. positives: clicks among `rows`. knots_x, knots_y: calibration, raw probability
    to probability, both ascending; empty = none. parent: version that was live at publication. sha256: file -> hash.
    forced: published although the gate refused. judged_from_us: time of the first test row, 0 without time; later rows
    are news to this model. link: how a score becomes what is predicted, "logit" (a probability) or "log" (an amount).
    """

    format: int
    kind: str
    version: str
    signature: str
    created_us: int
    from_us: int
    to_us: int
    rows: int
    positives: int
    metrics: dict[str, float]
    knots_x: list[float]
    knots_y: list[float]
    vocabulary: dict[str, list[str | int]]
    parent: str
    sha256: dict[str, str]
    forced: bool = False
    judged_from_us: int = 0
    link: Literal["logit", "log"] = "logit"


class Artefact(msgspec.Struct, frozen=True):
    """A trained model on its way to the registry.

    golden_rows: float64 (n, len(FEATURES)); golden_scores: float64 (n,), raw scores by LightGBM. card: JSON-able.
    The other fields are those of `Manifest`.
    """

    text: str
    vocabulary: Vocabulary
    knots_x: list[float]
    knots_y: list[float]
    golden_rows: Floats
    golden_scores: Floats
    created_us: int
    from_us: int
    to_us: int
    rows: int
    positives: int
    metrics: dict[str, float]
    card: Mapping[str, Any]
    forced: bool = False
    judged_from_us: int = 0
    link: Literal["logit", "log"] = "logit"


class Model(msgspec.Struct, frozen=True):
    """A checked model, ready to score. kind: "response", ...; version: as logged with every bid.

    text: LightGBM's own format, for scorers other than ours. compiled: the kernel, None where it is not to be used.
    """

    kind: str
    version: str
    forest: Forest
    vocabulary: Vocabulary
    manifest: Manifest
    knots_x: Floats
    knots_y: Floats
    text: str
    compiled: ModuleType | None = None

    def calibrate(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities of `sigmoid(scores)`; linear between knots, constant outside them."""
        if not len(self.knots_x):
            return probabilities
        return np.interp(probabilities, self.knots_x, self.knots_y)

    def chances(self, scores: list[float]) -> list[float]:
        """Calibrated probabilities of a few raw scores, as `calibrate` has them but for rounding.

        For the ten or so candidates of a bid numbers cost 2 us, arrays 10; the compiled kernel does the same sums.
        """
        if self.compiled is not None:
            made: list[float] = self.compiled.chances(scores, self.knots_x, self.knots_y)
            return made
        xs, ys = self.manifest.knots_x, self.manifest.knots_y
        found = probabilities(scores)
        return interpolations(found, xs, ys) if xs else found

    def predicted(self, scores: Floats) -> Floats:
        """What raw scores mean: calibrated probabilities, or amounts where the link is the logarithm."""
        return np.exp(scores) if self.manifest.link == "log" else self.calibrate(sigmoid(scores))


def publish(root: Path, kind: str, artefact: Artefact, *, shadow: bool = False) -> str:
    """Write, check as a reader would, then point to it; returns the version.

    shadow: make it the challenger, not the live version.

    A crash leaves at most a folder nobody points to. Raises BadArtefact, with the pointer unmoved, when the artefact
    does not pass its own checks.
    """
    files = {
        "model.txt": artefact.text.encode(),
        "golden.bin": artefacts.golden(artefact.golden_rows, artefact.golden_scores),
        "rates.bin": features.encode_rates(artefact.vocabulary.rates),
        "card.json": json.dumps(artefact.card, indent=2, ensure_ascii=False).encode(),
    }
    manifest = Manifest(
        format=artefacts.FORMAT,
        kind=kind,
        version="",
        signature=features.SIGNATURE,
        created_us=artefact.created_us,
        from_us=artefact.from_us,
        to_us=artefact.to_us,
        rows=artefact.rows,
        positives=artefact.positives,
        metrics=artefact.metrics,
        knots_x=artefact.knots_x,
        knots_y=artefact.knots_y,
        vocabulary=artefact.vocabulary.jsonable(),
        parent=current(root, kind) or "",
        sha256=artefacts.hashes(files),
        forced=artefact.forced,
        judged_from_us=artefact.judged_from_us,
        link=artefact.link,
    )
    version, files["manifest.json"] = artefacts.seal(manifest, artefact.created_us)
    artefacts.publish(
        root,
        kind,
        version,
        files,
        lambda folder: _read(folder, kind, version),
        (version, manifest.parent, *(name for name in (current(root, kind), challenger(root, kind)) if name)),
        artefacts.SHADOW if shadow else artefacts.LIVE,
    )
    return version


def challenger(root: Path, kind: str) -> str | None:
    """The version that is scored beside the live one, None without one."""
    return current(root, kind, artefacts.SHADOW)


def load(root: Path, kind: str, version: str | None = None) -> Model:
    """The live model of a kind, or a named version, after every check. Raises BadArtefact."""
    if version is None:
        version = current(root, kind)
        if version is None:
            raise BadArtefact(root / kind, "nothing is published", "train one with `tagbid models train`")
    return _read(artefacts.folder(root, kind, version), kind, version)


def rollback(root: Path, kind: str, version: str | None = None) -> str:
    """Make a version, or the live one's parent, live; returns it. Raises BadArtefact where that cannot be."""
    return artefacts.rollback(root, kind, lambda name: load(root, kind, name), "tagbid models list", version)


def _read(folder: Path, kind: str, version: str) -> Model:
    remedy = "train again, or `tagbid models rollback`"

    def bad(problem: str) -> BadArtefact:
        return BadArtefact(folder, problem, remedy)

    manifest, files = artefacts.unseal(
        folder, Manifest, kind, version, features.SIGNATURE, ("model.txt", "golden.bin", "rates.bin"), remedy
    )
    try:
        rates = features.decode_rates(files["rates.bin"])
    except msgspec.DecodeError as error:
        raise bad(f"rates.bin cannot be read: {error}") from None
    try:
        forest = artefacts.forest_of(files, features.N_REQUEST, features.N_CAMPAIGN, len(features.FEATURES))
    except ValueError as error:
        raise bad(str(error)) from None
    x, y = np.array(manifest.knots_x, dtype=np.float64), np.array(manifest.knots_y, dtype=np.float64)
    if len(x) != len(y) or len(x) > MAX_KNOTS or not _is_calibration(x, y):
        raise bad("the calibration knots are not two ascending lists of probabilities")
    ratio = manifest.metrics.get("calibration")
    if ratio is not None and not manifest.forced and not 1 / MOST_OFF <= ratio <= MOST_OFF:
        raise bad(f"it predicted {ratio:.2f} times the clicks there were in its test")
    return Model(
        kind,
        version,
        forest,
        Vocabulary(manifest.vocabulary, rates),
        manifest,
        x,
        y,
        files["model.txt"].decode(),
        kernel(),
    )


def require_fresh(root: Path, model: Model, now_us: int, most_h: int) -> None:
    """Raises BadArtefact when a model was made more than most_h hours ago."""
    old_h = (now_us - model.manifest.created_us) // 3_600_000_000
    if old_h > most_h:
        raise BadArtefact(
            root / model.kind / model.version,
            f"is {old_h} hours old, {most_h} are allowed",
            "train again, or raise bidder.model_max_age_h",
        )


def _is_calibration(x: Floats, y: Floats) -> bool:
    inside = bool(((x >= 0) & (x <= 1)).all() and ((y >= 0) & (y <= 1)).all())
    return inside and bool((np.diff(x) > 0).all() and (np.diff(y) >= 0).all())
