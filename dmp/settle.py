"""What the stream could not count exactly is settled from the archive: `tagbid dmp stream settle`, every night.

The users of the records in `late:{e<p>}` get the record that the batch computes from all of their archived events,
the late ones included. That is safe beside running consumers. The user's record is read first; then L, the last entry
delivered in the partition, and that none up to L is pending: all events up to L are applied. The archive must have
come to L. What the batch computes from the archive up to L is put by the script a consumer uses, only if the record is
still the one that was read: then nothing of this user was applied since, so that it held exactly the events up to L.
Else the user waits for the next time.
"""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import redis

from dmp import archive, events, keys, marks, optout, realtime, realtime_batch, streams
from dmp.acts import Understanding
from dmp.errors import BadEvents, CorruptRecord, DmpError
from dmp.schema import Uid
from dmp.stream import SCRIPT


class Settled(msgspec.Struct, frozen=True):
    """users: whose record is exact again. records: of theirs, waiting no more. waiting: users left for another time."""

    users: int
    records: int
    waiting: int


class _Case(NamedTuple):
    """A user to settle: ids of their records in the late stream."""

    uid: Uid
    ids: list[bytes]


def settle(client: redis.Redis, folder: Path, partitions: int, understand: Understanding, lateness_s: int) -> Settled:
    """Settle every user who can be settled now. folder: the archive. Raises DmpError when there is none."""
    if not (folder / archive.STATE).exists():
        raise DmpError(f"{folder}: no archive there; `tagbid dmp archive` makes it, --from says where it is")
    users = records = waiting = 0
    for partition in range(partitions):
        cases = _cases(client, partition)
        if not cases:
            continue
        before = _read(client, [case.uid for case in cases])
        upto = _applied(client, partition)
        reached = archive.positions(folder).get(partition, "0-0")
        if upto is None or streams.parse_id(reached) < streams.parse_id(upto):
            waiting += len(cases)
            continue
        rows = realtime_batch.read(folder, {case.uid for case in cases}, {partition: upto}, partitions)
        for case in cases:
            acts = realtime_batch.counted(rows.get(case.uid, ()), understand, lateness_s, late_too=True)
            if not _put(client, case.uid, before[case.uid], realtime_batch.record(acts), lateness_s):
                waiting += 1
                continue
            records += int(client.xdel(keys.late_events(partition), *case.ids))
            users += 1
    return Settled(users, records, waiting)


def _cases(client: redis.Redis, partition: int) -> list[_Case]:
    found: dict[Uid, list[bytes]] = defaultdict(list)
    waiting: Any = client.xrange(keys.late_events(partition))
    for name, fields in waiting:
        try:
            found[events.decode_behaviour(fields[b"record"]).uid].append(name)
        except BadEvents:
            continue  # of a later release, which will know it
    return [_Case(uid, ids) for uid, ids in found.items()]


def _applied(client: redis.Redis, partition: int) -> str | None:
    """Up to where every entry is in the records; None while some are on their way."""
    infos: Any = client.xinfo_groups(keys.events(partition))
    for info in infos:
        if info["name"].decode() == streams.TAGS:
            delivered: str = info["last-delivered-id"].decode()
            pending: Any = client.xpending(keys.events(partition), streams.TAGS)
            if not pending["pending"] or streams.parse_id(pending["min"].decode()) > streams.parse_id(delivered):
                return delivered
    return None


def _read(client: redis.Redis, uids: list[Uid]) -> Mapping[Uid, list[bytes | None]]:
    pipe = client.pipeline(transaction=False)
    for uid in uids:
        pipe.mget(keys.stream_keys(uid))
    return dict(zip(uids, pipe.execute(), strict=True))


def _put(
    client: redis.Redis, uid: Uid, before: list[bytes | None], parts: realtime.Parts | None, lateness_s: int
) -> bool:
    """Put a record in the place of the one that was read; False when that one is there no more. None: no change.

    A broken one is mended by that; what a later release wrote waits for it.
    """
    held, _, audiences = before
    try:
        if parts is None or (audiences is not None and optout.marks_in(audiences)):
            return True
    except CorruptRecord:  # may be a refusal
        return False
    try:
        raised = realtime.parts(realtime.decode(held)).raised if held is not None else {}
    except CorruptRecord:
        if held is not None and held[:1] > bytes((realtime.VERSION,)):
            return False
        raised = {}
    data = realtime.encode(msgspec.structs.replace(parts, nonce=os.urandom(8), raised=raised))
    return bool(
        client.eval(
            SCRIPT, 3, *keys.stream_keys(uid),
            b"" if held is None else held[8:16], audiences or b"", data, parts.newest_us // 1_000_000 + realtime.IDLE_S,
            b"", "APPEND", marks.life_s(lateness_s) + marks.REDELIVERY_S,
        )
    )  # fmt: skip
