"""Model artefacts: a folder per version, checked when loaded, published by moving one pointer. No pickle.

    <root>/<kind>/current             the live version's name, replaced atomically
    <root>/<kind>/<version>/
        manifest.json                 `Manifest`; names and hashes the other files
        model.txt                     LightGBM's text format
        golden.bin                    rows with their scores, float64 little endian: (rows, features + 1)
        card.json                     model card for people: data, metrics, slices, limits

A version is named by its time, to the microsecond so that names sort by age, and by the hash of its manifest, so that
no byte of an artefact can change unnoticed. The golden rows were scored by LightGBM itself: a scorer or a feature
table that disagrees is found before it bids.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError
from models import features
from models.features import Vocabulary
from models.forest import Forest, UnsupportedModel

Floats = npt.NDArray[np.float64]

FORMAT = 1
KEEP = 5  # versions kept for rollback
GOLDEN_TOLERANCE = 1e-9
MAX_KNOTS = 200
_POINTER = "current"
_NAME = re.compile(r"[0-9]{8}T[0-9]{12}-[0-9a-f]{12}")


class BadArtefact(TagbidError):
    """An artefact that must not be used; whoever holds an older model keeps it."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"model {path}: {problem}; {remedy}")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an artefact says about itself; extended only at the end, with defaults.

    signature: `models.features.SIGNATURE` it was trained under. from_us, to_us: time of its first and last training
    row, 0 when the source has no time. positives: clicks among `rows`. knots_x, knots_y: calibration, raw probability
    to probability, both ascending; empty = none. parent: version that was live at publication. sha256: file -> hash.
    forced: published although the gate refused.
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


class Model(msgspec.Struct, frozen=True):
    """A checked model, ready to score. kind: "response", ...; version: as logged with every bid.

    text: LightGBM's own format, for scorers other than ours.
    """

    kind: str
    version: str
    forest: Forest
    vocabulary: Vocabulary
    manifest: Manifest
    knots_x: Floats
    knots_y: Floats
    text: str

    def calibrate(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities of `sigmoid(scores)`; linear between knots, constant outside them."""
        if not len(self.knots_x):
            return probabilities
        return np.interp(probabilities, self.knots_x, self.knots_y)


def publish(root: Path, kind: str, artefact: Artefact) -> str:
    """Write, check as a reader would, then point to it; returns the version.

    A crash leaves at most a folder nobody points to. Raises BadArtefact, with the pointer unmoved, when the artefact
    does not pass its own checks.
    """
    home = root / kind
    home.mkdir(parents=True, exist_ok=True)
    golden = np.column_stack((artefact.golden_rows, artefact.golden_scores)).astype("<f8")
    files = {
        "model.txt": artefact.text.encode(),
        "golden.bin": golden.tobytes(),
        "card.json": json.dumps(artefact.card, indent=2, ensure_ascii=False).encode(),
    }
    manifest = Manifest(
        format=FORMAT,
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
        sha256={name: sha256(data).hexdigest() for name, data in files.items()},
        forced=artefact.forced,
    )
    version = f"{datetime.fromtimestamp(artefact.created_us / 1e6, UTC):%Y%m%dT%H%M%S%f}-{_digest(manifest)}"
    files["manifest.json"] = _pretty(msgspec.structs.replace(manifest, version=version))
    draft = home / f".{version}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)  # left by a publisher of the same pid that was killed
    draft.mkdir()
    for name, data in files.items():
        _write(draft / name, data)
    try:
        _read(draft, kind, version)
    except BadArtefact:
        shutil.rmtree(draft)
        raise
    if (home / version).exists():  # the very same bytes were published before
        shutil.rmtree(draft)
    else:
        draft.rename(home / version)
    point(root, kind, version)
    _prune(root, kind)
    return version


def load(root: Path, kind: str, version: str | None = None) -> Model:
    """The live model of a kind, or a named version, after every check. Raises BadArtefact."""
    if version is None:
        version = current(root, kind)
        if version is None:
            raise BadArtefact(root / kind, "nothing is published", "train one with `tagbid models train`")
    if not _NAME.fullmatch(version):
        raise BadArtefact(root / kind, f"{version!r} is no version name", "see `tagbid models list`")
    return _read(root / kind / version, kind, version)


def current(root: Path, kind: str) -> str | None:
    """Name of the live version, None when nothing is published; cheap enough to poll.

    Raises BadArtefact when the pointer cannot be read.
    """
    try:
        return (root / kind / _POINTER).read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtefact(
            root / kind / _POINTER, f"cannot be read ({error})", "remove it, or `tagbid models rollback VERSION`"
        ) from None


def point(root: Path, kind: str, version: str) -> None:
    """Make a version live. Raises BadArtefact, and changes nothing, when it would not load."""
    load(root, kind, version)
    draft = root / kind / f".{_POINTER}.{os.getpid()}"
    _write(draft, f"{version}\n".encode())
    draft.replace(root / kind / _POINTER)


def versions(root: Path, kind: str) -> list[str]:
    """All versions on disk, oldest first."""
    home = root / kind
    return sorted(path.name for path in home.iterdir() if _NAME.fullmatch(path.name)) if home.is_dir() else []


def rollback(root: Path, kind: str) -> str:
    """Make the live version's parent live again; returns it. Raises BadArtefact when there is none."""
    parent = load(root, kind).manifest.parent
    if not parent:
        raise BadArtefact(root / kind, "the live version has no parent", "name a version: `tagbid models list`")
    point(root, kind, parent)
    return parent


def _read(folder: Path, kind: str, version: str) -> Model:
    def bad(problem: str) -> BadArtefact:
        return BadArtefact(folder, problem, "train again, or `tagbid models rollback`")

    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        files = {name: (folder / name).read_bytes() for name in manifest.sha256 if Path(name).name == name}
    except OSError as error:
        raise bad(f"{error.filename} cannot be read ({error.strerror})") from None
    except msgspec.DecodeError as error:
        raise bad(f"manifest.json is not a manifest: {error}") from None
    if manifest.format != FORMAT:
        raise bad(f"format {manifest.format}, this release reads {FORMAT}")
    if manifest.kind != kind or manifest.version != version:
        raise bad(f"the manifest calls itself {manifest.kind}/{manifest.version}")
    if not version.endswith(_digest(manifest)):
        raise bad("manifest.json was changed after publication")
    for name, expected in manifest.sha256.items():
        if name not in files or sha256(files[name]).hexdigest() != expected:
            raise bad(f"{name} was changed after publication")
    if not {"model.txt", "golden.bin"} <= files.keys():
        raise bad("the manifest does not list model.txt and golden.bin")
    if manifest.signature != features.SIGNATURE:
        raise bad(f"trained under feature signature {manifest.signature}, this release has {features.SIGNATURE}")
    try:
        text = files["model.txt"].decode()
        forest = Forest.from_model_text(text, features.N_REQUEST, features.N_CAMPAIGN)
    except (UnsupportedModel, UnicodeDecodeError) as error:
        raise bad(str(error)) from None
    if forest.n_features != len(features.FEATURES):
        raise bad(f"the model has {forest.n_features} features, {len(features.FEATURES)} are needed")
    golden = files["golden.bin"]
    width = forest.n_features + 1
    if not golden or len(golden) % (8 * width):
        raise bad("golden.bin holds no whole rows")
    rows = np.frombuffer(golden, dtype="<f8").astype(np.float64).reshape(-1, width)
    off = np.abs(forest.predict(rows[:, :-1]) - rows[:, -1])
    if not (off <= GOLDEN_TOLERANCE).all():
        raise bad(f"{int((~(off <= GOLDEN_TOLERANCE)).sum())} of {len(rows)} golden rows score differently here")
    x, y = np.array(manifest.knots_x, dtype=np.float64), np.array(manifest.knots_y, dtype=np.float64)
    if len(x) != len(y) or len(x) > MAX_KNOTS or not _is_calibration(x, y):
        raise bad("the calibration knots are not two ascending lists of probabilities")
    return Model(kind, version, forest, Vocabulary(manifest.vocabulary), manifest, x, y, text)


def _is_calibration(x: Floats, y: Floats) -> bool:
    inside = bool(((x >= 0) & (x <= 1)).all() and ((y >= 0) & (y <= 1)).all())
    return inside and bool((np.diff(x) > 0).all() and (np.diff(y) >= 0).all())


def _digest(manifest: Manifest) -> str:
    return sha256(msgspec.json.encode(msgspec.structs.replace(manifest, version=""))).hexdigest()[:12]


def _pretty(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _prune(root: Path, kind: str) -> None:
    """Keep the last KEEP versions, the live one and its parent."""
    live = load(root, kind)
    kept = {live.version, live.manifest.parent, *versions(root, kind)[-KEEP:]}
    for version in versions(root, kind):
        if version not in kept:
            shutil.rmtree(root / kind / version)
