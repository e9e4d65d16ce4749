"""The whole stream on a cluster of three nodes: collector, killed consumers, tags, lookup, archive, settling."""

import json
import multiprocessing
import time
from collections import defaultdict
from pathlib import Path

import msgspec

from dmp import archive, keys, realtime_batch, settle, streams, unsettled
from dmp.acts import understanding
from dmp.config import CollectConfig, DmpConfig
from dmp.consumer import work
from dmp.events import decode_behaviour
from loadtest.micro_stream_crash import crash_test, mismatches
from tests.dmp.doors import RING, open_door

PATIENCE_S = 60.0
UNDERSTAND = understanding({})


def until(holds, what):
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def test_consumers_killed_at_work_leave_exact_counters_on_a_cluster(cluster, tmp_path):
    config = DmpConfig(data_dir=str(tmp_path), redis_url=cluster.url)
    found = crash_test(cluster.store, config, events=6_000, people=300, consumers=2, kill_every_s=0.8, most_kills=3)
    assert (found.events, found.kills, found.mismatches) == (6_000, 3, 0)


async def test_from_http_to_tags_and_back_over_http_with_a_consumer_killed(cluster, tmp_path: Path):
    """Events of 30 users, some twice and some late; the first consumer is killed while it works."""
    config = DmpConfig(data_dir=str(tmp_path), redis_url=cluster.url)
    client = cluster.store.sync(timeout_s=30.0)
    start_us = time.time_ns() // 1000 - 3_000_000_000
    items = [
        {"kind": "cart" if n % 5 else "view", "event_id": f"e{n}", "id": f"c-{n % 30}", "consent": 7,
         "category": "Travel", "time_us": start_us + n * 1_000_000}
        for n in range(600)
    ]  # fmt: skip
    late = {**items[0], "event_id": "late", "time_us": start_us - 2 * 3_600_000_000}
    context = multiprocessing.get_context("spawn")
    async with open_door(tmp_path, cluster.store, collect=CollectConfig()) as door:
        key = door.key("events", "tags")
        first = context.Process(target=work, args=(cluster.url, config), daemon=True)
        first.start()
        for start in range(0, 600, 50):
            part = items[start : start + 50]
            assert (await door.send(*part, *part[:5], key=key))[0] == 202
            if start == 300:
                until(lambda: client.exists(keys.realtime(RING.uid("cookie", "c-1"))), "the first consumer works")
                first.kill()
        assert (await door.send(late, key=key))[0] == 202
        second = context.Process(target=work, args=(cluster.url, config), daemon=True)
        second.start()
        try:
            taken = [decode_behaviour(record) for record in records(client, config)]
            assert len(taken) == 661
            truth = defaultdict(list)
            for event in {(event.event_id): event for event in taken}.values():
                if event.event_id != RING.event_id("shop", "late"):
                    truth[event.uid].append(UNDERSTAND(event))
            until(lambda: not mismatches(client, truth), "every event counted once")
            asked = json.dumps({"ids": [{"id": f"c-{n}", "gdpr": 0} for n in range(30)]}).encode()
            _, answer, _ = await door.ask("POST", "/v1/tags:lookup", asked, {"Authorization": f"Bearer {key}"})
            told = msgspec.json.decode(answer)["users"]
            assert [one["realtime"].get("interest.travel", 0) > 0 for one in told] == [True] * 30
            until(lambda: all(not pending(client, p) for p in range(config.stream.partitions)), "all acknowledged")
        finally:
            second.terminate()
            second.join(20)
    folder = tmp_path / "events"
    with archive.opened(folder, client, config.stream.partitions) as it:
        while it.read(1):
            pass
        assert it.flush() == 661
    uid = RING.uid("cookie", "c-0")
    partition = keys.event_partition(uid, config.stream.partitions)
    assert unsettled.waiting(client, partition) == {uid: 1}
    settled = settle.settle(client, folder, config.stream.partitions, UNDERSTAND, config.stream.lateness_s)
    assert settled == settle.Settled(1, 0)
    rows = realtime_batch.read(folder)[uid]
    everything = realtime_batch.counted(rows, UNDERSTAND, config.stream.lateness_s, late_too=True)
    assert mismatches(client, {uid: everything}) == 0
    assert len(everything) == 21
    client.close()


def records(client, config):
    for partition in range(config.stream.partitions):
        for _, fields in client.xrange(keys.events(partition)):
            yield from fields.values()


def pending(client, partition):
    return client.xpending(keys.events(partition), streams.TAGS)["pending"]
