"""What an ingest folder holds, as an append-only journal: the one truth about which part files count.

    DIR/part-00000012.parquet        events of step 12
    DIR/_ingest/00000012.pq          its quarantined rows (named so that a build over DIR does not read them)
    DIR/_ingest/journal.jsonl        one line per step, in order
    DIR/_ingest/lock                 held by the one writer

A step writes its files under draft names, syncs and renames them, and then adds its line. A process killed in between
leaves files without a line: they hold nothing that was counted, are removed by the next writer, and made again.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.errors import DmpError


class Step(msgspec.Struct, frozen=True):
    """One chunk of one log, done.

    n: number, from 1. file: its path then. fingerprint: what was in it. mapping: see `dmp.mapping.signature`.
    framing: what decided the numbers of rows. start, stop: rows dealt with, stop excluded. last: nothing comes after.
    rows: how many of the log (fewer than stop - start in a replay). events, duplicates: of those rows. bad: {reason:
    rows}. days: {UTC day since 1970: events}.
    replaces: the step whose quarantined rows this one tried again, 0 in the first reading of a log.
    """

    n: int
    file: str
    fingerprint: str
    mapping: str
    framing: str
    start: int
    stop: int
    last: bool
    rows: int
    events: int
    duplicates: int
    bad: dict[str, int]
    days: dict[int, int]
    replaces: int = 0


UNIQUE = ("event_id", "content")  # columns of an event file in which a dictionary saves nothing


class Journal:
    """The journal of a folder, open for writing; made by `opened`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps = read(root)
        path = _state(root) / "journal.jsonl"
        whole = b"".join(map(_line, self.steps))
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(len(whole))  # a torn last line
        self._file.seek(len(whole))
        self._clear()

    def _clear(self) -> None:
        """Remove drafts, files of steps that were never told, and quarantines that were replayed."""
        told = {step.n for step in self.steps}
        live = {step.n for step in quarantined(self.steps)}
        for path in (*self.root.glob("part-*"), *_state(self.root).glob("*.pq*")):
            n = int(path.name.removeprefix("part-").partition(".")[0])
            draft = path.suffix == ".draft"
            if draft or n not in (live if path.suffix == ".pq" else told):
                path.unlink()

    def add(self, step: Step, events: pa.Table, bad: pa.Table) -> None:
        """Keep a step's events and bad rows; after this returns, they are safe from any death."""
        try:
            self._keep(step, events, bad)
        except OSError as error:
            raise DmpError(
                f"{self.root}: cannot be written ({error.strerror or error}); mend it and run again"
            ) from None
        self.steps.append(step)
        if step.replaces:
            quarantine(self.root, step.replaces).unlink(missing_ok=True)

    def _keep(self, step: Step, events: pa.Table, bad: pa.Table) -> None:
        if len(events):
            _write(part(self.root, step.n), events, [name for name in events.column_names if name not in UNIQUE])
        if len(bad):
            _write(quarantine(self.root, step.n), bad, ["reason", "file", "fingerprint"])
        self._file.write(_line(step))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@contextmanager
def opened(root: Path) -> Iterator[Journal]:
    """The folder's journal, for one writer at a time; raises DmpError when another has it, or it is broken."""
    _state(root).mkdir(parents=True, exist_ok=True, mode=0o700)
    with (_state(root) / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DmpError(f"another ingest writes to {root}; wait for it") from None
        journal = Journal(root)
        try:
            yield journal
        finally:
            journal.close()


def read(root: Path) -> list[Step]:
    """The steps told so far. A torn last line, left by a writer that was killed, tells nothing.

    Raises DmpError for a journal that is broken elsewhere.
    """
    try:
        lines = (_state(root) / "journal.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    try:
        return [msgspec.json.decode(line, type=Step) for line in lines[:-1]]
    except msgspec.DecodeError as error:
        raise DmpError(f"{_state(root) / 'journal.jsonl'} is broken ({error}); restore it from a backup") from None


def quarantined(steps: list[Step]) -> list[Step]:
    """Steps whose bad rows wait: there are some, and no later step tried them again."""
    replaced = {step.replaces for step in steps}
    return [step for step in steps if step.bad and step.n not in replaced]


def part(root: Path, n: int) -> Path:
    """The event file of a step."""
    return root / f"part-{n:08}.parquet"


def quarantine(root: Path, n: int) -> Path:
    """The file of a step's bad rows."""
    return _state(root) / f"{n:08}.pq"


def _state(root: Path) -> Path:
    return root / "_ingest"


def _line(step: Step) -> bytes:
    return msgspec.json.encode(step) + b"\n"


def _write(path: Path, rows: pa.Table, dictionaries: list[str]) -> None:
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        pq.write_table(rows, file, compression="zstd", use_dictionary=dictionaries)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
