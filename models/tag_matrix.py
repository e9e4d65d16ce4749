"""Users x tags as sparse rows: what the look-alike learns from. Numpy only, about 5 bytes per user and tag."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Rows = npt.NDArray[np.int64]
Uids = npt.NDArray[np.bytes_]
BATCH_ROWS = 1 << 18
_COLUMNS = pa.schema([("uid", pa.binary(16)), ("tag", pa.uint32()), ("score", pa.uint8())])


class TagMatrix(msgspec.Struct, frozen=True):
    """Row r holds columns[starts[r]:starts[r+1]] with scores of the same places.

    uids: S16 (users,), ascending, so that a row number is also a fixed random order. tags: uint32 (tags,),
    ascending; the tag of each column. starts: int64 (users + 1,). columns: int32, scores: uint8 (entries,), 0..100.
    """

    uids: Uids
    tags: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int32]
    scores: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.uids)

    def entries(self, rows: Rows) -> tuple[Rows, npt.NDArray[np.int64]]:
        """(position in `rows`, place in columns and scores) of every entry of the rows."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        owner = np.repeat(np.arange(len(rows)), lengths)
        before = np.cumsum(lengths) - lengths
        return owner, np.arange(len(owner)) + np.repeat(self.starts[rows] - before, lengths)

    def dense(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Scores of the rows, float32 (len(rows), tags); a tag a user does not have is 0."""
        owner, places = self.entries(rows)
        X = np.zeros((len(rows), len(self.tags)), np.float32)
        X[owner, self.columns[places]] = self.scores[places]
        return X

    def rows_of(self, uids: Uids) -> Rows:
        """Ascending rows of those uids that are here, each once."""
        if not len(self):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self.uids, uids), len(self) - 1)
        return np.unique(places[self.uids[places] == uids]).astype(np.int64)

    def uid(self, row: int) -> bytes:
        return self.uids[row : row + 1].tobytes()  # not str(uids[row]): numpy drops trailing zero bytes


def as_uids(joined: bytes) -> Uids:
    """16-byte uids one after the other as an array that sorts and compares them bytewise."""
    return np.frombuffer(joined, dtype="S16")


def read(path: Path | IO[bytes], leave_out: Collection[int] = ()) -> TagMatrix:
    """The `tags.parquet` of a generation, in two passes of bounded batches; a user whose only tags are left out stays.

    leave_out: tag ids that must not be learnt from.
    """
    users = np.empty(0, "S16")
    names = np.empty(0, np.uint32)
    owners, columns, scores = [], [], []
    with pq.ParquetFile(path) as file:  # opened once: a new build may remove the folder between the passes
        for uids, tags, _ in _batches(file):
            users = np.union1d(users, uids)
            names = np.union1d(names, tags)
        names = np.setdiff1d(names, np.array(sorted(leave_out), np.uint32))
        for uids, tags, values in _batches(file):
            kept = np.isin(tags, names)
            owners.append(np.searchsorted(users, uids[kept]))
            columns.append(np.searchsorted(names, tags[kept]))
            scores.append(values[kept])
    nothing = [np.empty(0, np.int64)]
    return _sorted(users, names, np.concatenate(owners or nothing), np.concatenate(columns or nothing), _joined(scores))


def _joined(scores: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    return np.concatenate(scores) if scores else np.empty(0, np.uint8)


def _sorted(
    users: Uids,
    names: npt.NDArray[np.uint32],
    owner: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    scores: npt.NDArray[Any],
) -> TagMatrix:
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=len(users))
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return TagMatrix(users, names, starts, columns[order].astype(np.int32), scores[order].astype(np.uint8))


def _batches(file: pq.ParquetFile) -> Iterator[tuple[Uids, npt.NDArray[np.uint32], npt.NDArray[np.uint8]]]:
    for batch in file.iter_batches(BATCH_ROWS, columns=_COLUMNS.names):
        part = batch.cast(_COLUMNS)
        uid = part.column("uid")
        uids: Uids = np.frombuffer(uid.buffers()[1], dtype="S16")[uid.offset : uid.offset + len(uid)]
        yield uids, part.column("tag").to_numpy(), part.column("score").to_numpy()
