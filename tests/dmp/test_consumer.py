"""Consumers sharing partitions, in one process; `tests/faults/test_stream_kill.py` kills them."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from dmp import keys, realtime, streams, unsettled
from dmp.__main__ import app
from dmp.config import DmpConfig, StreamConfig
from dmp.consumer import Consumer
from dmp.decisions import decisions_file, record
from dmp.events import View
from dmp.stream import Counts
from dmp.stream_commands import Status, status_of
from dmp.taxonomy import tag_id
from tests.dmp.factories import act, user

PARTITIONS = 4


def now_us():
    return time.time_ns() // 1000


@pytest.fixture
def config(tmp_path, store):
    return DmpConfig(data_dir=str(tmp_path), redis_url=store.url, stream=StreamConfig(partitions=PARTITIONS))


@contextmanager
def running(*consumers):
    stops = [threading.Event() for _ in consumers]
    threads = [threading.Thread(target=one.run, args=(stop,)) for one, stop in zip(consumers, stops, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield stops
    finally:
        for stop in stops:
            stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def until(condition, within_s=30.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        threading.Event().wait(0.01)


def append(client, *happened):
    streams.append_events(client, happened, PARTITIONS, now_us())


def events_of(client, n):
    data = client.get(keys.realtime(user(n)))
    return 0 if data is None else realtime.parts(realtime.decode(data)).events


def counts(client):
    return status_of(client, PARTITIONS, now_us() // 1000).counts


def test_what_is_appended_is_in_a_record_soon_and_acknowledged(store, client, config):
    append(client, *(act(n % 20, time_us=now_us()) for n in range(200)))
    with running(Consumer(store, config)):
        until(lambda: sum(events_of(client, n) for n in range(20)) == 200)
        append(client, *(act(n % 20, time_us=now_us()) for n in range(100)))
        until(lambda: sum(events_of(client, n) for n in range(20)) == 300)
        until(lambda: status_of(client, PARTITIONS, now_us() // 1000).pending == 0)
    found = status_of(client, PARTITIONS, now_us() // 1000)
    assert found.counts == Counts(applied=300, users=found.counts.users)
    assert (found.waiting, found.behind_ms, found.late_waiting, found.consumers) == (0, 0, 0, 0)


def test_consumers_share_the_partitions_and_give_them_back(store, client, config):
    one, other = Consumer(store, config), Consumer(store, config)
    with running(one, other) as (stop_one, _):
        until(lambda: len(one.owned) == len(other.owned) == 2)
        assert one.owned | other.owned == set(range(PARTITIONS))
        stop_one.set()
        until(lambda: other.owned == set(range(PARTITIONS)))
        append(client, *(act(n, time_us=now_us()) for n in range(50)))
        until(lambda: sum(events_of(client, n) for n in range(50)) == 50)
    assert client.keys("owner:*") == []
    assert client.exists(keys.CONSUMERS) == 0


def test_what_a_dead_consumer_took_is_applied_by_the_next_owner_before_what_is_new(store, client, config):
    streams.ensure_groups(client, PARTITIONS)
    append(client, *(act(1, View, event_id=f"e{n}", time_us=now_us()) for n in range(10)))
    partition = keys.event_partition(user(1), PARTITIONS)
    taken = client.xreadgroup(streams.TAGS, "dead", {keys.events(partition): ">"}, count=10)
    assert taken
    with running(Consumer(store, config)):
        until(lambda: events_of(client, 1) == 10)
        until(lambda: client.xpending(keys.events(partition), streams.TAGS)["pending"] == 0)


def test_a_late_events_user_waits_aside_for_the_nightly_batch(store, client, config):
    late = act(1, days_ago=0, time_us=now_us() - 2 * 3_600_000_000)
    append(client, late, act(1, time_us=now_us()))
    with running(Consumer(store, config)):
        until(lambda: counts(client).late == 1)
    assert unsettled.waiting(client, keys.event_partition(user(1), PARTITIONS)) == {user(1): 1}
    assert events_of(client, 1) == 1


def test_a_label_decided_while_it_runs_is_understood_from_then_on(store, client, config):
    with running(Consumer(store, config)):
        append(client, act(1, category="Zorbing", time_us=now_us()))
        until(lambda: events_of(client, 1) == 1)
        record(decisions_file(config.data_dir), "accept", "Zorbing", "interest.sports", "eve", 0)

        def understood():
            append(client, act(2, category="Zorbing", time_us=now_us()))
            data = client.get(keys.realtime(user(2)))
            return data is not None and tag_id("interest.sports") in realtime.parts(realtime.decode(data)).sums

        until(understood)


def test_acknowledged_and_archived_entries_are_trimmed(store, client, config):
    streams.ensure_groups(client, PARTITIONS)
    for _ in range(300):
        append(client, act(1, time_us=now_us()))
    key = keys.events(keys.event_partition(user(1), PARTITIONS))
    with running(Consumer(store, config)):
        until(lambda: events_of(client, 1) == 300)
        assert client.xlen(key) == 300, "the archive has not got them"
        taken = client.xreadgroup(streams.ARCHIVE, "archiver", {key: ">"}, count=1_000)
        client.xack(key, streams.ARCHIVE, *(entry for entry, _ in taken[0][1]))
        until(lambda: client.xlen(key) <= 100)


def test_the_lag_tells_what_waits_and_how_long(client):
    streams.ensure_groups(client, 1)
    assert streams.lag(client, 0, now_us() // 1000) == streams.Lag(0, 0, 0, 0, 0, 0)
    streams.append_events(client, [act(1)], 1, now_us())
    streams.append_events(client, [act(1)], 1, now_us())
    ((first, _), _) = client.xrange(keys.events(0))
    came_ms = streams.parse_id(first.decode())[0]
    assert streams.lag(client, 0, came_ms + 1_500) == streams.Lag(0, 2, 0, 1_500, 0, 2)
    client.xreadgroup(streams.TAGS, "me", {keys.events(0): ">"}, count=1)
    assert streams.lag(client, 0, came_ms + 1_500) == streams.Lag(0, 1, 1, 1_500, 0, 2)


def test_status_of_a_store_without_a_stream_is_told(config):
    ran = CliRunner().invoke(app, ["stream", "status", "--json"], env=_env(config))
    assert ran.exit_code == 0, ran.output
    found = msgspec.json.decode(ran.output, type=Status)
    assert (found.waiting, found.consumers, len(found.partitions)) == (0, 0, PARTITIONS)
    assert CliRunner().invoke(app, ["stream", "status"], env=_env(config)).exit_code == 0


def _env(config):
    return {
        "TAGBID_DMP_REDIS_URL": config.redis_url,
        "TAGBID_DMP_DATA_DIR": config.data_dir,
        "TAGBID_DMP_STREAM": f"{{partitions = {PARTITIONS}}}",
    }


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_command_works_in_processes_of_its_own_that_end_with_it(store, client, config, number, code):
    command = [sys.executable, "-m", "dmp", "stream", "--workers", "2", "--json"]
    with subprocess.Popen(command, env={**os.environ, **_env(config)}, stdout=subprocess.PIPE) as process:
        append(client, *(act(n, time_us=now_us()) for n in range(20)))
        until(lambda: sum(events_of(client, n) for n in range(20)) == 20)
        workers = {name.decode().split("-")[-2] for name in client.zrange(keys.CONSUMERS, 0, -1)}
        assert workers
        assert str(process.pid) not in workers
        process.send_signal(number)
        assert process.wait(20) == code
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    until(lambda: not client.exists(keys.event_owner(0)))


def test_a_store_that_is_emptied_or_full_is_waited_for(store, client, config):
    consumer = Consumer(store, config)
    with running(consumer):
        append(client, act(1, time_us=now_us()))
        until(lambda: events_of(client, 1) == 1)
        client.flushall()
        append(client, act(2, time_us=now_us()))
        until(lambda: events_of(client, 2) == 1)
        append(client, *(act(3, time_us=now_us()) for _ in range(3)))
        until(lambda: events_of(client, 3) == 3)
        client.config_set("maxmemory", 1)
        until(lambda: not consumer.owned)
        client.config_set("maxmemory", 0)
        append(client, act(4, time_us=now_us()))
        until(lambda: events_of(client, 4) == 1)
