"""The event stream: behaviour on its way to the real-time tags and to the archive.

`events:{e<p>}` is a Redis stream per partition; a user's events are all in one of them. An entry holds one or more
records (`dmp.events`) in fields named 0, 1, 2 ..., so that a batch costs the store one command a partition. The id of
an entry tells when the store took it: together with the field that is the event's position, and whether an event was
late is decided by it, never by when somebody came to read it.

Two consumer groups read every partition: TAGS makes real-time tags, ARCHIVE writes Parquet. An entry is trimmed when
both have acknowledged it.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import redis

from dmp import events, keys
from dmp.events import CONSENT_PROFILE, Behaviour
from dmp.schema import NO_UID

TAGS, ARCHIVE = "tags", "archive"
GROUPS = (TAGS, ARCHIVE)
SKEW_US = 300_000_000  # how far a sender's clock may be ahead of ours
MAX_ENTRY_RECORDS = 256  # what a consumer takes at a time at the least
_FIELDS = tuple(b"%d" % place for place in range(MAX_ENTRY_RECORDS))


class Appended(msgspec.Struct, frozen=True):
    """What the store acknowledged. events: all that were given. clamped: of these, dated too far in the future."""

    events: int
    clamped: int


def clamp(event: Behaviour, now_us: int) -> Behaviour:
    """The event with a time at most SKEW_US after `now_us` (our clock): that is what is kept of it, for good.

    A clock that is behind cannot be told from an event that took its time: `dmp.stream.lateness_s` is for both.
    """
    latest_us = now_us + SKEW_US
    return event if event.time_us <= latest_us else msgspec.structs.replace(event, time_us=latest_us)


def commands(happened: Iterable[Behaviour], partitions: int) -> Iterator[list[bytes]]:
    """The XADD commands that append these events, clamped before, at most one a partition and MAX_ENTRY_RECORDS."""
    by_partition: dict[int, list[bytes]] = defaultdict(list)
    for event in happened:
        # Of events without a user each goes its own way, or one partition would have them all.
        nobodys = event.uid == NO_UID and not event.consent & CONSENT_PROFILE
        uid = zlib.crc32(event.event_id.encode()).to_bytes(8, "big") if nobodys else event.uid
        by_partition[keys.event_partition(uid, partitions)].append(events.encode(event))
    for partition, records in by_partition.items():
        for start in range(0, len(records), MAX_ENTRY_RECORDS):
            command = [b"XADD", keys.events(partition), b"*"]
            for field_and_record in zip(_FIELDS, records[start : start + MAX_ENTRY_RECORDS], strict=False):
                command += field_and_record
            yield command


def append_events(client: redis.Redis, happened: Iterable[Behaviour], partitions: int, now_us: int) -> Appended:
    """Append events; when this returns, the store has acknowledged every one of them.

    Raises redis.exceptions.RedisError when it has not: some may be there, and may be sent again under the same ids.
    """
    given = list(happened)
    clamped = [clamp(event, now_us) for event in given]
    pipe = client.pipeline(transaction=False)
    for command in commands(clamped, partitions):
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
    pipe.execute()
    return Appended(len(given), sum(a is not b for a, b in zip(given, clamped, strict=True)))


def ensure_groups(client: redis.Redis, partitions: int) -> None:
    """Make the consumer groups of every partition, from the first entry on; what is there stays."""
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        for group in GROUPS:
            pipe.xgroup_create(keys.events(partition), group, id="0", mkstream=True)
    for answer in pipe.execute(raise_on_error=False):
        if isinstance(answer, redis.exceptions.RedisError) and not str(answer).startswith("BUSYGROUP"):
            raise answer


def trim(client: redis.Redis, partition: int, groups: Iterable[str] = GROUPS) -> int:
    """Drop the entries that every group has acknowledged; returns how many. Without one of the groups: none.

    Whole nodes of the stream go (some hundred entries each), so a few acknowledged ones may stay.
    """
    key = keys.events(partition)
    position = {info["name"].decode(): info["last-delivered-id"].decode() for info in client.xinfo_groups(key)}
    firsts = []
    for group in groups:
        if group not in position:
            return 0
        pending = client.xpending(key, group)
        # What is delivered and not acknowledged must stay; without any, all that was delivered may go.
        firsts.append(pending["min"].decode() if pending["pending"] else _after(position[group]))
    return int(client.xtrim(key, minid=min(firsts, key=parse_id), approximate=True))


def parse_id(entry: str) -> tuple[int, int]:
    """(milliseconds, sequence) of an entry id.

    >>> parse_id("1700000000000-3")
    (1700000000000, 3)
    """
    ms, _, sequence = entry.partition("-")
    return int(ms), int(sequence)


def _after(entry: str) -> str:
    ms, sequence = parse_id(entry)
    return f"{ms}-{sequence + 1}"


class Lag(msgspec.Struct, frozen=True):
    """How far a group is behind in a partition.

    waiting: entries not delivered yet, MOST_COUNTED at most on stores that do not count them themselves (before 7.0).
    pending: delivered and not acknowledged. behind_ms: age of the oldest of both, 0 when there are none. late: users
    who wait for the nightly batch. length: entries the partition holds.
    """

    partition: int
    waiting: int
    pending: int
    behind_ms: int
    late: int
    length: int


MOST_COUNTED = 10_000


def lag(client: redis.Redis, partition: int, now_ms: int, group: str = TAGS) -> Lag:
    """now_ms: our clock, unix milliseconds."""
    key = keys.events(partition)
    length, late = int(client.xlen(key)), int(client.zcard(keys.unsettled(partition)))
    try:
        groups = {info["name"].decode(): info for info in client.xinfo_groups(key)}
    except redis.exceptions.ResponseError:  # nothing was ever appended, and no consumer came by
        groups = {}
    info = groups.get(group)
    last = "0-0" if info is None else info["last-delivered-id"].decode()
    following: Any = client.xrange(key, min=f"({last}", count=1)
    oldest = [entry.decode() for entry, _ in following]
    waiting = info.get("lag") if info is not None else None
    if waiting is None:
        undelivered: Any = client.xrange(key, min=f"({last}", count=MOST_COUNTED)
        waiting = len(undelivered)
    pending: Any = client.xpending(key, group) if info is not None else {"pending": 0}
    if pending["pending"]:
        oldest.append(pending["min"].decode())
    behind_ms = max(0, now_ms - min(parse_id(entry)[0] for entry in oldest)) if oldest else 0
    return Lag(partition, int(waiting), int(pending["pending"]), behind_ms, late, length)
