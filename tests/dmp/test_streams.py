import pytest

from dmp import events, keys, streams
from dmp.events import Purchase, View
from tests.dmp.factories import NOW_US, act, user

PARTITIONS = 4


def records(client, partition):
    """Every record of a partition, in order."""
    return [events.decode(value) for _, fields in _entries(client, partition) for value in fields.values()]


def _entries(client, partition):
    return client.xrange(keys.events(partition))


def read(client, group, partition, count=10**6):
    """Deliver what is new to a group; returns the ids."""
    found = client.xreadgroup(group, "reader", {keys.events(partition): ">"}, count=count)
    return [entry for _, entries in found for entry, _ in entries]


def test_what_is_acknowledged_is_there_in_the_users_partition_in_order(client):
    given = [act(n % 5, View if n % 2 else Purchase, days_ago=n / 10) for n in range(700)]
    assert streams.append_events(client, given, PARTITIONS, NOW_US) == streams.Appended(700, 0)
    found = [records(client, partition) for partition in range(PARTITIONS)]
    for partition, those in enumerate(found):
        assert those == [e for e in given if keys.event_partition(e.uid, PARTITIONS) == partition]


def test_no_entry_is_larger_than_a_consumer_will_take(client):
    streams.append_events(client, [act(1) for _ in range(2 * streams.MAX_ENTRY_RECORDS + 1)], PARTITIONS, NOW_US)
    partition = keys.event_partition(user(1), PARTITIONS)
    assert [len(fields) for _, fields in _entries(client, partition)] == [256, 256, 1]


def test_an_event_of_the_future_is_kept_with_the_latest_time_that_can_be(client):
    ahead = [act(1, days_ago=-minutes / 1440) for minutes in (0, 5, 6, 10**6)]
    assert streams.append_events(client, ahead, 1, NOW_US).clamped == 2
    latest_us = NOW_US + 300_000_000
    assert [event.time_us for event in records(client, 0)] == [NOW_US, latest_us, latest_us, latest_us]


def test_nothing_is_trimmed_that_a_group_has_not_read_and_acknowledged(client):
    streams.ensure_groups(client, 1)
    streams.ensure_groups(client, 1)  # what is there stays
    for _ in range(500):
        streams.append_events(client, [act(1)], 1, NOW_US)
    key = keys.events(0)
    assert streams.trim(client, 0) == 0, "unread"
    tags = read(client, streams.TAGS, 0)
    client.xack(key, streams.TAGS, *tags)
    assert streams.trim(client, 0) == 0, "not archived"
    archived = read(client, streams.ARCHIVE, 0, 400)
    assert streams.trim(client, 0) == 0, "archived, but not for sure"
    client.xack(key, streams.ARCHIVE, *archived[:150], *archived[200:])
    assert streams.trim(client, 0) > 0
    left = [entry for entry, _ in _entries(client, 0)]
    assert set(archived[150:200]) <= set(left)
    assert set(tags[400:]) <= set(left)
    client.xack(key, streams.ARCHIVE, *archived[150:200], *read(client, streams.ARCHIVE, 0))
    streams.trim(client, 0)
    assert client.xlen(key) <= 100, "one node of the stream may stay"


def test_without_an_archive_group_nothing_is_trimmed_unless_told_so(client):
    for _ in range(300):
        streams.append_events(client, [act(1)], 1, NOW_US)
    client.xgroup_create(keys.events(0), streams.TAGS, id="0")
    client.xack(keys.events(0), streams.TAGS, *read(client, streams.TAGS, 0))
    assert streams.trim(client, 0) == 0
    assert streams.trim(client, 0, (streams.TAGS,)) > 0


@pytest.mark.parametrize(("earlier", "later"), [("9-0", "10-0"), ("10-2", "10-10")])
def test_entries_are_ordered_as_numbers(earlier, later):
    assert streams.parse_id(earlier) < streams.parse_id(later)
