"""Consumers killed with SIGKILL again and again while they work: every counter must be what the events say."""

import math
import multiprocessing
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec
import redis

from dmp import keys, realtime, realtime_batch, streams
from dmp.acts import Act, understanding
from dmp.config import DmpConfig
from dmp.consumer import work
from dmp.errors import TagbidError
from dmp.realtime import Parts
from dmp.schema import Uid
from dmp.store import Store
from loadtest.micro_stream_world import batches, happened, users, with_copies

APPEND = 2_000  # events handed over at a time
MEMBERS_AT_ONCE = 500
RELATIVE = 1e-9
PATIENCE_S = 120.0  # without any progress


class Crashes(msgspec.Struct, frozen=True):
    """events: different ones. copies: of these, sent again. kills: consumers killed. redelivered: events that were
    delivered to another consumer after a kill and found done. mismatches: users whose record differs from what the
    events say: tile counts and integer sums exactly, decayed sums within 1e-9.
    """

    events: int
    copies: int
    kills: int
    redelivered: int
    mismatches: int
    seconds: float


def crash_test(
    store: Store,
    config: DmpConfig,
    events: int,
    people: int,
    consumers: int = 4,
    kill_every_s: float = 1.0,
    most_kills: int | None = None,
    seed: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Crashes:
    """Append events while consumers work and die; compare every record in the end. The store must be empty before.

    kill_every_s: mean pause between two kills, most_kills in all.
    """
    began_s = time.monotonic()
    rng = random.Random(seed)
    client = store.sync(timeout_s=30.0)
    partitions = config.stream.partitions
    streams.ensure_groups(client, partitions)
    understand = understanding({})
    truth: dict[Uid, list[Act]] = defaultdict(list)
    who = users(people, seed)
    now_us = time.time_ns() // 1000
    for event in happened(who, events, now_us, seed):
        act = understand(event)
        assert act is not None  # noqa: S101 - all of them have consent
        truth[event.uid].append(act)
    source = batches(with_copies(happened(who, events, now_us, seed), 0.02, seed), APPEND)
    pool = [_started(store, config) for _ in range(consumers)]
    sent = kills = done = 0
    next_kill_s, moved_s = time.monotonic() + kill_every_s, time.monotonic()
    sending = True
    try:
        while sending or done < sent or (most_kills is not None and kills < most_kills):
            batch = next(source, None)
            if batch is None:
                sending = False
                time.sleep(0.02)
            else:
                streams.append_events(client, batch, partitions, time.time_ns() // 1000)
                sent += len(batch)
            if time.monotonic() >= next_kill_s and kills != most_kills:
                next_kill_s = time.monotonic() + kill_every_s * rng.uniform(0.5, 1.5)
                victim = _victim(client, partitions, pool, rng)
                if victim is not None:
                    pool[victim].kill()
                    pool[victim].join()
                    pool[victim] = _started(store, config)
                    kills += 1
            told = _told(client, partitions)
            if told != done:
                done, moved_s = told, time.monotonic()
                progress(done)
            elif time.monotonic() - moved_s > PATIENCE_S:
                raise TagbidError(f"the consumers stand still at {done:,} of {sent:,} events")
    finally:
        for one in pool:
            one.kill()
        for one in pool:
            one.join()
    duplicates = _counted(client, partitions, "duplicates")
    copies = sent - events
    return Crashes(
        events=events,
        copies=copies,
        kills=kills,
        redelivered=max(0, duplicates - copies),
        mismatches=mismatches(client, truth),
        seconds=round(time.monotonic() - began_s, 1),
    )


def mismatches(client: redis.Redis, truth: Mapping[Uid, list[Act]]) -> int:
    """Users whose record in the store is not what their acts say."""
    wrong = 0
    uids = list(truth)
    for start in range(0, len(uids), MEMBERS_AT_ONCE):
        some = uids[start : start + MEMBERS_AT_ONCE]
        pipe = client.pipeline(transaction=False)
        for uid in some:
            pipe.get(keys.realtime(uid))
        for uid, data in zip(some, pipe.execute(), strict=True):
            expected = realtime_batch.record(truth[uid])
            found = None if data is None else realtime.parts(realtime.decode(data))
            wrong += not equal(found, expected)
    return wrong


def equal(found: Parts | None, expected: Parts | None) -> bool:
    """Counts and integer sums the same, decayed sums within 1e-9 of each other; raised tags and nonce aside."""
    if found is None or expected is None:
        return found is expected
    plain = msgspec.structs.replace(found, nonce=expected.nonce, raised=expected.raised, sums=expected.sums)
    return (
        plain == expected
        and found.sums.keys() == expected.sums.keys()
        and all(
            math.isclose(mine, theirs, rel_tol=RELATIVE, abs_tol=1e-100)
            for tag, sums in expected.sums.items()
            for mine, theirs in zip(found.sums[tag], sums, strict=True)
        )
    )


def _victim(client: redis.Redis, partitions: int, pool: list[BaseProcess], rng: random.Random) -> int | None:
    """A consumer that holds partitions: if possible one with entries in hand at this moment. None: all just started."""
    by_pid = {str(one.pid): number for number, one in enumerate(pool)}
    owners: list[int] = []
    for partition in rng.sample(range(partitions), partitions):
        owner: Any = client.get(keys.event_owner(partition))
        pid = "" if owner is None else owner.decode().split("-")[-2]
        if pid in by_pid:
            if client.xpending(keys.events(partition), streams.TAGS)["pending"]:
                return by_pid[pid]
            owners.append(by_pid[pid])
    return owners[0] if owners else None


def _started(store: Store, config: DmpConfig) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dmp.consumer"])  # a new consumer is at work in milliseconds, not after its imports
    process = context.Process(target=work, args=(store.url, config), daemon=True)
    process.start()
    return process


def _told(client: redis.Redis, partitions: int) -> int:
    """Events acknowledged so far, as the consumers count them."""
    return sum(_counted(client, partitions, name) for name in ("applied", "duplicates"))


def _counted(client: redis.Redis, partitions: int, name: str) -> int:
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        pipe.hget(keys.event_counts(partition), name)
    return sum(int(count or 0) for count in pipe.execute())
