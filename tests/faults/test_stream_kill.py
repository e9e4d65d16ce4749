"""Consumers and store killed with SIGKILL while events are on their way."""

import threading
import time
from collections import defaultdict

import pytest
import redis

from dmp import streams
from dmp.acts import understanding
from dmp.config import DmpConfig, StreamConfig
from dmp.consumer import Consumer
from dmp.store import Store, connect, open_store
from loadtest.micro_stream_crash import crash_test, mismatches
from loadtest.micro_stream_world import batches, happened, users


@pytest.fixture
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    config = DmpConfig(data_dir=str(tmp_path / "data"), stream=StreamConfig(partitions=4))
    with open_store(config) as store:
        yield store, config


def test_consumers_killed_at_work_leave_every_counter_as_the_events_say(own_store):
    found = crash_test(*own_store, events=20_000, people=800, consumers=2, kill_every_s=0.8, most_kills=6)
    assert (found.events, found.kills, found.mismatches) == (20_000, 6, 0)
    assert found.copies > 100


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_same_for_a_million_events(own_store):
    found = crash_test(*own_store, events=1_000_000, people=50_000, consumers=4)
    assert found.mismatches == 0
    assert found.kills > 20
    assert found.redelivered > 0


def test_a_store_killed_at_work_loses_no_acknowledged_event_and_counts_none_twice(tmp_path, monkeypatch):
    """The sender repeats what was not acknowledged; the consumer outlives the store and goes on with the next one."""
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    config = DmpConfig(data_dir=str(tmp_path / "data"), stream=StreamConfig(partitions=2))
    people, understand, stop = users(100, 5), understanding({}), threading.Event()
    now_us = time.time_ns() // 1000
    sent = list(happened(people, 6_000, now_us, 5))
    store = connect(config)
    consumer = threading.Thread(target=Consumer(Store(store.url), config).run, args=(stop,))
    consumer.start()
    try:
        left, kills = list(batches(iter(sent), 100)), 0
        while left:
            if kills < 3 and len(left) <= 60 - 15 * (kills + 1):
                store.server.kill()
                store.server.wait()
                store, kills = connect(config), kills + 1
            try:
                streams.append_events(store.sync(), left[0], 2, now_us)
            except redis.exceptions.ConnectionError:
                continue
            left.pop(0)
        truth = defaultdict(list)
        for event in sent:
            truth[event.uid].append(understand(event))
        deadline_s = time.monotonic() + 60
        client = store.sync()
        while mismatches(client, truth):
            assert time.monotonic() < deadline_s, "some event is lost, or counted twice"
            threading.Event().wait(0.2)
        assert kills == 3
    finally:
        stop.set()
        consumer.join(20)
        store.close()
