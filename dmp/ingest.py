"""Raw behaviour logs -> typed event files that `tagbid dmp build` reads; bad rows to quarantine, copies left out.

A run goes through its files chunk by chunk; each chunk is one step of the folder's journal (`dmp.journal`), safe on
disk before the next one is told. A run that was killed goes on where it was: no row is lost and none is there twice.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

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
    report = Report()
    names = found(paths)
    with journal.opened(into) as book, _Writer(book) as writer:
        seen = Seen(into, book.steps)
        shaper = Shaper(mapping, ring)
        begun: dict[str, Step] = {step.fingerprint: step for step in book.steps if not step.replaces}
        for path in names:
            mark = logs.fingerprint(path)
            before = begun.get(mark)
            if before is not None and before.last:
                report = msgspec.structs.replace(report, skipped=report.skipped + 1)
                progress(str(path), 1.0, 0)
                continue
            if before is not None and before.mapping != signature(mapping):
                problem = "is half read, with another mapping: go on with that one, then replay the quarantine"
                raise ConfigError(str(path), [problem])
            rows = logs.chunks(path, mapping, before.stop if before else 0, _chunk_rows(mapping))
            for chunk, last in _with_last(rows, before.stop if before else 0):
                start = chunk.stop - len(chunk.numbers) - len(chunk.malformed)
                step = _step(chunk, path, mark, mapping, shaper, seen, now_us, start, last, 0, writer)
                begun[mark] = step
                report = _plus(report, step)
                progress(str(path), chunk.share, step.rows)
            report = msgspec.structs.replace(report, files=report.files + 1)
    return report


def replay(
    into: Path, mapping: Mapping, ring: KeyRing, now_us: int, progress: Progress = lambda file, share, rows: None
) -> Report:
    """Read the quarantined rows again from their logs, under a better mapping; what is still bad stays.

    Raises BadEvents when a log has moved or changed: only the log has the rows with their ids.
    """
    report = Report()
    with journal.opened(into) as book, _Writer(book) as writer:
        seen = Seen(into, book.steps)
        shaper = Shaper(mapping, ring)
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
                step = _step(
                    chunk, path, mark, mapping, shaper, seen, now_us, old.start, old.last, old.n, writer, old.stop
                )
                report = _plus(report, step)
                progress(str(path), chunk.share, step.rows)
            report = msgspec.structs.replace(report, files=report.files + 1)
    return report


class _Writer:
    """Tells the journal steps in order from a thread, one behind the reader: writing and reading share the cores."""

    def __init__(self, book: Journal) -> None:
        self._book = book
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self.next = max((step.n for step in book.steps), default=0) + 1

    def add(self, step: Step, events: pa.Table, bad: pa.Table) -> None:
        self.wait()
        self.next += 1
        self._pending = self._pool.submit(self._book.add, step, events, bad)

    def wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def _step(
    chunk: Chunk,
    path: Path,
    mark: str,
    mapping: Mapping,
    shaper: Shaper,
    seen: Seen,
    now_us: int,
    start: int,
    last: bool,
    replaces: int,
    writer: _Writer,
    stop: int | None = None,
) -> Step:
    """Shape one chunk and have it written."""
    shaped = shaper.shape(chunk, now_us)
    events = shaped.events
    time_us, content = events["time_us"].to_numpy(), events["content"].to_numpy()
    writer.wait()  # `seen` may have to read what the last step wrote
    new = seen.fresh(time_us, content)
    if not new.all():
        events = events.filter(pa.array(new))
    bad = refused.rows_table(chunk.rows, chunk.numbers, shaped.bad, shaped.uids, str(path.resolve()), mark, mapping)
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(bad["reason"]).to_pylist()}
    step = Step(
        n=writer.next,
        file=str(path.resolve()),
        fingerprint=mark,
        mapping=signature(mapping),
        framing=_framing(path, mapping),
        start=start,
        stop=chunk.stop if stop is None else stop,
        last=last,
        rows=len(chunk.numbers) + len(chunk.malformed),
        events=len(events),
        duplicates=len(new) - len(events),
        bad=counts,
        days=by_day(time_us[new]),
        replaces=replaces,
    )
    writer.add(step, events, bad)
    seen.add(step.n, time_us[new], content[new])
    return step


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
