"""Versions of anything learned: a folder each, checked before they count, made live by moving one pointer. No pickle.

    <root>/<kind>/current             the live version's name, replaced atomically
    <root>/<kind>/shadow              the challenger's, which is scored beside the live one and decides nothing
    <root>/<kind>/<version>/          its files; what they are is the kind's own matter

A version is named by its time, to the microsecond so that names sort by age, and by a hash of its manifest, which holds
the hashes of its files, so that no byte can change unnoticed. Golden rows were scored by LightGBM itself: a scorer or a
feature table that disagrees is found before it bids. Each kind brings a check that reads a folder as its users will and
raises `BadArtefact`: nothing that would not load is ever pointed to.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError
from models.forest import Forest
from models.model_text import UnsupportedModel

FORMAT = 1
GOLDEN_TOLERANCE = 1e-9
KEEP = 5  # versions kept for rollback
LIVE, SHADOW = "current", "shadow"
_NAME = re.compile(r"[0-9]{8}T[0-9]{12}-[0-9a-f]{12}")

Check = Callable[[Path], object]
"""Reads a version's folder as its users will; raises BadArtefact."""


class BadArtefact(TagbidError):
    """An artefact that must not be used; whoever holds an older one keeps it."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"model {path}: {problem}; {remedy}")


def name(created_us: int, digest: str) -> str:
    """The name of a version. digest: hexadecimal, at least 12 characters, of its manifest.

    >>> name(0, "0123456789abcdef")
    '19700101T000000000000-0123456789ab'
    """
    return f"{datetime.fromtimestamp(created_us / 1e6, UTC):%Y%m%dT%H%M%S%f}-{digest[:12]}"


class Manifest(Protocol):
    """What the manifest of any kind says; they are frozen Structs. sha256: file -> hash."""

    @property
    def format(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def signature(self) -> str: ...
    @property
    def parent(self) -> str: ...
    @property
    def sha256(self) -> Mapping[str, str]: ...


class Loaded(Protocol):
    """Any checked artefact."""

    @property
    def manifest(self) -> Manifest: ...


M = TypeVar("M", bound=Manifest)


def seal(manifest: Manifest, created_us: int) -> tuple[str, bytes]:
    """The name of a version, and its manifest.json."""
    version = name(created_us, _digest(manifest))
    return version, msgspec.json.format(_encoded(manifest, version), indent=2)


def _digest(manifest: Manifest) -> str:
    return sha256(_encoded(manifest, "")).hexdigest()[:12]


def _encoded(manifest: Any, version: str) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(manifest, version=version))


def unseal(
    folder: Path, manifest_type: type[M], kind: str, version: str, signature: str, needed: Iterable[str], remedy: str
) -> tuple[M, dict[str, bytes]]:
    """The manifest of a version and its files, as they were published.

    signature: of the features this release has. needed: files there must be. remedy: what to do about a bad one.
    Raises BadArtefact.
    """

    def bad(problem: str) -> BadArtefact:
        return BadArtefact(folder, problem, remedy)

    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=manifest_type)
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
    for file, expected in manifest.sha256.items():
        if file not in files or sha256(files[file]).hexdigest() != expected:
            raise bad(f"{file} was changed after publication")
    if manifest.signature != signature:
        raise bad(f"trained under feature signature {manifest.signature}, this release has {signature}")
    missing = sorted(set(needed) - files.keys())
    if missing:
        raise bad(f"the manifest does not list {', '.join(missing)}")
    return manifest, files


def golden(rows: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> bytes:
    """The file golden.bin. rows: float64 (n, features); scores: float64 (n,), raw, by LightGBM itself."""
    return np.column_stack((rows, scores)).astype("<f8").tobytes()


def forest_of(files: Mapping[str, bytes], n_request: int, n_campaign: int, n_features: int) -> Forest:
    """The forest of model.txt, which scores golden.bin as LightGBM did. Raises ValueError with what is wrong."""
    try:
        forest = Forest.from_model_text(files["model.txt"].decode(), n_request, n_campaign)
    except (UnsupportedModel, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if forest.n_features != n_features:
        raise ValueError(f"the model has {forest.n_features} features, {n_features} are needed")
    data, width = files["golden.bin"], n_features + 1
    if not data or len(data) % (8 * width):
        raise ValueError("golden.bin holds no whole rows")
    rows = np.frombuffer(data, dtype="<f8").astype(np.float64).reshape(-1, width)
    off = ~(np.abs(forest.predict(rows[:, :-1]) - rows[:, -1]) <= GOLDEN_TOLERANCE)
    if off.any():
        raise ValueError(f"{int(off.sum())} of {len(rows)} golden rows score differently here")
    return forest


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """File name -> SHA-256, for a manifest."""
    return {name: sha256(data).hexdigest() for name, data in files.items()}


def current(root: Path, kind: str, pointer: str = LIVE) -> str | None:
    """Name of the live version (or what another pointer names), None when there is none; cheap enough to poll.

    Raises BadArtefact when the pointer cannot be read.
    """
    try:
        return (root / kind / pointer).read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtefact(
            root / kind / pointer, f"cannot be read ({error})", "remove it, or `tagbid models rollback VERSION`"
        ) from None


def versions(root: Path, kind: str) -> list[str]:
    """All versions on disk, oldest first."""
    home = root / kind
    return sorted(path.name for path in home.iterdir() if _NAME.fullmatch(path.name)) if home.is_dir() else []


def folder(root: Path, kind: str, version: str) -> Path:
    """Where a version lives. Raises BadArtefact on a name no version can have."""
    if not _NAME.fullmatch(version):
        raise BadArtefact(root / kind, f"{version!r} is no version name", "see `tagbid models list`")
    return root / kind / version


def publish(
    root: Path,
    kind: str,
    version: str,
    files: Mapping[str, bytes],
    check: Check,
    keep: Iterable[str],
    pointer: str = LIVE,
) -> None:
    """Write a version, check it as its users will, then point to it.

    keep: versions that are not pruned, such as the parent. A crash leaves at most a folder nobody points to. Raises
    BadArtefact, with the pointer unmoved, when the check does.
    """
    home = root / kind
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{version}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)  # left by a publisher of the same pid that was killed
    draft.mkdir()
    for file, data in files.items():
        _write(draft / file, data)
    try:
        check(draft)
    except BadArtefact:
        shutil.rmtree(draft)
        raise
    if (home / version).exists():  # the very same bytes were published before
        shutil.rmtree(draft)
    else:
        draft.rename(home / version)
    point(root, kind, version, check, pointer)
    kept = {version, *keep, *versions(root, kind)[-KEEP:]}
    for old in versions(root, kind):
        if old not in kept:
            shutil.rmtree(home / old)


def rollback(
    root: Path, kind: str, load: Callable[[str | None], Loaded], listing: str, version: str | None = None
) -> str:
    """Make a version, or the live one's parent, live; returns it.

    load: reads a version, None for the live one. listing: the command that names versions. Raises BadArtefact, and
    changes nothing, where that version would not load or there is no parent.
    """
    chosen = version or load(None).manifest.parent
    if not chosen:
        raise BadArtefact(root / kind, "the live version has no parent", f"name a version: `{listing}`")
    point(root, kind, chosen, lambda _: load(chosen))
    return chosen


def unpoint(root: Path, kind: str, pointer: str) -> None:
    """Let a pointer name nothing."""
    (root / kind / pointer).unlink(missing_ok=True)


def point(root: Path, kind: str, version: str, check: Check, pointer: str = LIVE) -> None:
    """Make a version live. Raises BadArtefact, and changes nothing, when it would not load."""
    check(folder(root, kind, version))
    draft = root / kind / f".{pointer}.{os.getpid()}"
    _write(draft, f"{version}\n".encode())
    draft.replace(root / kind / pointer)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
