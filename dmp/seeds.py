"""Seed uploads: CSV of ids -> pseudonyms -> the known users among them, streamed through bounded memory.

A file holds one id a line, with its type beside it (`id_type,id`, in the order a header names, that order without
one) or given once for all lines. It may be gzipped; nothing else is unpacked (S-23). Every id becomes a pseudonym
as it is read: a raw id is never written anywhere (P-60). The pseudonyms of an upload lie in a folder of their own
until they are matched, then the folder goes and the matched ones stay, as the tenant's seed (P-62, P-70); of those
that match nobody nothing is kept.
"""

import codecs
import csv
import fcntl
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.audiences import write_uids
from dmp.catalogue import Upload
from dmp.errors import DmpError
from dmp.pseudonym import KeyRing
from dmp.schema import IdType, Uid

PIECE_BYTES = 1 << 18  # unpacked at a time; some 10 ms of hashing
RATIO_FROM_BYTES = 1 << 20  # a ratio says nothing about a small file
WRITE_UIDS = 1 << 16
MATCH_MEMORY = "256MB"  # of the join; beyond it DuckDB spills to the upload's folder
ID_TYPES: frozenset[str] = frozenset(get_args(IdType))
_COLUMNS = pa.schema([("uid", pa.binary(16))])
_GZIP, _ZIP, _PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class BadSeed(DmpError):
    """The upload is no list of ids."""


class SeedTooLarge(DmpError):
    """The upload is beyond a limit; nothing of it was kept."""


class Limits(msgspec.Struct, frozen=True):
    """Of one upload. unpacked_bytes: of the CSV itself, gzipped or not. ratio: unpacked to packed bytes."""

    unpacked_bytes: int = 2 * 1024**3
    rows: int = 100_000_000
    line_bytes: int = 64 * 1024
    ratio: int = 100


class Unpacker:
    """Bytes as sent -> bytes of CSV, gzip recognised by its first bytes. Feed it, then `finish`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inflate: zlib._Decompress | None = None
        self._head: bytes | None = b""
        self._packed = self._unpacked = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most PIECE_BYTES. Raises BadSeed, SeedTooLarge."""
        self._packed += len(data)
        if self._head is not None:
            data = self._head + data
            if len(data) < len(_ZIP):
                self._head = data
                return
            self._start(data)
        if self._inflate is None:
            pieces: Iterator[bytes] = (data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))
        else:
            pieces = self._gunzip(data)
        for piece in pieces:
            self._unpacked += len(piece)
            if self._unpacked > self._limits.unpacked_bytes:
                raise SeedTooLarge(f"more than {self._limits.unpacked_bytes:,} bytes of CSV; upload it in parts")
            if self._unpacked > max(RATIO_FROM_BYTES, self._packed * self._limits.ratio):
                raise SeedTooLarge(f"the gzip file unpacks to over {self._limits.ratio} times its size; send it plain")
            yield piece

    def finish(self) -> Iterator[bytes]:
        """What was held back. Raises BadSeed for a gzip file cut short."""
        if head := self._head:
            self._start(head)
            if self._inflate is None:
                yield head
        if self._inflate is not None and not self._inflate.eof:
            raise BadSeed("the gzip file is cut short; send it again")

    def _start(self, data: bytes) -> None:
        self._head = None
        if data.startswith((_ZIP, _PARQUET, *_UTF16)):
            raise BadSeed("the file is no UTF-8 CSV; send plain or gzipped CSV")
        if data.startswith(_GZIP):
            self._inflate = zlib.decompressobj(wbits=31)

    def _gunzip(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        # A full piece may have more behind it inside zlib, even with all input taken.
        while data or len(piece) == PIECE_BYTES:
            assert self._inflate is not None  # noqa: S101 - only called for gzip
            if self._inflate.eof:  # gzip files may be several joined, and padded with zeros
                if not data.strip(b"\0"):
                    return
                self._inflate = zlib.decompressobj(wbits=31)
            try:
                piece = self._inflate.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise BadSeed(f"the gzip file is damaged ({error}); send it again") from None
            yield piece
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail


class Reader:
    """Pieces of CSV -> pseudonyms; counts rows and what is no usable id. Holds one unfinished line at most."""

    def __init__(self, ring: KeyRing, id_type: IdType | None, limits: Limits) -> None:
        self._ring, self._limits = ring, limits
        self._one_type = id_type
        self._columns: tuple[int | None, int] | None = None  # places of type and id, known from the first line
        self._rest = b""
        self.rows = self.invalid = 0

    def feed(self, piece: bytes) -> list[Uid]:
        """Raises BadSeed, SeedTooLarge."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > self._limits.line_bytes:
            raise SeedTooLarge(f"line {self.rows + 1:,} is longer than {self._limits.line_bytes:,} bytes")
        return self._read(lines)

    def finish(self) -> list[Uid]:
        last, self._rest = self._rest, b""
        return self._read([last])

    def _read(self, lines: list[bytes]) -> list[Uid]:
        found = []
        for line in lines:
            if len(line) > self._limits.line_bytes:
                raise SeedTooLarge(f"line {self.rows + 1:,} is longer than {self._limits.line_bytes:,} bytes")
            if not line or line.isspace():
                continue
            cells = self._cells(line)
            if self._columns is None:
                self._columns, is_header = self._layout(cells)
                if is_header:
                    continue
            self.rows += 1
            if self.rows > self._limits.rows:
                raise SeedTooLarge(f"more than {self._limits.rows:,} rows; upload it in parts")
            uid = self._uid(cells, *self._columns)
            if uid is None:
                self.invalid += 1
            else:
                found.append(uid)
        return found

    def _cells(self, line: bytes) -> list[str]:
        """The cells of one line; none for what is no UTF-8 or no CSV."""
        if self._columns is None:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            text = line.decode()
            if '"' not in text:
                return text.rstrip("\r").split(",")
            return next(csv.reader([text.rstrip("\r")], strict=True))
        except (UnicodeDecodeError, csv.Error):
            return []

    def _layout(self, cells: list[str]) -> tuple[tuple[int | None, int], bool]:
        """Where type and id stand, and whether the first line is a header. Raises BadSeed."""
        names = [cell.strip().lower() for cell in cells]
        is_header = "id" in names
        if is_header:
            columns = (names.index("id_type") if "id_type" in names else None, names.index("id"))
        else:
            columns = (0, 1) if len(cells) == 2 else (None, 0)
        if len(cells) > 2 or (is_header and len(cells) == 2 and columns[0] is None):
            raise BadSeed("a seed has the columns id_type,id, or id alone; remove the others")
        if columns[0] is None and self._one_type is None:
            raise BadSeed(f"say of what type the ids are: id_type={'|'.join(sorted(ID_TYPES))}, or columns id_type,id")
        return columns, is_header

    def _uid(self, cells: list[str], type_at: int | None, id_at: int) -> Uid | None:
        if len(cells) != (1 if type_at is None else 2):
            return None
        if type_at is None:
            assert self._one_type is not None  # noqa: S101 - checked by _layout
            return self._ring.uid(self._one_type, cells[id_at])
        name = cells[type_at].strip().lower()
        return self._ring.uid(name, cells[id_at]) if name in ID_TYPES else None  # type: ignore[arg-type]  # checked here


class Import:
    """One upload on its way in: `feed` bytes, `match` once, `keep` what matched. Made by `receive`."""

    def __init__(self, data_dir: Path, folder: Path, ring: KeyRing, id_type: IdType | None, limits: Limits) -> None:
        self._data_dir, self._folder = data_dir, folder
        self._unpacker, self._reader = Unpacker(limits), Reader(ring, id_type, limits)
        self._uids: list[Uid] = []
        self._path = folder / "uids.parquet"
        self._file = pq.ParquetWriter(self._path, _COLUMNS, compression="none", use_dictionary=False)

    def feed(self, data: bytes) -> None:
        """Raises BadSeed, SeedTooLarge."""
        for piece in self._unpacker.feed(data):
            self._add(self._reader.feed(piece))

    def match(self, known: Path) -> Upload:
        """Close the upload and match it. known: a generation's `tags.parquet`.

        The matched users are in `seeds/` then, under a name of no meaning. Raises BadSeed when no line is an id.
        """
        for piece in self._unpacker.finish():
            self._add(self._reader.feed(piece))
        self._add(self._reader.finish())
        self._write()
        self._file.close()
        rows, invalid = self._reader.rows, self._reader.invalid
        if rows == invalid:
            raise BadSeed(f"none of {rows:,} lines is a usable id; send id_type,id with the types {sorted(ID_TYPES)}")
        seed_file = f"seeds/{secrets.token_hex(16)}.uids"
        with duckdb.connect(str(self._folder / "match.duckdb")) as db:
            db.execute(f"SET memory_limit = '{MATCH_MEMORY}'")
            db.execute("CREATE TABLE upload AS SELECT DISTINCT uid FROM read_parquet(?)", [str(self._path)])
            (distinct,) = db.execute("SELECT COUNT(*) FROM upload").fetchone() or (0,)
            hits = db.execute(
                "SELECT uid FROM upload WHERE uid IN (SELECT uid FROM read_parquet(?)) ORDER BY uid", [str(known)]
            )
            matched = write_uids(
                self._data_dir / seed_file,
                (uid for block in iter(lambda: hits.fetchmany(WRITE_UIDS), []) for (uid,) in block),
            )
        return Upload(rows=rows, invalid=invalid, distinct=distinct, matched=matched, seed_file=seed_file)

    def close(self) -> None:
        self._file.close()

    def _add(self, uids: list[Uid]) -> None:
        self._uids += uids
        if len(self._uids) >= WRITE_UIDS:
            self._write()

    def _write(self) -> None:
        self._file.write_batch(pa.record_batch([pa.array(self._uids, pa.binary(16))], schema=_COLUMNS))
        self._uids.clear()


@contextmanager
def receive(data_dir: Path, ring: KeyRing, id_type: IdType | None, limits: Limits) -> Iterator[Import]:
    """An import whose folder is gone afterwards, however it ends; only `match` leaves something, the seed file."""
    folder = data_dir / "uploads" / secrets.token_hex(16)
    folder.mkdir(parents=True, mode=0o700)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # says that we live; see `sweep`
        try:
            upload = Import(data_dir, folder, ring, id_type, limits)
            try:
                yield upload
            finally:
                upload.close()
        finally:
            shutil.rmtree(folder)


def sweep(data_dir: Path) -> int:
    """Remove what uploads left whose process was killed; returns how many there were (P-70)."""
    removed = 0
    for folder in (data_dir / "uploads").glob("*"):
        with suppress(BlockingIOError, FileNotFoundError), os.fdopen(os.open(folder / "lock", os.O_RDONLY)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
            removed += 1
    return removed
