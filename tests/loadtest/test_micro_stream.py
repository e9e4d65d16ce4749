import time
from collections import Counter, defaultdict

import msgspec
import pytest

from dmp import keys, realtime, realtime_batch
from dmp.acts import understanding
from dmp.realtime import Parts
from loadtest.micro_stream_crash import equal, mismatches
from loadtest.micro_stream_world import happened, users, with_copies

NOW_US = time.time_ns() // 1000


def test_the_same_seed_gives_the_same_events_and_all_are_in_time():
    people = users(50, 3)
    events = list(happened(people, 400, NOW_US, 3))
    assert events == list(happened(people, 400, NOW_US, 3))
    assert {event.uid for event in events} <= set(people)
    assert all(0 <= NOW_US - event.time_us <= 1_800_000_000 for event in events)
    assert len({event.event_id for event in events}) == 400


def test_copies_are_of_events_that_were_and_nothing_is_lost():
    events = list(happened(users(50, 3), 2_000, NOW_US, 3))
    sent = list(with_copies(iter(events), 0.05, 3))
    assert 50 < len(sent) - len(events) < 200
    assert set(Counter(event.event_id for event in sent)) == {event.event_id for event in events}
    first: dict[str, int] = {}
    for place, event in enumerate(sent):
        first.setdefault(event.event_id, place)
    assert [sent[place] for place in sorted(first.values())] == events


@pytest.mark.parametrize(
    "change",
    [
        {"events": 3},
        {"hours": {1: (1, 0, 0, 0, 1)}},
        {"spent_micros": 1},
        {"sums": {1: (1.0, 2.0, 3.0 * (1 + 3e-9))}},
        {"sums": {1: (1.0, 2.0, 3.0), 2: (0.0, 0.0, 0.0)}},
    ],
)
def test_a_record_that_differs_in_anything_is_told(change):
    record = Parts(nonce=bytes(8), newest_us=9, events=2, sums={1: (1.0, 2.0, 3.0)}, hours={1: (1, 0, 0, 0, 0)})
    near = msgspec.structs.replace(record, sums={1: (1.0, 2.0 * (1 + 1e-12), 3.0)}, nonce=b"another!")
    assert equal(near, record)
    assert not equal(msgspec.structs.replace(record, **change), record)
    assert not equal(None, record)


def test_a_lost_event_and_one_counted_twice_are_mismatches(client):
    understand, truth = understanding({}), defaultdict(list)
    for event in happened(users(3, 1), 300, NOW_US, 1):
        truth[event.uid].append(understand(event))

    def store(uid, acts):
        parts = realtime_batch.record(acts)
        client.set(keys.realtime(uid), realtime.encode(msgspec.structs.replace(parts, nonce=bytes(8))))

    for uid, acts in truth.items():
        store(uid, acts)
    assert mismatches(client, truth) == 0
    one, other, third = truth
    store(one, truth[one][1:])
    store(other, [*truth[other], truth[other][0]])
    client.delete(keys.realtime(third))
    assert mismatches(client, truth) == 3
