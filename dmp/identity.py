"""Which ids are one person: an append-only log of edges between pseudonyms, replayed into components.

`data_dir/identity/edges` starts with `MAGIC` and holds 48-byte records (`RECORD`), each with a CRC-32. Records are
only appended: to take an edge back is another record, and the graph is what a replay of all of them gives. Of
several records on the same pair (or the same blocked id) the one with the latest time holds, at the same time the
one that joins less, so the order in which records arrive does not matter. A crash can leave a torn last record; it
was never told as written and is cut off by the next writer. Only `forget` rewrites the log, to a new file that is
renamed over the old one.

What keeps strangers apart: an id with more partners than its type may have (a shop's phone, a test account) joins
nobody, as does an id that was blocked; a household joins nobody into a person; a component with more members than a
person can have is dissolved. A person is called by the id that was seen first, which a merge or a split of others
does not change.
"""

import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmp.config import IdentityConfig
from dmp.errors import DmpError
from dmp.schema import ID_TYPES, IdType, Uid

MAGIC = b"tbedge1\n"
RECORD = np.dtype(
    [("crc", "<u4"), ("op", "u1"), ("a_type", "u1"), ("b_type", "u1"), ("zero", "u1"), ("time_us", "<i8"),
     ("a", "V16"), ("b", "V16")]
)  # fmt: skip
"""One record. crc: of the 44 bytes after it. a_type, b_type: places in `dmp.schema.ID_TYPES`. b: zeros where one id is
meant."""

LINK, UNLINK, BLOCK, UNBLOCK = 1, 2, 3, 4
_PAIRS, _SINGLES = (LINK, UNLINK), (UNBLOCK, BLOCK)  # at the same time the later of each holds: it joins less
_NOBODY = bytes(16)
_NEVER = np.iinfo(np.int64).max

Records = npt.NDArray[np.void]

PERSON_COLUMNS = pa.schema(
    [("uid", pa.binary(16)), ("person", pa.binary(16)), ("type", pa.uint8()), ("first_seen_us", pa.int64())]
)
"""Columns of the replayed graph: one row an id that some edge has named; person: the canonical id of its component."""


class Statement(msgspec.Struct, frozen=True):
    """One record to write. op: LINK, UNLINK (a, b), BLOCK, UNBLOCK (a). time_us: when it was seen or decided."""

    op: int
    time_us: int
    a_type: IdType
    a: Uid
    b_type: IdType = "cookie"
    b: Uid = _NOBODY


class Graph(msgspec.Struct, frozen=True):
    """The replayed log. persons: `PERSON_COLUMNS`, in order of uid. edges: live pairs (a < b) of places in it.

    blocked, capped: places of ids that join nobody. dissolved: components that had too many members.
    """

    persons: pa.Table
    edges: npt.NDArray[np.int64]
    joins: npt.NDArray[np.bool_]
    blocked: npt.NDArray[np.int64]
    capped: npt.NDArray[np.int64]
    dissolved: int


def edges_file(data_dir: Path | str) -> Path:
    return Path(data_dir) / "identity" / "edges"


def append(path: Path, statements: Iterable[Statement]) -> int:
    """Write records and return how many, once they are on disk. Raises DmpError, then nothing was written."""
    fresh = records(list(statements))
    if len(fresh):
        with _opened(path) as file:
            file.write(fresh.tobytes())
            file.flush()
            os.fsync(file.fileno())
    return len(fresh)


def collect(path: Path, pairs: pa.Table) -> int:
    """Write what events say that the log does not know yet; returns how many records that took.

    pairs: columns a, b (binary 16), a_type, b_type (names), first_us, last_us: ids seen in the same event, and when.
    Known pairs take no new record, so that the log grows with what is learnt and not with every event.
    """
    first, last = (_link_records(pairs, pairs[name].to_numpy()) for name in ("first_us", "last_us"))
    with _opened(path) as file:
        file.seek(len(MAGIC))
        held = _whole(path, file.read())
        held = held[np.isin(held["op"], _PAIRS)]
        names, codes = _named(held["a"], held["b"], first["a"], first["b"])
        a, b = codes[: len(held)], codes[len(held) : 2 * len(held)]
        c, d = codes[2 * len(held) : 2 * len(held) + len(first)], codes[2 * len(held) + len(first) :]
        key = np.concatenate((_pair(a, b, len(names)), _pair(c, d, len(names))))
        place = np.unique(key, return_inverse=True)[1]
        began, linked, parted = np.full(len(key), _NEVER), np.full(len(key), -_NEVER), np.full(len(key), -_NEVER)
        link = held["op"] == LINK
        np.minimum.at(began, place[: len(held)][link], held["time_us"][link])
        np.maximum.at(linked, place[: len(held)][link], held["time_us"][link])
        np.maximum.at(parted, place[: len(held)][~link], held["time_us"][~link])
        seen = place[len(held) :]
        apart = (parted[seen] > -_NEVER) & (linked[seen] <= parted[seen])
        again = apart & (last["time_us"] > parted[seen]) & (last["time_us"] > first["time_us"])
        fresh = np.concatenate((first[first["time_us"] < began[seen]], last[again]))
        file.write(fresh.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return len(fresh)


def _pair(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """One number a pair of places below n, whichever comes first."""
    return np.minimum(a, b) * n + np.maximum(a, b)


def _link_records(pairs: pa.Table, time_us: npt.NDArray[np.int64]) -> Records:
    made = np.zeros(len(pairs), RECORD)
    made["op"], made["time_us"] = LINK, time_us
    for side in "ab":
        made[side] = np.frombuffer(b"".join(pairs[side].to_pylist()), "V16")
        made[f"{side}_type"] = [ID_TYPES.index(name) for name in pairs[f"{side}_type"].to_pylist()]
    return _sealed(made)


def read(path: Path) -> Records:
    """Every whole record in the order written; none without a file. Raises DmpError for a log broken elsewhere."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return np.zeros(0, RECORD)
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise DmpError(f"{path} is no identity log of this release; restore it from a backup")
    return _whole(path, data[len(MAGIC) :])


def forget(path: Path, uids: Iterable[Uid]) -> int:
    """Rewrite the log without any record that names one of these ids; returns how many were taken out.

    A crash leaves the old log or the new one. Forgetting again is no error.
    """
    if not path.exists():
        return 0
    with _opened(path) as file:
        file.seek(len(MAGIC))
        held = _whole(path, file.read())
        gone = set(uids)
        keep = np.array([r["a"].tobytes() not in gone and r["b"].tobytes() not in gone for r in held], bool)
        draft = path.with_name("edges.draft")
        with draft.open("wb") as out:
            out.write(MAGIC + held[keep].tobytes())
            out.flush()
            os.fsync(out.fileno())
        draft.rename(path)
        _sync_folder(path.parent)
    return int(len(held) - keep.sum())


def replay(log: Records, config: IdentityConfig) -> Graph:
    """The graph after all records, whatever their order."""
    of_two = np.isin(log["op"], _PAIRS)
    pairs, singles = log[of_two], log[~of_two]
    names, codes = _named(pairs["a"], pairs["b"], singles["a"])
    n, m = len(names), len(pairs)
    a, b, single = codes[:m], codes[m : 2 * m], codes[2 * m :]
    types = np.zeros(n, np.uint8)
    for which, kinds in ((a, pairs["a_type"]), (b, pairs["b_type"]), (single, singles["a_type"])):
        np.maximum.at(types, which, kinds)
    linked = pairs["op"] == LINK
    first = np.full(n, _NEVER)
    for side in (a, b):
        np.minimum.at(first, side[linked], pairs["time_us"][linked])

    pair = _latest(_pair(a, b, n), pairs["time_us"], pairs["op"].astype(np.int64))
    pair = pair[pairs["op"][pair] == LINK]
    edges = np.sort(np.stack([a[pair], b[pair]], axis=1), axis=1)
    decided = _latest(single, singles["time_us"], -singles["op"].astype(np.int64))
    blocked = np.zeros(n, bool)
    blocked[single[decided]] = singles["op"][decided] == BLOCK

    caps = np.array([getattr(config, name) for name in ID_TYPES])
    open_ = ~blocked[edges].any(axis=1)
    degree = np.bincount(edges[open_].ravel(), minlength=n)
    capped = degree > caps[types]
    home = types == ID_TYPES.index("household")
    joins = open_ & ~capped[edges].any(axis=1) & ~home[edges].any(axis=1)
    label, dissolved = _components(n, edges[joins], config.max_members)
    order = np.lexsort((np.arange(n), first, label))  # names are sorted, so places break ties by the bytes of the id
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    person = np.empty(n, np.int64)
    person[label[order[starts]]] = order[starts]
    persons = pa.table(
        [names, names.take(pa.array(person[label])), pa.array(types), pa.array(first)], schema=PERSON_COLUMNS
    )
    return Graph(persons, edges, joins, np.flatnonzero(blocked), np.flatnonzero(capped), dissolved)


def _named(*columns: npt.NDArray[np.void]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """(distinct ids in order, place of every given id)."""
    data = b"".join(column.tobytes() for column in columns)
    every = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(data) // 16, [None, pa.py_buffer(data)])
    found = every.dictionary_encode()
    order = pc.sort_indices(found.dictionary).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return found.dictionary.take(pa.array(order)), place[found.indices.to_numpy(zero_copy_only=False)]


def _latest(
    key: npt.NDArray[np.int64], time_us: npt.NDArray[np.int64], rank: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Of each key the place of the record with the greatest (time, rank)."""
    order = np.lexsort((rank, time_us, key))
    last = np.flatnonzero(np.diff(key[order], append=-1))
    chosen: npt.NDArray[np.int64] = order[last]
    return chosen


def _components(n: int, edges: npt.NDArray[np.int64], most: int) -> tuple[npt.NDArray[np.int64], int]:
    """(a number per id, 0.. without gaps, how many components were dissolved for having more than `most` members)."""
    from scipy.sparse import coo_array  # takes a second to load, which only a replay should wait for
    from scipy.sparse.csgraph import connected_components

    if not n:
        return np.zeros(0, np.int64), 0
    ones = np.ones(len(edges), np.int8)
    _, label = connected_components(coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(n, n)), directed=False)
    sizes = np.bincount(label)
    large = sizes[label] > most
    alone = np.where(large, len(sizes) + np.arange(n), label)
    return np.unique(alone, return_inverse=True)[1].astype(np.int64), int((sizes > most).sum())


def write_persons(path: Path, graph: Graph) -> None:
    """Write `Graph.persons` as Parquet; readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(".draft")
    pq.write_table(graph.persons, draft, compression="zstd")
    draft.rename(path)


def members(graph: Graph, uid: Uid) -> list[tuple[Uid, str]]:
    """(id, type) of everybody who is one person with `uid`, itself included; [] for an id without edges."""
    persons = graph.persons
    found = persons.filter(pc.equal(persons["uid"], pa.scalar(uid, pa.binary(16))))
    if not len(found):
        return []
    same = persons.filter(pc.equal(persons["person"], found["person"][0]))
    return [(row["uid"], ID_TYPES[row["type"]]) for row in same.select(["uid", "type"]).to_pylist()]


def records(statements: Sequence[Statement]) -> Records:
    """Statements as the log holds them; raises DmpError for one that says nothing."""
    made = np.zeros(len(statements), RECORD)
    for row, said in zip(made, statements, strict=True):
        if said.op in _PAIRS and said.a == said.b:
            raise DmpError("an id cannot be linked with itself")
        row["op"], row["time_us"] = said.op, said.time_us
        row["a"], row["a_type"] = np.void(said.a), ID_TYPES.index(said.a_type)
        row["b"], row["b_type"] = np.void(said.b), ID_TYPES.index(said.b_type)
    return _sealed(made)


def _sealed(made: Records) -> Records:
    data = memoryview(made.tobytes())
    size = RECORD.itemsize
    made["crc"] = [zlib.crc32(data[start + 4 : start + size]) for start in range(0, len(data), size)]
    return made


def _whole(path: Path, data: bytes) -> Records:
    """The records in the file's bytes after `MAGIC`, without what a crash left at the end.

    Power cuts can leave a last block of zeros or half a record; a bad record with a good one after it is no crash.
    """
    found = np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD).copy()
    good = _sealed(found.copy())["crc"] == found["crc"]
    good &= np.isin(found["op"], (*_PAIRS, *_SINGLES))
    end = int(np.flatnonzero(good)[-1]) + 1 if good.any() else 0
    if not good[:end].all():
        at = len(MAGIC) + int(np.flatnonzero(~good)[0]) * RECORD.itemsize
        raise DmpError(f"{path} is broken at byte {at}; restore it from a backup")
    return found[:end]


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The log at its end, locked for this writer, without a torn last record."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        good = len(MAGIC) + RECORD.itemsize * len(read(path))
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            if file.read(len(MAGIC)) != MAGIC:
                file.truncate(0)
                file.seek(0)
                file.write(MAGIC)
                file.flush()
                _sync_folder(path.parent)
            file.truncate(good)
            file.seek(good)
            yield file


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
