"""The archive: the event stream as Parquet files that `tagbid dmp build` reads, each acknowledged event once.

    <folder>/kind=view/date=2026-11-26/hour=17/000042-3.parquet     batch 42, its file 3; by time of the event, UTC
    <folder>/archive.json                                           what is archived (`State`)
    <folder>/.staging/000042/3.parquet.part                         a batch that is being written
    <folder>/.quarantine/000042.rows                                Parquet: records of batch 42 that are no events

A batch is written to the staging folder first; then `archive.json` is replaced by one that has the batch's last stream
positions and the list of its files; then the files are renamed into their places, and only then are the entries
acknowledged, which lets them be trimmed. `archive.json` decides: a restart finishes the renames it names, throws other
staged files away, and acknowledges redelivered entries that it knows as archived. So a kill at any moment loses no
event and writes none twice.

A record that is no event, or none that the columns can hold, is no reason to stop: it is counted and kept in quarantine
as it was, with its position. No build reads there; erasure and retention do.

Events too late for the real-time tags are in the stream like all others and so reach the nightly build. Beside its
fields an event has its position in the stream, `entry` and `place`: when the store took it is in there, and decides
whether it was late and which of two copies came first, for the batch as for the stream.
"""

import fcntl
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from dmp import events, incoming, keys, streams
from dmp.clustered import node, nodes
from dmp.errors import BadEvents, CorruptRecord, DmpError
from dmp.events import Behaviour
from dmp.schema import NO_UID, Uid
from dmp.stream import MAX_TIME_US

CONSUMER = "archiver"  # one at a time (the folder's lock), so that it finds its own unfinished entries again
READ_ENTRIES = 500  # of one partition and read
LONGEST_SLEEP_S = 0.05  # between looks at a cluster's streams, which cannot be waited for together
HOUR_US = 3_600_000_000
STATE, STAGING, LOCK, QUARANTINE = "archive.json", ".staging", "archive.lock", ".quarantine"
Positions = dict[Any, Any]  # {stream key: the id to read on from}
_ARROW: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), bytes: pa.binary()}
_BROKEN = pa.schema([("record", pa.binary()), ("why", pa.string()), ("entry", pa.string()), ("place", pa.int32())])
_WHOLE = {
    kind: [field.name for field in msgspec.structs.fields(kind) if field.type is int] for kind in get_args(Behaviour)
}


class AnotherArchiver(DmpError):
    """The folder is being written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another archiver writes into {folder}; stop it, or choose another folder with --into")


class State(msgspec.Struct, frozen=True):
    """`archive.json`. batch: number of the last one. positions: {partition: id of its last archived entry}. moves: the
    last batch's files, from where they were staged to where they belong, under the folder. events: all archived.
    broken: all records in quarantine.
    """

    batch: int = 0
    positions: dict[int, str] = {}
    moves: tuple[tuple[str, str], ...] = ()
    events: int = 0
    broken: int = 0


class Came(NamedTuple):
    """An event and its position: the id of its entry, and its place in there."""

    event: Behaviour
    entry: str
    place: int


class Broken(NamedTuple):
    """A record that is no event, why not, and its position."""

    record: bytes
    why: str
    entry: str
    place: int


class Entry(NamedTuple):
    """A stream entry, taken apart."""

    partition: int
    id: str
    came: list[Came]
    broken: list[Broken]


class Archive:
    """An open archive folder and the stream it is filled from. forgotten: whom no file may name any more (P-71)."""

    def __init__(self, folder: Path, client: redis.Redis, partitions: int, forgotten: Container[Uid] = ()) -> None:
        self._folder, self._client, self._partitions, self._forgotten = folder, client, partitions, forgotten
        self.state = recovered(folder)
        self.waiting: list[Entry] = []
        self.rows = 0
        streams.ensure_groups(client, partitions)
        self._align()
        self._take_back()

    def read(self, block_ms: int) -> int:
        """Take what is new in the stream, waiting up to block_ms for something; returns how many records that were."""
        wanted: Positions = {keys.events(partition): ">" for partition in range(self._partitions)}
        return self._take(self._deliver(wanted, block_ms))

    def flush(self) -> int:
        """Archive what was read; returns how many events that were."""
        if not self.waiting:
            return 0
        positions, batch = dict(self.state.positions), self.state.batch + 1
        for entry in self.waiting:
            positions[entry.partition] = entry.id
        came = [one._replace(event=self._kept(one.event)) for entry in self.waiting for one in entry.came]
        broken = [one for entry in self.waiting for one in entry.broken]
        moves = staged(self._folder, batch, came, broken)
        self.state = State(batch, positions, moves, self.state.events + len(came), self.state.broken + len(broken))
        replace(self._folder / STATE, msgspec.json.encode(self.state))
        finish(self._folder, moves)
        self._acknowledge([(entry.partition, entry.id) for entry in self.waiting])
        self.waiting, self.rows = [], 0
        return len(came)

    def _kept(self, event: Behaviour) -> Behaviour:
        return incoming.without(event, self._forgotten)

    def _align(self) -> None:
        """See to it that no entry to come gets an id that is archived already.

        A store that lost its last writes goes on after the archive; of one that was replaced the archive has nothing.
        """
        positions = dict(self.state.positions)
        for partition in positions.keys() & range(self._partitions):
            key, archived = keys.events(partition), positions[partition]
            at = node(self._client, key)
            newest: Any = at.xinfo_stream(key)["last-generated-id"]
            if streams.parse_id(newest.decode()) >= streams.parse_id(archived):
                continue
            groups: Any = at.xinfo_groups(key)
            if all(group["last-delivered-id"] == b"0-0" for group in groups if group["name"] == b"archive"):
                del positions[partition]
            else:
                at.execute_command("XSETID", key, archived)  # type: ignore[no-untyped-call]
        if positions != self.state.positions:
            self.state = msgspec.structs.replace(self.state, positions=positions)
            replace(self._folder / STATE, msgspec.json.encode(self.state))

    def _take_back(self) -> None:
        """Read again what was delivered and not acknowledged: what is archived is acknowledged, the rest waits."""
        after: Positions = dict.fromkeys(map(keys.events, range(self._partitions)), "0")
        while after:
            found = self._deliver(after, None)
            after = {key: entries[-1][0].decode() for key, entries in found if entries}
            self._take(found)

    def _deliver(self, wanted: Positions, block_ms: int | None) -> list[Any]:
        if len(nodes(self._client)) == 1:
            found: Any = self._client.xreadgroup(streams.ARCHIVE, CONSUMER, wanted, count=READ_ENTRIES, block=block_ms)
            return list(found)
        # Of a cluster no command may name the streams of several slots.
        pipe = self._client.pipeline(transaction=False)
        for key, after in wanted.items():
            pipe.xreadgroup(streams.ARCHIVE, CONSUMER, {key: after}, count=READ_ENTRIES)
        each = [stream for reply in pipe.execute() for stream in reply or ()]
        if block_ms and not each:
            time.sleep(min(block_ms / 1000, LONGEST_SLEEP_S))
        return each

    def _take(self, found: Iterable[Any]) -> int:
        known, before = [], self.rows
        partitions = {keys.events(partition): partition for partition in range(self._partitions)}
        for key, entries in found:
            partition = partitions[key]
            last = streams.parse_id(self.state.positions.get(partition, "0-0"))
            for raw, fields in entries:
                entry = raw.decode()
                if streams.parse_id(entry) <= last:
                    known.append((partition, entry))
                elif fields:
                    self.waiting.append(_apart(partition, entry, fields.values()))
                    self.rows += len(fields)
        self._acknowledge(known)
        return self.rows - before

    def _acknowledge(self, entries: Sequence[tuple[int, str]]) -> None:
        by_partition: dict[int, list[str]] = defaultdict(list)
        for partition, entry in entries:
            by_partition[partition].append(entry)
        pipe = self._client.pipeline(transaction=False)
        for partition, ids in by_partition.items():
            pipe.xack(keys.events(partition), streams.ARCHIVE, *ids)
        pipe.execute()
        for partition in by_partition:
            streams.trim(node(self._client, keys.events(partition)), partition)


@contextmanager
def opened(folder: Path, client: redis.Redis, partitions: int, forgotten: Container[Uid] = ()) -> Iterator[Archive]:
    """The archive in a folder, which is made when absent; nobody else may write there as long as the block lasts.

    Raises AnotherArchiver.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherArchiver(folder) from None
        yield Archive(folder, client, partitions, forgotten)


def recovered(folder: Path) -> State:
    """What is archived, once what a dead archiver began is finished or thrown away. Raises CorruptRecord."""
    try:
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=State)
    except FileNotFoundError:
        state = State()
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"{folder / STATE} cannot be read: {error}; restore it, or archive elsewhere") from None
    finish(folder, state.moves)
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    return state


def positions(folder: Path) -> dict[int, str]:
    """{partition: id of its last archived entry}, beside an archiver that may be running; {} for no archive."""
    try:
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=State)
    except FileNotFoundError:
        return {}
    if any(not (folder / place).exists() for _, place in state.moves):
        return {}  # its last files are about to be in their places
    return state.positions


def _apart(partition: int, entry: str, records: Iterable[bytes]) -> Entry:
    apart = Entry(partition, entry, [], [])
    for place, record in enumerate(records):
        try:
            apart.came.append(Came(_event(record), entry, place))
        except BadEvents as why:
            apart.broken.append(Broken(record, str(why), entry, place))
    return apart


def _event(record: bytes) -> Behaviour:
    """An event that the columns can hold; raises BadEvents."""
    event = events.decode_behaviour(record)
    incoming.persons(event)
    if len(event.uid) != len(NO_UID) or not 0 <= event.time_us < MAX_TIME_US:
        raise BadEvents("no pseudonym of 16 bytes, or no time between 1970 and 2255")
    if any(not -(2**63) <= getattr(event, name) < 2**63 for name in _WHOLE[type(event)]):
        raise BadEvents("a number beyond 64 bits with a sign")
    return event


def staged(
    folder: Path, batch: int, came: Iterable[Came], broken: Sequence[Broken] = ()
) -> tuple[tuple[str, str], ...]:
    """Write a batch's files to the staging folder; returns the moves that bring them to their places."""
    places: dict[tuple[type, int], list[Came]] = defaultdict(list)
    for one in came:
        places[type(one.event), one.event.time_us // HOUR_US].append(one)
    staging = folder / STAGING / f"{batch:06}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    moves = []
    for number, ((kind, hour), rows) in enumerate(
        sorted(places.items(), key=lambda item: (item[0][1], str(item[0][0])))
    ):
        part = staging / f"{number}.parquet.part"
        pq.write_table(table(kind, rows), part, compression="zstd")
        sync(part)
        when = datetime.fromtimestamp(hour * 3600, UTC)
        place = f"kind={events.kind_of(kind)}/date={when:%Y-%m-%d}/hour={when:%H}/{batch:06}-{number}.parquet"
        moves.append((str(part.relative_to(folder)), place))
    if broken:
        part = staging / "quarantine.part"
        pq.write_table(pa.Table.from_pylist([one._asdict() for one in broken], _BROKEN), part, compression="zstd")
        sync(part)
        moves.append((str(part.relative_to(folder)), f"{QUARANTINE}/{batch:06}.rows"))
    sync(staging)
    return tuple(moves)


def finish(folder: Path, moves: Iterable[tuple[str, str]]) -> None:
    """Rename a batch's files into their places, those that are not there yet."""
    for part, place in moves:
        target = folder / place
        if (folder / part).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / part).replace(target)
            sync(target.parent)


def table(kind: type, rows: Sequence[Came]) -> pa.Table:
    """Events of one kind as Arrow, a column per field, and their positions."""
    columns = {
        field.name: pa.array([getattr(row.event, field.name) for row in rows], arrow(field.type))
        for field in msgspec.structs.fields(kind)
    }
    columns["uid"] = columns["uid"].cast(pa.binary(16))
    columns["entry"] = pa.array([row.entry for row in rows], pa.string())
    columns["place"] = pa.array([row.place for row in rows], pa.int32())
    return pa.table({"kind": pa.array([events.kind_of(kind)] * len(rows)), **columns})


def arrow(kind: Any) -> pa.DataType:
    """The column type of a field's type.

    >>> arrow(float | None), arrow(int)
    (DataType(double), DataType(int64))
    """
    if kind in _ARROW:
        return _ARROW[kind]
    inner = [member for member in get_args(kind) if member is not type(None)]
    return pa.float64() if inner == [float] else pa.string()  # else a Literal of texts


def replace(path: Path, data: bytes) -> None:
    """Make a file hold `data`, on disk, or leave it as it was."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(data)
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
