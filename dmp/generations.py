"""Generations in the store: publish tags beside the live ones, validate, flip one pointer, flip it back.

How two banks make that safe is told in `dmp.keys`. What a publisher must add: a record of an abandoned build
(crashed, or rolled back) carries a generation above the live one and would come to life with the next flip, so
the next build overwrites every such record, with a tombstone where the user has no tags now.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import redis

from dmp import codec, keys
from dmp.errors import DmpError
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


def bodies(tags: pa.Table) -> Iterator[tuple[Uid, bytes]]:
    """(uid, profile record without its 8-byte head) per user, in order of uid; tags of a user in order of id."""
    order = pc.sort_indices(tags, sort_keys=[("uid", "ascending"), ("tag", "ascending")])
    tags = tags.take(order)
    n = len(tags)
    uid_column = tags["uid"].combine_chunks()
    uids = memoryview(uid_column.buffers()[1])[16 * uid_column.offset :] if n else memoryview(b"")
    halves = np.frombuffer(uids, dtype=np.uint64, count=2 * n).reshape(n, 2)  # compared as two numbers, not as objects
    columns: list[tuple[npt.NDArray[np.unsignedinteger], int]] = [
        (tags["tag"].to_numpy().astype("<u4"), 4),
        (tags["score"].to_numpy().astype("u1"), 1),
        (tags["as_of_day"].to_numpy().astype("<u2"), 2),
        (tags["source"].to_numpy().astype("u1"), 1),
    ]
    packed = [(memoryview(column.tobytes()), width) for column, width in columns]
    starts = np.flatnonzero(np.concatenate(([True], (halves[1:] != halves[:-1]).any(axis=1)))) if n else np.arange(0)
    ends = np.append(starts[1:], n)[: len(starts)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        uid = bytes(uids[16 * start : 16 * start + 16])
        yield uid, b"".join(column[start * width : end * width] for column, width in packed)


def publish(
    client: redis.Redis,
    tags: pa.Table,
    generation: int,
    live: int,
    others: Sequence[Uid] = (),
    ttl_s: int = keys.PROFILE_TTL_S,
    progress: Callable[[int], None] = lambda users: None,
) -> Published:
    """Write a generation beside the live one; nothing is visible before the pointer flips to it.

    tags: `TAG_COLUMNS`. others: users who may hold records (of the live or an abandoned generation) and have no
    tags now. Writing again after a crash, under the same or a higher number, is safe.
    """
    written = unchanged = gone = 0
    here = set()

    def rows() -> Iterator[tuple[Uid, bytes]]:
        for uid, body in bodies(tags):
            here.add(uid)
            yield uid, body
        yield from ((uid, b"") for uid in others if uid not in here)

    chunk: list[tuple[Uid, bytes]] = []

    def flush() -> None:
        nonlocal written, unchanged, gone
        pipe = client.pipeline(transaction=False)
        for uid, _ in chunk:
            pipe.mget(keys.profile(uid, 0), keys.profile(uid, 1))
        for (uid, body), banks in zip(chunk, pipe.execute(), strict=True):
            seen = codec.visible(banks[0], banks[1], live)
            abandoned = any(bank is not None and codec.generation_of(bank) > live for bank in banks)
            holder = 1 if seen is not None and seen is banks[1] else 0
            if not abandoned and (seen[8:] if seen is not None else b"") == body:
                unchanged += 1
                if seen is not None:
                    pipe.expire(keys.profile(uid, holder), ttl_s)
                continue
            bank = 1 - holder if seen is not None else 0
            if seen is not None:  # before the new record, which must not expire first and bring the old one back
                pipe.expire(keys.profile(uid, holder), ttl_s)
            elif abandoned:
                pipe.delete(keys.profile(uid, 1))
            pipe.set(keys.profile(uid, bank), codec.profile_head(generation, len(body) // 8) + body, ex=ttl_s)
            written += bool(body)
            gone += not body
        pipe.execute()
        progress(len(chunk))
        chunk.clear()

    for row in rows():
        chunk.append(row)
        if len(chunk) == CHUNK_USERS:
            flush()
    if chunk:
        flush()
    return Published(written, unchanged, gone)


def holders(client: redis.Redis) -> set[Uid]:
    """Every user with a profile record in the store, found by a scan; about a second per million keys."""
    return {keys.uid_of(key) for key in client.scan_iter(match=keys.ALL_PROFILES, count=10_000)}


def verify(client: redis.Redis, tags: pa.Table, generation: int, others: Sequence[Uid] = (), seed: int = 0) -> None:
    """Read a sample back as a reader of `generation` would; raises GenerationRefused on any difference.

    tags, others: as they were published.
    """
    users = pc.unique(tags["uid"])
    rng = np.random.default_rng(seed)
    picked = users.take(pa.array(rng.choice(len(users), min(SAMPLE_USERS, len(users)), replace=False)))
    expected = dict(bodies(tags.filter(pc.is_in(tags["uid"], value_set=picked))))
    asked = pa.array(others[:: len(others) // SAMPLE_USERS + 1], pa.binary(16))
    gone = asked.filter(pc.invert(pc.is_in(asked, value_set=users)))
    expected |= dict.fromkeys(gone.to_pylist(), b"")
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
