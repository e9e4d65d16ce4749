"""Versions of anything learned: a folder each, checked before they count, made live by moving one pointer. No pickle.

    <root>/<kind>/current             the live version's name, replaced atomically
    <root>/<kind>/shadow              the challenger's, which is scored beside the live one and decides nothing
    <root>/<kind>/<version>/          its files; what they are is the kind's own matter

A version is named by its time, to the microsecond so that names sort by age, and by a hash of its manifest, so that no
byte can change unnoticed. Each kind brings a check that reads a folder as its users will and raises `BadArtefact`:
nothing that would not load is ever pointed to.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from dmp.errors import TagbidError

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
