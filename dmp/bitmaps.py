"""Exact bitmaps of a generation: who has which tag with which score, in files beside `tags.parquet`.

Users are numbered by the order of their uids (`users.bin`, 16 bytes each). Each tag has one roaring bitmap of its
users, and one for every bit of `score - lowest score` in which that bit is set (none for a tag with one score). A
threshold then costs one AND or OR a bit, whatever it is (bit-sliced index; O'Neil and Quass, SIGMOD 1997, algorithm
4.4), and is exact. Days since last seen are one more such column. All bitmaps lie in `bitmaps.bin`, `bitmaps.json`
says where; it is written last, so that a folder without it has none. They are mapped and read when first asked for.
"""

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from dmp.errors import CorruptRecord
from dmp.expression import And, Comparison, Everybody, Expression, HasTag, Member, Not, Or, Scored, Seen
from dmp.grouped import UID_BYTES, Grouped

VERSION = 1
DAY_US = 86_400_000_000
CACHE_BYTES = 512 * 1024**2  # bitmaps held in memory; a dense one of 10 million users has 1.25 MB
UIDS_FILE, BITS_FILE, INDEX_FILE = "users.bin", "bitmaps.bin", "bitmaps.json"
SEEN = 0
"""Column of days since last seen; no tag has this id."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a serialised bitmap lies in `bitmaps.bin`."""

    offset: int
    length: int


class Column(msgspec.Struct, frozen=True):
    """One tag. users: how many have it. low, high: least and greatest value. slices: lowest bit first."""

    users: int
    low: int
    high: int
    present: Place
    slices: tuple[Place, ...]


class Index(msgspec.Struct, frozen=True):
    """`bitmaps.json`. columns: by tag id, and `SEEN`. as_of_day: what ages are counted from, days since 1970."""

    version: int
    users: int
    as_of_day: int
    columns: dict[int, Column]


class Values(NamedTuple):
    """A column to write: the users who have a tag, ascending, and each one's value."""

    tag: int
    users: npt.NDArray[np.uint32]
    values: npt.NDArray[np.unsignedinteger]


def columns_of(tags: Grouped, as_of_day: int) -> Iterator[Values]:
    """The columns of a generation's tags: days since last seen, then one a tag.

    Last seen is the youngest behaviour behind any of a user's tags; nobody is seen after `as_of_day`.
    """
    everybody = np.arange(tags.users, dtype=np.uint32)
    if tags.users:
        last = np.maximum.reduceat(tags.as_of_day, tags.starts[:-1]).astype(np.int64)
        yield Values(SEEN, everybody, np.maximum(as_of_day - last, 0).astype(np.uint32))
    names, code = np.unique(tags.tag, return_inverse=True)
    user = np.repeat(everybody, np.diff(tags.starts))
    order = np.argsort(code.astype(np.uint16), kind="stable")  # 16 bits: sorted by counting
    bounds = np.searchsorted(code[order], np.arange(len(names) + 1))
    for name, (start, end) in zip(names.tolist(), pairwise(bounds.tolist()), strict=True):
        rows = order[start:end]
        yield Values(name, user[rows], tags.score[rows])


def make(folder: Path, tags: Grouped, now_us: int) -> None:
    """Write the bitmaps of a generation's tags. now_us: of the build, what ages are counted from."""
    day = now_us // DAY_US
    write(folder, tags.uids, columns_of(tags, day), day)


def write(
    folder: Path,
    uids: bytes,
    columns: Iterable[Values],
    as_of_day: int,
    progress: Callable[[int], None] = lambda columns: None,
) -> None:
    """Write a generation's bitmaps into its folder; they are there whole or not at all."""
    _whole(folder / UIDS_FILE, lambda file: file.write(uids))
    found: dict[int, Column] = {}

    def bits(file: BinaryIO) -> None:
        for column in columns:
            found[column.tag] = _column(file, column)
            progress(1)

    _whole(folder / BITS_FILE, bits)
    index = Index(VERSION, len(uids) // UID_BYTES, as_of_day, found)
    _whole(folder / INDEX_FILE, lambda file: file.write(msgspec.json.encode(index)))


def _column(file: BinaryIO, column: Values) -> Column:
    def put(users: npt.NDArray[np.uint32]) -> Place:
        bitmap = BitMap(users)
        bitmap.run_optimize()
        data = bitmap.serialize()
        at = file.tell()
        file.write(data)
        return Place(at, len(data))

    low, high = int(column.values.min()), int(column.values.max())
    above = column.values - low
    slices = tuple(put(column.users[(above >> bit) & 1 == 1]) for bit in range((high - low).bit_length()))
    return Column(len(column.users), low, high, put(column.users), slices)


def _whole(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    draft = path.with_name(path.name + ".part")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        fill(file)
    draft.rename(path)


class Bitmaps:
    """The open bitmaps of one generation; safe to share between threads. Results must not be changed."""

    def __init__(self, folder: Path) -> None:
        try:
            self.index = msgspec.json.decode((folder / INDEX_FILE).read_bytes(), type=Index)
        except msgspec.DecodeError as error:
            raise CorruptRecord(f"{folder / INDEX_FILE}: {error}; remove it and ask again, it will be made") from None
        if self.index.version != VERSION:
            raise CorruptRecord(f"bitmaps of version {self.index.version}, this release reads {VERSION}; build again")
        self.everybody = BitMap(range(self.index.users))
        self._file = (folder / BITS_FILE).open("rb")
        size = os.fstat(self._file.fileno()).st_size
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._uids: npt.NDArray[np.bytes_] = (
            np.memmap(folder / UIDS_FILE, "S16", "r") if self.index.users else np.empty(0, "S16")
        )
        self._lock = threading.Lock()
        self._read: OrderedDict[int, tuple[BitMap, int]] = OrderedDict()
        self._held = 0

    def close(self) -> None:
        if isinstance(self._map, mmap.mmap):
            self._map.close()
        self._file.close()

    def bitmap(self, place: Place) -> BitMap:
        """A stored bitmap, read when first asked for; those not asked for longest leave the memory."""
        with self._lock:
            held = self._read.pop(place.offset, None)
            if held is None:
                with memoryview(self._map) as mapped:
                    data: Any = mapped[place.offset : place.offset + place.length]  # its stub allows for a copy only
                    held = (BitMap.deserialize(data), place.length)
                    data.release()
                self._held += place.length
            self._read[place.offset] = held
            while self._held > CACHE_BYTES and len(self._read) > 1:
                _, (_, length) = self._read.popitem(last=False)
                self._held -= length
            return held[0]

    def having(self, tag: int) -> BitMap:
        """Users with a tag, whatever its score."""
        column = self.index.columns.get(tag)
        return BitMap() if column is None else self.bitmap(column.present)

    def at_least(self, tag: int, value: int) -> BitMap:
        """Users with a tag whose value is not below `value`."""
        column = self.index.columns.get(tag)
        if column is None or value > column.high:
            return BitMap()
        found = self.bitmap(column.present)
        wanted = value - column.low
        if wanted <= 0:
            return found
        fresh = False  # what is stored must not be changed in place
        for bit, place in enumerate(column.slices):
            if wanted >> bit & 1:
                found = found & self.bitmap(place)
                fresh = True
            elif fresh:
                found |= self.bitmap(place)
        return found

    def compared(self, tag: int, comparison: Comparison, value: int) -> BitMap:
        """Users with a tag whose value compares so."""
        match comparison:
            case ">=":
                return self.at_least(tag, value)
            case ">":
                return self.at_least(tag, value + 1)
            case "<":
                return self.having(tag) - self.at_least(tag, value)
            case "<=":
                return self.having(tag) - self.at_least(tag, value + 1)
            case "=":
                return self.at_least(tag, value) - self.at_least(tag, value + 1)
            case "!=":
                return self.having(tag) - self.compared(tag, "=", value)

    def numbers(self, uids: Iterable[bytes]) -> BitMap:
        """The numbers of those uids that are users of this generation."""
        wanted = np.frombuffer(b"".join(uids), np.dtype("S16"))
        if not self.index.users or not len(wanted):
            return BitMap()
        place = np.minimum(np.searchsorted(self._uids, wanted), self.index.users - 1)
        return BitMap(place[self._uids[place] == wanted].astype(np.uint32))

    def uids(self, users: BitMap) -> Iterator[bytes]:
        """The uids behind numbers, ascending."""
        raw = self._uids.view("V16")
        for number in users:
            yield raw[number].tobytes()


def meant(expression: Expression, bitmaps: Bitmaps, members: Callable[[Member], BitMap]) -> BitMap:
    """The users an expression means. members: of an audience. The result must not be changed."""

    def of(part: Expression) -> BitMap:
        match part:
            case Everybody():
                return bitmaps.everybody
            case HasTag(tags):
                return _any([bitmaps.having(tag) for tag in tags])
            case Scored(tags, comparison, score):
                return _any([bitmaps.compared(tag, comparison, score) for tag in tags])
            case Seen(comparison, days):
                return bitmaps.compared(SEEN, comparison, days)
            case Member():
                return members(part)
            case Not(inner):
                return bitmaps.everybody - of(inner)
            case Or(parts):
                return _any([of(one) for one in parts])
            case And(parts):
                wanted = sorted((of(one) for one in parts if not isinstance(one, Not)), key=len)
                found = wanted[0] if wanted else bitmaps.everybody
                for other in wanted[1:]:
                    found = found & other
                for one in parts:
                    if isinstance(one, Not):  # a difference spares making the complement
                        found = found - of(one.inner)
                return found

    return of(expression)


def _any(found: list[BitMap]) -> BitMap:
    return found[0] if len(found) == 1 else BitMap.union(*found) if found else BitMap()
