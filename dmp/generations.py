"""Generations in the store: publish tags beside the live ones, validate, flip one pointer, flip it back.

How two banks make that safe is told in `dmp.keys`. What a publisher must add: a record of an abandoned build
(crashed, or rolled back) carries a generation above the live one and would come to life with the next flip, so
the next build overwrites every such record, with a tombstone where the user has no tags now.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import redis

from dmp import clustered, codec, keys
from dmp.errors import DmpError
from dmp.grouped import Grouped
from dmp.schema import Uid

CHUNK_USERS = 1_000  # one pipelined round trip; about 1 MB at 100 tags a user
SAMPLE_USERS = 256

TAG_COLUMNS = pa.schema(
    [
        ("uid", pa.binary(16)),
        ("tag", pa.uint32()),
        ("score", pa.uint8()),
        ("as_of_day", pa.uint16()),
        ("source", pa.uint8()),
    ]
)
"""Columns of a generation's `tags.parquet`: one row a user and tag."""


class GenerationRefused(DmpError):
    """A build that does not look like what was asked for; the live generation stays."""


class Published(msgspec.Struct, frozen=True):
    """What publishing did, in users: written, unchanged (time to live renewed), gone (tombstones written)."""

    written: int
    unchanged: int
    gone: int


Row = tuple[Uid, int, bytes]
"""A user's record without its 8-byte head: uid, number of tags, tag columns and vector (see `dmp.codec`)."""

Banks = Sequence[bytes | None]
NO_VECTORS: Mapping[Uid, bytes] = MappingProxyType({})


def bodies(tags: Grouped, vectors: Mapping[Uid, bytes] = NO_VECTORS) -> Iterator[Row]:
    """The record of each user, in order of uid; tags of a user in order of id. vectors: packed, of who has one."""
    tag, day = tags.tag.astype("<u4", copy=False).tobytes(), tags.as_of_day.astype("<u2", copy=False).tobytes()
    score, source = tags.score.tobytes(), tags.source.tobytes()
    start = 0
    for user, end in enumerate(tags.starts[1:].tolist()):
        uid = tags.uid(user)
        body = tag[4 * start : 4 * end] + score[start:end] + day[2 * start : 2 * end] + source[start:end]
        yield uid, end - start, (body + vectors[uid] if uid in vectors else body)
        start = end


def publish(
    client: redis.Redis,
    tags: Grouped,
    generation: int,
    live: int,
    others: Sequence[Uid] = (),
    ttl_s: int = keys.PROFILE_TTL_S,
    vectors: Mapping[Uid, bytes] = NO_VECTORS,
    progress: Callable[[int], None] = lambda users: None,
) -> Published:
    """Write a generation beside the live one; nothing is visible before the pointer flips to it.

    others: users who may hold records (of the live or an abandoned generation) and have no tags now. vectors: see
    `bodies`. Writing again after a crash, under the same or a higher number, is safe.
    """
    here = {tags.uid(user) for user in range(tags.users)} if others else set()
    rows = chain(bodies(tags, vectors), ((uid, 0, b"") for uid in others if uid not in here))
    # Of a store without any profile nothing has to be read first.
    blank = not live and not others and next(client.scan_iter(match=keys.ALL_PROFILES, count=10_000), None) is None
    write = _Writer(generation, live, ttl_s)
    with _wires(client) as wire_of:
        # Replies to come on a wire: to so many writes, or to the reads of a chunk.
        inbox: deque[tuple[redis.Connection, int | _Chunk]] = deque()

        def settle() -> None:
            """Take replies up to those of the oldest reads, and write what they call for."""
            while inbox:
                wire, waiting = inbox.popleft()
                if isinstance(waiting, int):
                    for _ in range(waiting):
                        wire.read_response()
                    continue
                banks = [_NOTHING] * len(waiting.rows) if blank else [wire.read_response() for _ in waiting.rows]
                commands = list(chain.from_iterable(map(write.commands, waiting.rows, waiting.keys, banks)))
                _send(wire, commands)
                inbox.append((wire, len(commands)))
                progress(len(waiting.rows))
                return

        # The store works on the reads of the next chunk and the writes of the last one while we work on this one.
        while chunk := list(islice(rows, CHUNK_USERS)):
            for wire, asked in _by_wire(chunk, wire_of):
                if not blank:
                    _send(wire, map(_READ.__mod__, asked.keys))
                inbox.append((wire, asked))
                if len(inbox) > 2:
                    settle()
        while inbox:
            settle()
    return Published(write.written, write.unchanged, write.gone)


class _Chunk(NamedTuple):
    """Users whose banks are being read; keys: of both banks of each."""

    rows: list[Row]
    keys: list[tuple[bytes, bytes]]


class _Writer:
    """Commands that bring users to a generation; counts what became of them."""

    def __init__(self, generation: int, live: int, ttl_s: int) -> None:
        self._generation, self._live = generation, live
        ttl = b"$%d\r\n%d\r\n" % (len(str(ttl_s)), ttl_s)
        self._renew = b"*3\r\n$6\r\nEXPIRE\r\n" + _KEY + ttl
        self._drop = b"*2\r\n$3\r\nDEL\r\n" + _KEY
        self._set = b"*5\r\n$3\r\nSET\r\n" + _KEY + b"$%d\r\n%b%b\r\n$2\r\nEX\r\n" + ttl
        self.written = self.unchanged = self.gone = 0

    def commands(self, row: Row, pair: tuple[bytes, bytes], banks: Banks) -> list[bytes]:
        """For one user: keys and contents of both banks."""
        _, n, body = row
        head = codec.profile_head(self._generation, n, len(body) > 8 * n)
        found = []
        seen, holder, abandoned = None, 0, False
        if banks[0] is not None or banks[1] is not None:
            seen = codec.visible(banks[0], banks[1], self._live)
            abandoned = any(bank is not None and codec.generation_of(bank) > self._live for bank in banks)
            holder = 1 if seen is not None and seen is banks[1] else 0
        same = not body if seen is None else seen[:4] == head[:4] and seen[8:] == body
        if same and not abandoned:
            self.unchanged += 1
            return [] if seen is None else [self._renew % pair[holder]]
        if seen is not None:  # before the new record, which must not expire first and bring the old one back
            found.append(self._renew % pair[holder])
        elif abandoned:
            found.append(self._drop % pair[1])
        key = pair[1 - holder if seen is not None else 0]
        found.append(self._set % (key, len(head) + len(body), head, body))
        self.written += bool(body)
        self.gone += not body
        return found


_KEY = b"$%d\r\n%%b\r\n" % len(keys.profile(bytes(16), 0))
_READ = b"*3\r\n$4\r\nMGET\r\n" + _KEY + _KEY
_NOTHING: Banks = (None, None)


WireOf = Callable[[bytes], "redis.Connection"]
"""The connection to the server that has a key."""


def _by_wire(chunk: list[Row], wire_of: WireOf) -> "Iterator[tuple[redis.Connection, _Chunk]]":
    """The users of a chunk by the server that has them; all together where there is one server."""
    pairs = keys.profile_pairs([uid for uid, _, _ in chunk])
    parts: dict[redis.Connection, _Chunk] = {}
    for row, pair in zip(chunk, pairs, strict=True):
        part = parts.setdefault(wire_of(pair[0]), _Chunk([], []))
        part.rows.append(row)
        part.keys.append(pair)
    yield from parts.items()


@contextmanager
def _wires(client: redis.Redis) -> Iterator[WireOf]:
    """One connection to each server for pipelined commands; dropped when replies are left on them.

    A slot that moves to another server meanwhile fails the build, which is safe to repeat.
    """
    taken: dict[int, tuple[redis.ConnectionPool, redis.Connection]] = {}

    def wire_of(key: bytes) -> redis.Connection:
        pool = clustered.node(client, key).connection_pool
        if id(pool) not in taken:
            taken[id(pool)] = pool, pool.get_connection()
        return taken[id(pool)][1]

    try:
        yield wire_of
    except BaseException:
        for _, connection in taken.values():
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        raise
    finally:
        for pool, connection in taken.values():
            pool.release(connection)


def _send(wire: "redis.Connection", commands: Iterable[bytes]) -> None:
    wire.send_packed_command([b"".join(commands)])  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


def holders(client: redis.Redis) -> set[Uid]:
    """Every user with a profile record in the store, found by a scan; about a second per million keys."""
    return {keys.uid_of(key) for key in client.scan_iter(match=keys.ALL_PROFILES, count=10_000)}


def verify(
    client: redis.Redis,
    tags: Grouped,
    generation: int,
    others: Sequence[Uid] = (),
    vectors: Mapping[Uid, bytes] = NO_VECTORS,
    seed: int = 0,
) -> None:
    """Read a sample back as a reader of `generation` would; raises GenerationRefused on any difference.

    tags, others, vectors: as they were published.
    """
    rng = np.random.default_rng(seed)
    picked = rng.choice(tags.users, min(SAMPLE_USERS, tags.users), replace=False)
    expected = {uid: body for uid, _, body in bodies(tags.some(np.sort(picked)), vectors)}
    asked = others[:: len(others) // SAMPLE_USERS + 1]
    expected |= {uid: b"" for uid in asked if not tags.has(uid)}
    pipe = client.pipeline(transaction=False)
    for uid in expected:
        pipe.mget(keys.profile(uid, 0), keys.profile(uid, 1))
    for (uid, body), banks in zip(expected.items(), pipe.execute(), strict=True):
        seen = codec.visible(banks[0], banks[1], generation)
        if (b"" if seen is None else seen[8:]) != body:
            raise GenerationRefused(
                f"generation {generation} reads back differently for user {keys.text(uid).decode()}; "
                f"another build may be running on this store: stop it and build again"
            )


def drift(before: pa.Table | None, now: pa.Table) -> float:
    """Half the summed change of each tag's share of all tag rows, 0 (same histogram) to 1 (nothing in common).

    Total variation distance; 0 when there is nothing to compare with.
    """
    if before is None or not len(before) or not len(now):
        return 0.0
    shares: list[dict[int, float]] = []
    for table in (before, now):
        counts = table["tag"].value_counts()
        shares.append({entry["values"].as_py(): entry["counts"].as_py() / len(table) for entry in counts})
    return sum(abs(shares[0].get(tag, 0.0) - shares[1].get(tag, 0.0)) for tag in {*shares[0], *shares[1]}) / 2
