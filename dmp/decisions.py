"""What people decided on free labels: an append-only log, replayed to one answer a label.

`data_dir/taxonomy/decisions.jsonl` holds one decision a line, numbered from 1 without a gap; the youngest on a
label holds. Lines are never changed: to take a decision back is another decision, and any earlier state is the
replay of fewer lines. Kept for as long as the data directory; labels are words of sources, never ids of users.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from dmp import taxonomy
from dmp.errors import DmpError

MAX_LABEL = 200  # characters; longer texts are no labels
Action = Literal["accept", "reject"]


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line. version: its number. at_us: UTC. who: a name as given. tag: the accepted tag, "" for a rejection."""

    version: int
    at_us: int
    who: str
    action: Action
    label: str
    tag: str


class BadDecisions(DmpError):
    """A decision log that is not as it was written."""


_decoder = msgspec.json.Decoder(Decision)


def decisions_file(data_dir: Path | str) -> Path:
    return Path(data_dir) / "taxonomy" / "decisions.jsonl"


def key(label: str) -> str:
    """Spellings of a label that one decision covers: alike in width, case and punctuation, part by part.

    >>> key("In-market/Home & Garden")
    'in market/home and garden'
    """
    return "/".join(map(taxonomy.normal, label.split("/")))


def read(path: Path, version: int | None = None) -> tuple[Decision, ...]:
    """The decisions in order, up to a version; () without a file. Raises BadDecisions.

    A last line without its end was torn by a crash and was never told as done: it is left out.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return ()
    return _decoded(path, lines)[:version]


def replay(decisions: Iterable[Decision]) -> Mapping[str, Decision]:
    """{key of a label: the youngest decision on it}."""
    return {key(decision.label): decision for decision in decisions}


def record(path: Path, action: Action, label: str, tag: str, who: str, at_us: int, sensitive: bool = False) -> Decision:
    """Append a decision and return it once it is on disk.

    tag: name of the accepted tag; not read for a rejection. sensitive: the caller knows that the tag (or what the
    label means by itself) is sensitive. Raises DmpError for a decision that cannot hold, BadDecisions.
    """
    if len(label) > MAX_LABEL:
        raise DmpError(f"a label longer than {MAX_LABEL} characters is no label")
    if not key(label).strip("/"):
        raise DmpError(f"the label {label!r} has no letter or digit")
    if not who.strip():
        raise DmpError("a decision needs to say who made it")
    if action == "accept":
        _acceptable(label, taxonomy.BY_ID[taxonomy.tag_id(tag)], sensitive)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        *lines, torn = file.read().split(b"\n")
        file.truncate(file.seek(-len(torn), os.SEEK_END))
        version = len(_decoded(path, lines)) + 1
        decision = Decision(version, at_us, who, action, label, tag if action == "accept" else "")
        file.write(msgspec.json.encode(decision) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return decision


def _acceptable(label: str, tag: taxonomy.TagDefinition, sensitive: bool) -> None:
    if tag.kind in ("root", "group"):
        raise DmpError(f"{tag.name} is a {tag.kind}: no user has it; name a tag under it")
    own = taxonomy.find(label)
    for touched in (tag, taxonomy.BY_ID[own] if own is not None else tag):
        if touched.sensitive and not sensitive:
            raise DmpError(f"{label!r} touches the sensitive tag {touched.name}: accept it with --sensitive if meant")


def _decoded(path: Path, lines: Iterable[bytes]) -> tuple[Decision, ...]:
    found = []
    for number, line in enumerate(lines, 1):
        try:
            decision = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadDecisions(f"{path}, line {number}: {error}; restore the file from a copy") from None
        if decision.version != number:
            raise BadDecisions(f"{path}, line {number}: is version {decision.version}; lines are missing or doubled")
        if decision.action == "accept" and decision.tag not in taxonomy.BY_NAME:
            raise BadDecisions(f"{path}, line {number}: no tag {decision.tag!r} in this release's taxonomy")
        found.append(decision)
    return tuple(found)
