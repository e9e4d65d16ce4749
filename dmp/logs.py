"""Raw logs as chunks of rows: Parquet, CSV and JSON lines, the latter two plain or gzipped.

Only the columns a mapping names are read. Rows are numbered from 0 as they stand in the file; a record that is no row
of the log keeps its number and is told as malformed. Memory is bounded by `chunk_rows`, not by the file.
"""

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.errors import BadEvents
from dmp.mapping import Mapping, columns

MAX_RECORD_CHARS = 65_536  # S-23
MAX_LINE_CHARS = 1 << 20
SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


class Chunk(NamedTuple):
    """Some consecutive rows.

    rows: the mapped columns that the file has, as text or in the file's types. numbers: int64, the number of each.
    malformed: {number: "malformed" or "too_long"}. stop: number of the first row after the chunk. share: 0..1 of the
    file behind us.
    """

    rows: pa.Table
    numbers: pa.Array
    malformed: dict[int, str]
    stop: int
    share: float


def format_of(path: Path, mapping: Mapping) -> str:
    """One of "parquet", "csv" and "jsonl"; raises BadEvents when neither the mapping nor the name says which."""
    if mapping.format:
        return mapping.format
    name = path.with_suffix("") if path.suffix == ".gz" else path
    try:
        return SUFFIXES[name.suffix.lower()]
    except KeyError:
        raise BadEvents(f"{path}: not named as Parquet, CSV or JSON lines; say `format` in the mapping") from None


def fingerprint(path: Path) -> str:
    """32 hex characters that say what is in a file, whatever its name; about 1 GB/s."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise BadEvents(f"{path}: cannot be read ({error.strerror or error})") from None


def chunks(path: Path, mapping: Mapping, skip: int, chunk_rows: int) -> Iterator[Chunk]:
    """The rows of a file from number `skip` on.

    Raises BadEvents naming the file for one that lacks a column, is damaged, or is of another format.
    """
    read = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[format_of(path, mapping)]
    try:
        yield from read(path, mapping, skip, chunk_rows)
    except (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, UnicodeError) as error:
        raise BadEvents(f"{path}: damaged, or of another format ({error}); what came before is kept") from None


def _parquet(path: Path, mapping: Mapping, skip: int, chunk_rows: int) -> Iterator[Chunk]:
    with pq.ParquetFile(path) as file:
        _have(path, file.schema_arrow.names, mapping)
        groups = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        total = sum(groups)
        at = first = 0
        while first < len(groups) and at + groups[first] <= skip:
            at += groups[first]
            first += 1
        wanted = [name for name in columns(mapping) if name in file.schema_arrow.names]
        for batch in file.iter_batches(chunk_rows, row_groups=list(range(first, len(groups))), columns=wanted):
            drop = min(max(0, skip - at), len(batch))
            at += len(batch)
            if drop < len(batch):
                numbers = pa.array(np.arange(at - len(batch) + drop, at, dtype=np.int64))
                yield Chunk(pa.Table.from_batches([batch.slice(drop)]), numbers, {}, at, at / total)


def _csv(path: Path, mapping: Mapping, skip: int, chunk_rows: int) -> Iterator[Chunk]:
    csv.field_size_limit(MAX_RECORD_CHARS)
    with _Bytes(path) as source, io.TextIOWrapper(source.file, mapping.encoding, "replace", newline="") as text:
        reader = csv.reader(
            _short(text), delimiter=mapping.delimiter, quoting=csv.QUOTE_MINIMAL if mapping.quoting else csv.QUOTE_NONE
        )
        first: list[str] = (
            [] if mapping.header else next((row for row in _csv_rows(reader) if isinstance(row, list)), [])
        )
        names = [name.strip().removeprefix("\ufeff") for name in (mapping.header or first)]
        _have(path, names, mapping)
        places = [(name, names.index(name)) for name in columns(mapping) if name in names]

        def row(fields: Sequence[str]) -> list[str | None] | str:
            if len(fields) != len(names):
                return "malformed"
            return [fields[place] or None for _, place in places]

        yield from _gather(source, _csv_rows(reader), row, [name for name, _ in places], "", skip, chunk_rows)


def _short(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines, cut where one is so long that it can be no row, so that memory stays bounded."""
    while line := text.readline(MAX_LINE_CHARS):
        rest = line
        while len(rest) == MAX_LINE_CHARS and not rest.endswith("\n"):
            rest = text.readline(MAX_LINE_CHARS)
        yield line


def _csv_rows(reader: Iterator[list[str]]) -> Iterator[list[str] | str]:
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a field beyond the limit, most often an open quote
            yield "too_long"
            continue
        if fields:
            yield fields


def _jsonl(path: Path, mapping: Mapping, skip: int, chunk_rows: int) -> Iterator[Chunk]:
    names = list(columns(mapping))
    paths = [name.split(".") for name in names]

    def row(line: bytes) -> list[Any] | str:
        try:
            found = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            return "malformed"
        if not isinstance(found, dict):
            return "malformed"
        return [
            _text(_at(found, name, steps), name == mapping.explode) for name, steps in zip(names, paths, strict=True)
        ]

    with _Bytes(path) as source:
        yield from _gather(source, _lines(source.file), row, names, mapping.explode, skip, chunk_rows)


def _lines(file: Any) -> Iterator[bytes | str]:
    while line := file.readline(MAX_RECORD_CHARS + 1):
        if len(line) > MAX_RECORD_CHARS:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_RECORD_CHARS)
            yield "too_long"
        elif line.strip():
            yield line


def _at(found: dict[str, Any], name: str, steps: list[str]) -> Any:
    if name in found or len(steps) == 1:
        return found.get(name)
    value: Any = found
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _text(value: Any, exploded: bool) -> Any:
    """A JSON value as a CSV cell would have it; the elements of the list that is exploded, each so."""
    if exploded:
        return [_text(one, False) for one in value] if isinstance(value, list) else [_text(value, False)]
    if value is None or isinstance(value, str):
        return value or None
    return msgspec.json.encode(value).decode()


def _gather(
    source: "_Bytes", records: Iterable[Any], row: Any, names: list[str], lists: str, skip: int, chunk_rows: int
) -> Iterator[Chunk]:
    rows: list[list[Any]] = []
    numbers: list[int] = []
    malformed: dict[int, str] = {}
    kinds = [pa.list_(pa.string()) if name == lists else pa.string() for name in names]

    def chunk(stop: int) -> Chunk:
        made = zip(*rows, strict=True) if rows else [[] for _ in names]
        table = pa.table([pa.array(cells, kind) for cells, kind in zip(made, kinds, strict=True)], names=names)
        return Chunk(table, pa.array(numbers, pa.int64()), malformed, stop, source.share())

    number = -1
    for number, record in enumerate(records):
        if number < skip:
            continue
        found = record if isinstance(record, str) else row(record)
        if isinstance(found, str):
            malformed[number] = found
        else:
            rows.append(found)
            numbers.append(number)
        if len(rows) + len(malformed) == chunk_rows:
            yield chunk(number + 1)
            rows, numbers, malformed = [], [], {}
    if rows or malformed:
        yield chunk(number + 1)


class _Bytes:
    """A file's bytes, gunzipped where its name says so, and how much of it is behind us."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("rb")
        self._size = max(1, path.stat().st_size)
        self.file: Any = gzip.GzipFile(fileobj=self._raw) if path.suffix == ".gz" else self._raw

    def share(self) -> float:
        return min(1.0, self._raw.tell() / self._size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()


def _have(path: Path, names: Sequence[str], mapping: Mapping) -> None:
    lacking = [name for name in columns(mapping) if name not in names and name not in mapping.optional]
    if lacking:
        # The first line of a CSV without names holds somebody's ids: say how many, not which (P-60).
        raise BadEvents(
            f"{path}: column {', '.join(map(repr, lacking))} is missing among its {len(names)}; name a --mapping that "
            f"says what its columns mean (see `dmp/mapping.py`), with `header` for a CSV without a line of names"
        )
