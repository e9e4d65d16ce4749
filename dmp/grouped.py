"""A generation's tags grouped by user: the one order that publishing, reading back and bitmaps work in.

Sorting 100 million rows by a 16-byte id and a tag is what a build would spend its time on. Here every row becomes one
64-bit number (rank of the user, tag, day, score, source), and plain numbers sort at some ten million a second and core.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

UID_BYTES = 16
_WORD = 64


class Grouped(NamedTuple):
    """Tag rows in order of (uid, tag).

    uids: the users, each once, ascending, 16 bytes after 16 bytes. starts: int64 (users + 1), where the rows of each
    user begin. tag u32, score u8, as_of_day u16, source u8: one a row.
    """

    uids: bytes
    starts: npt.NDArray[np.int64]
    tag: npt.NDArray[np.uint32]
    score: npt.NDArray[np.uint8]
    as_of_day: npt.NDArray[np.uint16]
    source: npt.NDArray[np.uint8]

    @property
    def users(self) -> int:
        return len(self.starts) - 1

    def uid(self, user: int) -> bytes:
        return self.uids[UID_BYTES * user : UID_BYTES * (user + 1)]

    def some(self, users: npt.NDArray[np.int64]) -> "Grouped":
        """Only these users, numbers ascending."""
        counts = self.starts[users + 1] - self.starts[users]
        starts = np.zeros(len(users) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        rows = np.arange(starts[-1]) + np.repeat(self.starts[users] - starts[:-1], counts)
        uids = np.frombuffer(self.uids, "V16")[users].tobytes()
        return Grouped(uids, starts, self.tag[rows], self.score[rows], self.as_of_day[rows], self.source[rows])

    def has(self, uid: bytes) -> bool:
        """Whether a user has tags."""
        at = bisect_left(range(self.users), uid, key=self.uid)
        return at < self.users and self.uid(at) == uid

    def table(self) -> pa.Table:
        """The rows as they came, in order of (uid, tag)."""
        every = np.repeat(np.frombuffer(self.uids, "V16"), np.diff(self.starts))
        uid = pa.FixedSizeBinaryArray.from_buffers(pa.binary(UID_BYTES), len(every), [None, pa.py_buffer(every)])
        columns = {"tag": self.tag, "score": self.score, "as_of_day": self.as_of_day, "source": self.source}
        return pa.table({"uid": uid, **columns})


def grouped(tags: pa.Table) -> Grouped:
    """tags: `dmp.generations.TAG_COLUMNS`, in any order."""
    columns = [
        tags["tag"].to_numpy(),
        tags["as_of_day"].to_numpy(),
        tags["score"].to_numpy(),
        tags["source"].to_numpy(),
    ]
    user, uids = _ranks(tags["uid"])
    lows = [int(column.min()) if len(column) else 0 for column in columns]
    widths = [
        (int(column.max()) - low).bit_length() if len(column) else 0 for column, low in zip(columns, lows, strict=True)
    ]
    if (len(uids) // UID_BYTES).bit_length() + sum(widths) > _WORD:  # hundreds of millions of users over many years
        order = np.lexsort((*reversed(columns), user))
        user, columns = user[order], [column[order] for column in columns]
    else:
        packed = user.astype(np.uint64)
        for column, low, width in zip(columns, lows, widths, strict=True):
            packed <<= np.uint64(width)
            packed |= column.astype(np.uint64) - np.uint64(low)
        if not _ascending(packed):
            packed.sort()
        for place in reversed(range(len(columns))):
            mask = np.uint64((1 << widths[place]) - 1)
            columns[place] = ((packed & mask) + np.uint64(lows[place])).astype(columns[place].dtype)
            packed >>= np.uint64(widths[place])
        user = packed.astype(np.int64)
    starts = np.zeros(len(uids) // UID_BYTES + 1, np.int64)
    np.cumsum(np.bincount(user, minlength=len(starts) - 1), out=starts[1:])
    tag, day, score, source = columns
    return Grouped(uids, starts, tag, score, day, source)


def _ascending(values: npt.NDArray[np.uint64]) -> bool:
    return bool((values[1:] >= values[:-1]).all())


def _ranks(uid: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], bytes]:
    """(rank of each row's user, the users ascending)."""
    coded = pc.dictionary_encode(uid.combine_chunks() if uid.num_chunks != 1 else uid.chunk(0))
    names = coded.dictionary
    raw = memoryview(names.buffers()[1])[UID_BYTES * names.offset : UID_BYTES * (names.offset + len(names))]
    halves = np.frombuffer(raw, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # as two numbers; as objects it takes ten times as long
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[coded.indices.to_numpy()], halves[order].tobytes()
