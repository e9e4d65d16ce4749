"""What the stream could not count exactly is settled from the archive: `tagbid dmp stream settle`, every night.

The users who were put aside (`dmp.unsettled`) get the record that the batch computes from all of their archived events,
late ones included. That is safe beside running consumers. The user's record is read first; then L, the last entry
delivered in the partition, and that none up to L is pending: all events up to L are applied. The archive must have
come to L. What the batch computes from the archive up to L is put by the script a consumer uses, only if the record is
still the one that was read: then nothing of this user was applied since, so that it held exactly the events up to L.
Else the user waits for the next time.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis

from dmp import archive, keys, marks, optout, realtime, realtime_batch, streams, unsettled
from dmp.acts import Act, Understanding
from dmp.clustered import node
from dmp.errors import CorruptRecord, DmpError
from dmp.schema import Uid
from dmp.stream import SCRIPT
from dmp.unsettled import EVERYBODY

CHUNK_USERS = 20_000  # whose archived events are held at a time


class Settled(msgspec.Struct, frozen=True):
    """users: whose record is exact again. waiting: users left for another time."""

    users: int
    waiting: int


Progress = Callable[[int, int], None]
"""(users looked at, users there are)."""


def settle(
    client: redis.Redis,
    folder: Path,
    partitions: int,
    understand: Understanding,
    lateness_s: int,
    progress: Progress = lambda done, total: None,
) -> Settled:
    """Settle every user who can be settled now. folder: the archive. Raises DmpError when there is none."""
    if not (folder / archive.STATE).exists():
        raise DmpError(f"{folder}: no archive there; `tagbid dmp archive` makes it, --from says where it is")
    work = {partition: unsettled.waiting(client, partition) for partition in range(partitions)}
    found = {partition: _users(folder, partition, partitions, waiting) for partition, waiting in work.items()}
    total, done, users = sum(map(len, found.values())), 0, 0
    for partition, uids in found.items():
        settled_all = True
        for start in range(0, len(uids), CHUNK_USERS):
            chunk = uids[start : start + CHUNK_USERS]
            settled = _settle(client, folder, partition, partitions, chunk, understand, lateness_s)
            for uid in settled:
                unsettled.done(client, partition, uid, work[partition].get(uid, 0))
            users += len(settled)
            settled_all &= len(settled) == len(chunk)
            progress(done := done + len(chunk), total)
        if settled_all and EVERYBODY in work[partition]:
            unsettled.done(client, partition, EVERYBODY, work[partition][EVERYBODY])
    return Settled(users, total - users)


def _users(folder: Path, partition: int, partitions: int, waiting: Mapping[Uid, int]) -> list[Uid]:
    """Whom to settle: those who were put aside, or everybody of the partition when some found no room there."""
    if EVERYBODY not in waiting:
        return sorted(waiting)
    everybody = {uid for uid in realtime_batch.users(folder) if keys.event_partition(uid, partitions) == partition}
    return sorted((everybody | waiting.keys()) - {EVERYBODY})


def _settle(
    client: redis.Redis,
    folder: Path,
    partition: int,
    partitions: int,
    uids: list[Uid],
    understand: Understanding,
    lateness_s: int,
) -> list[Uid]:
    """Those of a partition's users whose record is exact now."""
    before = _read(client, uids)
    upto = _applied(client, partition)
    reached = archive.positions(folder).get(partition, "0-0")
    if upto is None or streams.parse_id(reached) < streams.parse_id(upto):
        return []
    rows = realtime_batch.read(folder, set(uids), {partition: upto}, partitions)
    settled = []
    for uid in uids:
        acts = realtime_batch.counted(rows.get(uid, ()), understand, lateness_s, late_too=True)
        if _put(client, uid, before[uid], acts, lateness_s):
            settled.append(uid)
    return settled


def _applied(client: redis.Redis, partition: int) -> str | None:
    """Up to where every entry is in the records; None while some are on their way."""
    at = node(client, keys.events(partition))
    infos: Any = at.xinfo_groups(keys.events(partition))
    for info in infos:
        if info["name"].decode() == streams.TAGS:
            delivered: str = info["last-delivered-id"].decode()
            pending: Any = at.xpending(keys.events(partition), streams.TAGS)
            if not pending["pending"] or streams.parse_id(pending["min"].decode()) > streams.parse_id(delivered):
                return delivered
    return None


def _read(client: redis.Redis, uids: list[Uid]) -> Mapping[Uid, list[bytes | None]]:
    pipe = client.pipeline(transaction=False)
    for uid in uids:
        pipe.mget(keys.stream_keys(uid))
    return dict(zip(uids, pipe.execute(), strict=True))


def _put(client: redis.Redis, uid: Uid, before: list[bytes | None], acts: Sequence[Act], lateness_s: int) -> bool:
    """Put the record of these acts in the place of the one that was read; False when that one is there no more.

    What rules know is kept. A broken record is mended by that; what a later release wrote waits for it.
    """
    held, _, audiences = before
    try:
        if not acts or (audiences is not None and optout.marks_in(audiences)):
            return True
    except CorruptRecord:  # may be a refusal
        return False
    try:
        was = realtime.Parts() if held is None else realtime.parts(realtime.decode(held))
    except CorruptRecord:
        if held is not None and held[:1] > bytes((realtime.VERSION,)):
            return False
        was = realtime.Parts()
    parts = realtime_batch.record(acts, was.raised, was.moments)
    assert parts is not None  # noqa: S101 - there are acts
    data = realtime.encode(msgspec.structs.replace(parts, nonce=os.urandom(8)))
    return bool(
        client.eval(
            SCRIPT, 3, *keys.stream_keys(uid),
            b"" if held is None else held[8:16], audiences or b"", data, parts.newest_us // 1_000_000 + realtime.IDLE_S,
            b"", "APPEND", marks.life_s(lateness_s) + marks.REDELIVERY_S, b"", 0,
        )
    )  # fmt: skip
