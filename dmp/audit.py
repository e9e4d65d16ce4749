"""The audit log: who did what to whose data, each line chained to the one before (S-28).

`data_dir/audit.jsonl`; a line holds the SHA-256 of the line before it and of itself, so that a line changed, taken out
or put in between breaks every hash after it. What is cut off at the end is told by `head`, which says where the log
ended last; keep it elsewhere too (`tagbid dmp audit verify` prints it).
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dmp.errors import DmpError

START = "0" * 64


class Entry(msgspec.Struct, frozen=True):
    """One act.

    who: the operator's login or an advertiser. what: "forget", "export", "opt-out" ...
    about: what it was done to; of a user `dmp.forgotten.digest`, since an erasure must not change this log.
    before, after: SHA-256 of the state, "" for none. chain: see above.
    """

    at_us: int
    who: str
    what: str
    about: str
    before: str = ""
    after: str = ""
    previous: str = START
    chain: str = ""


class AuditBroken(DmpError):
    """A line of the audit log is not the one that was written."""


def record(data_dir: Path | str, entry: Entry) -> Entry:
    """Append an act; safe on disk when this returns. Raises AuditBroken when the log's end is not whole."""
    path = _path(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        *lines, torn = file.read().split(b"\n")
        previous = _read(lines[-1], len(lines)).chain if lines else START
        done = _chained(msgspec.structs.replace(entry, previous=previous))
        file.seek(-len(torn), os.SEEK_END)
        file.truncate()
        file.write(msgspec.json.encode(done) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _whole(path.with_name("audit.head"), done.chain.encode())
    return done


def entries(data_dir: Path | str) -> Iterator[Entry]:
    """Every act in order, verified; raises AuditBroken naming the first line that is wrong."""
    path = _path(data_dir)
    previous, number = START, 0
    ends = [START]
    *lines, _torn = path.read_bytes().split(b"\n") if path.exists() else [b""]  # a torn line was never acknowledged
    for number, line in enumerate(lines, 1):
        entry = _read(line, number)
        if entry.previous != previous or _chained(entry).chain != entry.chain:
            raise AuditBroken(f"{path}, line {number}: was changed, or lines before it were; compare with a backup")
        previous = entry.chain
        ends.append(previous)
        yield entry
    head = path.with_name("audit.head")
    if (head.read_text() if head.exists() else START) not in ends[-2:]:  # a death may leave it one line behind
        raise AuditBroken(f"{path}: lines after number {number} are missing; compare with a backup")


def _read(line: bytes, number: int) -> Entry:
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError:
        raise AuditBroken(f"audit log, line {number}: is no entry; compare with a backup") from None


def _chained(entry: Entry) -> Entry:
    bare = msgspec.structs.replace(entry, chain="")
    return msgspec.structs.replace(entry, chain=hashlib.sha256(msgspec.json.encode(bare)).hexdigest())


def _path(data_dir: Path | str) -> Path:
    return Path(data_dir) / "audit.jsonl"


def _whole(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(data)
    draft.rename(path)
