"""Raw behaviour logs -> typed event files that `tagbid dmp build` reads; bad rows to quarantine, copies left out.

A run goes through its files chunk by chunk; each chunk is one step of the folder's journal (`dmp.journal`), safe on
disk before the next one is told. A run that was killed goes on where it was: no row is lost and none is there twice.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dmp import journal, logs
from dmp import quarantine as refused
from dmp.errors import BadEvents, ConfigError
from dmp.journal import Journal, Step
from dmp.logs import Chunk
from dmp.mapping import Mapping, signature
from dmp.pseudonym import KeyRing
from dmp.seen import Seen, by_day
from dmp.shaping import Shaper

CHUNK_ROWS = 131_072
EXPLODED_CHUNK_ROWS = 32_768  # dozens of events a row
Progress = Callable[[str, float, int], None]
"""Told the file, the share of its bytes done (0..1) and the rows of this chunk."""


class Report(msgspec.Struct, frozen=True):
    """What a run did. rows = those read now; events and duplicates are of those; bad: {reason: rows}.

    skipped: files that an earlier run has finished.
    """

    files: int = 0
    skipped: int = 0
    rows: int = 0
    events: int = 0
    duplicates: int = 0
    bad: dict[str, int] = {}


def found(paths: Iterable[Path]) -> list[Path]:
    """The logs that paths name: files, and in folders all that are named as a log; sorted within a folder.

    Raises BadEvents for a path with nothing to read.
    """
    logs_found: list[Path] = []
    for path in paths:
        here = sorted(p for p in path.rglob("*") if p.is_file() and _is_log(p)) if path.is_dir() else [path]
        if not here or not here[0].exists():
            raise BadEvents(f"{path}: no log there (Parquet, CSV or JSON lines, the latter two plain or .gz)")
        logs_found += here
    return logs_found


def _is_log(path: Path) -> bool:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return plain.suffix.lower() in logs.SUFFIXES and "_ingest" not in path.parts


def ingest(
    paths: Iterable[Path],
    into: Path,
    mapping: Mapping,
    ring: KeyRing,
    now_us: int,
    progress: Progress = lambda file, share, rows: None,
) -> Report:
    """Turn logs into event files in the folder `into`; now_us: later events are quarantined as from the future.

    Raises BadEvents for a log that cannot be read, ConfigError when a half-read one was begun with another mapping.
    What was done before stays, and the next run goes on from there.
    """
    names = found(paths)
    done = skipped = 0
    with journal.opened(into) as book, _Line(book, mapping, ring, now_us, progress) as line:
        for path in names:
            mark = logs.fingerprint(path)
            before = max((s for s in book.steps if s.fingerprint == mark and not s.replaces), key=_stop, default=None)
            if before is not None and before.last:
                skipped += 1
                progress(str(path), 1.0, 0)
                continue
            if before is not None and before.mapping != signature(mapping):
                problem = "is half read, with another mapping: go on with that one, then replay the quarantine"
                raise ConfigError(str(path), [problem])
            at = before.stop if before else 0
            for chunk, last in _with_last(logs.chunks(path, mapping, at, _chunk_rows(mapping)), at):
                line.add(chunk, _Task(path, mark, at, chunk.stop, last))
                at = chunk.stop
            line.wait()
            done += 1
    return msgspec.structs.replace(line.report, files=done, skipped=skipped)


def replay(
    into: Path, mapping: Mapping, ring: KeyRing, now_us: int, progress: Progress = lambda file, share, rows: None
) -> Report:
    """Read the quarantined rows again from their logs, under a better mapping; what is still bad stays.

    Raises BadEvents when a log has moved or changed: only the log has the rows with their ids.
    """
    done = 0
    with journal.opened(into) as book, _Line(book, mapping, ring, now_us, progress) as line:
        waiting: dict[str, list[Step]] = {}
        for step in journal.quarantined(book.steps):
            waiting.setdefault(step.fingerprint, []).append(step)
        for mark, steps in waiting.items():
            path = Path(steps[0].file)
            if logs.fingerprint(path) != mark:
                raise BadEvents(f"{path}: changed since it was read; a replay needs it as it was")
            if any(step.framing != _framing(path, mapping) for step in steps):
                problem = "numbers the rows in another way (format, header or quoting); ingest into a new folder"
                raise ConfigError(str(path), [problem])
            steps.sort(key=lambda step: step.start)
            rows = logs.chunks(path, mapping, steps[0].start, _chunk_rows(mapping))
            for chunk, old in _again(rows, steps, into):
                line.add(chunk, _Task(path, mark, old.start, old.stop, old.last, old.n))
            line.wait()
            done += 1
    return msgspec.structs.replace(line.report, files=done)


class _Task(NamedTuple):
    """Which rows of which log a chunk is; fields as in `dmp.journal.Step`."""

    path: Path
    fingerprint: str
    start: int
    stop: int
    last: bool
    replaces: int = 0


class _Line:
    """A line of two places: reading and pseudonyms here, judging and writing of the chunk before in a thread.

    The first half is Python's, the second lets go of its lock, so both cores work. Steps are told in order.
    """

    def __init__(self, book: Journal, mapping: Mapping, ring: KeyRing, now_us: int, progress: Progress) -> None:
        self._book = book
        self._mapping = mapping
        self._shaper = Shaper(mapping, ring)
        self._seen = Seen(book.root, book.steps)
        self._now_us = now_us
        self._progress = progress
        self._pool = ThreadPoolExecutor(1)
        self._pending: tuple[Future[Step], str, float] | None = None
        self.report = Report()

    def add(self, chunk: Chunk, task: _Task) -> None:
        rows = self._shaper.pseudonymous(chunk)
        self.wait()
        self._pending = self._pool.submit(self._step, chunk, rows, task), str(task.path), chunk.share

    def wait(self) -> None:
        """Until all that was added is safe on disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            future, file, share = pending
            step = future.result()
            self.report = _plus(self.report, step)
            self._progress(file, share, step.rows)

    def _step(self, chunk: Chunk, rows: pa.Table, task: _Task) -> Step:
        shaped = self._shaper.judge(chunk, rows, self._now_us)
        events = shaped.events
        time_us, content = events["time_us"].to_numpy(), events["content"].to_numpy()
        new = self._seen.fresh(time_us, content)
        if not new.all():
            events = events.filter(pa.array(new))
        file = str(task.path.resolve())
        bad = refused.rows_table(
            chunk.rows, chunk.numbers, shaped.bad, shaped.uids, file, task.fingerprint, self._mapping
        )
        step = Step(
            n=max((step.n for step in self._book.steps[-1:]), default=0) + 1,
            file=file,
            fingerprint=task.fingerprint,
            mapping=signature(self._mapping),
            framing=_framing(task.path, self._mapping),
            start=task.start,
            stop=task.stop,
            last=task.last,
            rows=len(chunk.numbers) + len(chunk.malformed),
            events=len(events),
            duplicates=len(new) - len(events),
            bad={entry["values"]: entry["counts"] for entry in pc.value_counts(bad["reason"]).to_pylist()},
            days=by_day(time_us[new]),
            replaces=task.replaces,
        )
        self._book.add(step, events, bad)
        self._seen.add(step.n, time_us[new], content[new])
        return step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()  # after the step at work, so that the journal is not closed under it


def _stop(step: Step) -> int:
    return step.stop


def _framing(path: Path, mapping: Mapping) -> str:
    """What decides the number of a row."""
    form = logs.format_of(path, mapping)
    return f"csv, header {bool(mapping.header)}, quoting {mapping.quoting}" if form == "csv" else form


def _chunk_rows(mapping: Mapping) -> int:
    return EXPLODED_CHUNK_ROWS if mapping.explode else CHUNK_ROWS


def _with_last(rows: Iterator[Chunk], at: int) -> Iterator[tuple[Chunk, bool]]:
    """Chunks with whether each is the last; for a log without any (more) rows, one empty chunk."""
    before: Chunk | None = None
    for chunk in rows:
        if before is not None:
            yield before, False
        before = chunk
    nothing = Chunk(pa.table({}), pa.array([], pa.int64()), {}, at, 1.0)
    yield (before, True) if before is not None else (nothing, True)


def _again(rows: Iterator[Chunk], steps: list[Step], into: Path) -> Iterator[tuple[Chunk, Step]]:
    """The quarantined rows of one log, as one chunk per step that holds some; steps in order of `start`."""
    wanted = {step.n: _numbers(into, step) for step in steps}
    queue = list(steps)
    kept: list[Chunk] = []
    for chunk in rows:
        kept.append(chunk)
        while queue and queue[0].stop <= chunk.stop:
            step = queue.pop(0)
            yield _picked(kept, wanted.pop(step.n)), step
        kept = [held for held in kept if queue and held.stop > queue[0].start]
        if not queue:
            return
    for step in queue:  # the log ends before its last step does only when nothing was left there
        yield _picked(kept, wanted[step.n]), step


def _numbers(into: Path, step: Step) -> pa.Array:
    return pa.array([row.row for row in refused.listed([journal.quarantine(into, step.n)])], pa.int64())


def _picked(kept: list[Chunk], numbers: pa.Array) -> Chunk:
    """Rows with these numbers out of chunks in order."""
    picks = [pc.is_in(chunk.numbers, numbers) for chunk in kept]
    wanted = set(numbers.to_pylist())
    return Chunk(
        pa.concat_tables([chunk.rows.filter(pick) for chunk, pick in zip(kept, picks, strict=True)]),
        pa.concat_arrays([chunk.numbers.filter(pick) for chunk, pick in zip(kept, picks, strict=True)]),
        {number: what for chunk in kept for number, what in chunk.malformed.items() if number in wanted},
        kept[-1].stop,
        kept[-1].share,
    )


def _plus(report: Report, step: Step) -> Report:
    bad = dict(report.bad)
    for reason, rows in step.bad.items():
        bad[reason] = bad.get(reason, 0) + rows
    return msgspec.structs.replace(
        report,
        rows=report.rows + step.rows,
        events=report.events + step.events,
        duplicates=report.duplicates + step.duplicates,
        bad=bad,
    )
