"""Consumers and store killed with SIGKILL while events are on their way."""

import pytest

from dmp.config import DmpConfig, StreamConfig
from dmp.store import open_store
from loadtest.micro_stream_crash import crash_test


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
