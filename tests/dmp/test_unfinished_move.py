"""A slot of a cluster whose move nobody ends: what needs it waits or is put aside, everything else goes on."""

from collections import Counter

import pytest

from dmp import keys, unsettled
from dmp.cluster import slot
from dmp.config import DmpConfig, StreamConfig
from dmp.consumer import Consumer
from dmp.keys import event_partition as partition_of
from dmp.streams import TAGS, append_events
from tests.dmp.factories import act, user
from tests.dmp.test_consumer import counts, events_of, now_us, running, until

PARTITIONS, PEOPLE = 4, 24


def append(client, people=range(PEOPLE)):
    append_events(client, [act(n, time_us=now_us()) for n in people], PARTITIONS, now_us())


def pending(client, partition):
    return client.xpending(keys.events(partition), TAGS)["pending"]


@pytest.fixture
def a_consumer(own_cluster, tmp_path):
    config = DmpConfig(data_dir=str(tmp_path), redis_url=own_cluster.url, stream=StreamConfig(partitions=PARTITIONS))
    return Consumer(own_cluster.store, config)


@pytest.fixture
def a_move(own_cluster):
    """Begins to move the slot of a key; what it gives ends that."""

    def begin(key):
        number = slot(key)
        source = own_cluster.owner(number)
        target = next(server for server in own_cluster.primaries if server is not source)
        own_cluster.begin_move(number, source, target)
        return lambda: own_cluster.end_move(number, source, target)

    return begin


def test_a_user_whose_slot_is_half_moved_is_put_aside_and_holds_up_nobody(own_cluster, a_consumer, a_move):
    """Their keys do not exist yet: the old server sends on to the new one, which asks to be asked again."""
    client = own_cluster.store.sync()
    end = a_move(keys.realtime(user(3)))
    append(client)
    append(client, [3, 4])
    with running(a_consumer):
        until(lambda: sum(events_of(client, n) for n in range(PEOPLE) if n != 3) == PEOPLE)
        until(lambda: counts(client).moving == 2)
        assert unsettled.waiting(client, partition_of(user(3), PARTITIONS)).keys() == {user(3)}
        until(lambda: not any(pending(client, p) for p in range(PARTITIONS)))
        end()
        append(client)
        until(lambda: events_of(client, 3) == 1)
    assert counts(client).applied == 2 * PEOPLE
    client.close()


def test_a_partition_whose_slot_is_half_moved_waits_and_the_others_go_on(own_cluster, a_consumer, a_move):
    """What was read of it is neither acknowledged nor lost, and counted once when the move has ended."""
    client = own_cluster.store.sync()
    append(client)
    first = min(partition_of(user(n), PARTITIONS) for n in range(PEOPLE))
    mine = [n for n in range(PEOPLE) if partition_of(user(n), PARTITIONS) == first]
    end = a_move(keys.events(first))
    with running(a_consumer):
        for times in (1, 2):
            others = {n: times for n in range(PEOPLE) if n not in mine}
            until(lambda: Counter({n: events_of(client, n) for n in others}) == Counter(others))  # noqa: B023
            append(client, others)
        until(lambda: a_consumer.held > 0)
        assert pending(client, first) > 0
        end()
        until(lambda: not pending(client, first))
        assert [events_of(client, n) for n in mine] == [1] * len(mine)
    client.close()
