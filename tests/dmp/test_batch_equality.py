"""The batch over the archive gives the records of the stream, whatever order events came in and whatever died.

Tile counts and integer sums exactly, decayed sums within 1e-9 of each other; after settling, late events included.
"""

import shutil
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmp import archive, events, keys, realtime, realtime_batch, settle, streams, unsettled
from dmp.acts import SUBJECTS, understanding
from dmp.errors import DmpError
from dmp.events import CONSENT_ALL, Cart, Install, Purchase, Search, View
from dmp.realtime import Moment
from dmp.stream import Entry, Processor
from dmp.streams import TAGS
from dmp.taxonomy import BY_ID, tag_id
from tests.dmp.factories import act, user
from tests.dmp.test_draft import same

LATENESS_S = 3_600
UNDERSTAND = understanding({})
HOUR_US = 3_600_000_000
BASE_US = time.time_ns() // 1000 - 40 * HOUR_US
CATEGORIES = ["interest.automotive", "interest.finance.cards", "interest.music", "Travel", "no such thing", ""]
USERS = 3

happened = st.builds(
    lambda n, kind, minutes, category, query, money, consent, name: act(
        n, kind, event_id=name, time_us=BASE_US + int(minutes * 60e6), category=category, consent=consent,
        **({"query": query} if kind is Search else {}), **({"value_micros": money} if kind is Purchase else {}),
    ),
    st.integers(1, USERS), st.sampled_from([View, View, Search, Cart, Purchase, Install]), st.floats(0, 36 * 60),
    st.sampled_from(CATEGORIES), st.sampled_from(["cheap travel insurance", "二手车", ""]), st.integers(0, 10**9),
    st.sampled_from([CONSENT_ALL] * 9 + [0]), st.integers(0, 60).map(lambda n: f"e{n}"),
)  # fmt: skip
delays = st.sampled_from([0, 0, 0, 1, 30, 59, 60, 61, 600, 1_500, -4, -6, -3_000])
"""Minutes between an event and its coming; below 0: its sender's clock is ahead."""


class Died(Exception):
    """A consumer died."""


class Consumers:
    """Consumers of one partition, one after the other, each dying where it is told to."""

    def __init__(self, client, deaths):
        self.client, self.deaths, self.names = client, list(deaths), 0
        self.key = keys.events(0)
        streams.ensure_groups(client, 1)

    def work(self, count):
        """Take up what is left by the dead, then read and apply until nothing is left."""
        while True:
            self.names += 1
            name = f"c{self.names}"
            try:
                claimed = self.client.xautoclaim(self.key, TAGS, name, 0, "0-0", count=10_000)[1]
                self._apply(claimed, again=True)
                while found := self.client.xreadgroup(TAGS, name, {self.key: ">"}, count=count):
                    self._apply(found[0][1], again=False)
            except Died:
                continue
            return

    def _apply(self, raw, again):
        entries = [_entry(name, fields) for name, fields in raw]
        if not entries:
            return
        death = self.deaths.pop() if self.deaths else None
        processor = Processor(self.client, UNDERSTAND, LATENESS_S)
        if death is not None and death >= 0:  # after so many users' new records were sent
            honest, calls = processor._changed, []

            def changed(*arguments):
                calls.append(1)
                if len(calls) > death:
                    if sent:
                        wire = processor._wire(arguments[0])
                        wire.send_packed_command(sent)
                        wire.read_response()
                    raise Died
                command = honest(*arguments)
                if command is not None:
                    sent.append(command)
                return command

            sent: list[bytes] = []
            processor._changed = changed
        try:
            turn = processor.apply(entries, entries[0].came_ms // 1000, again)  # nobody was dead for long
        finally:
            processor.close()
        if death == -1:  # done, but nobody was told
            raise Died
        unsettled.add(self.client, 0, turn.aside)
        self.client.xack(self.key, TAGS, *(entry.id for entry in entries))


def _entry(name, fields):
    return Entry(name, streams.parse_id(name.decode())[0], tuple(fields.values()))


def appended(client, came, entry_events):
    """Events into the stream as they came, in entries of a few, the store's clock running with them."""
    order = sorted(came, key=lambda one: one[1])
    last_ms, at = 0, 0
    while at < len(order):
        some = order[at : at + entry_events]
        at += entry_events
        came_ms = max(last_ms + 1, some[-1][1] // 1000)
        last_ms = came_ms
        clamped = [streams.clamp(event, came_ms * 1000) for event, _ in some]
        client.xadd(keys.events(0), {str(n): events.encode(e) for n, e in enumerate(clamped)}, id=f"{came_ms}-0")


def archived(client, folder):
    with archive.opened(folder, client, 1) as it:
        while it.read(1):
            pass
        it.flush()


def records(client):
    stored = {n: client.get(keys.realtime(user(n))) for n in range(1, USERS + 1)}
    return {n: realtime.parts(realtime.decode(data)) for n, data in stored.items() if data is not None}


def batch(folder, late_too):
    found = {
        int.from_bytes(uid, "big"): realtime_batch.record(
            realtime_batch.counted(rows, UNDERSTAND, LATENESS_S, late_too)
        )
        for uid, rows in realtime_batch.read(folder).items()
    }
    return {n: parts for n, parts in found.items() if parts is not None}


def equal(found, expected):
    assert found.keys() == expected.keys()
    return all(same(found[n], expected[n]) for n in expected)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    came=st.lists(st.tuples(happened, delays, st.integers(0, 59)), min_size=1, max_size=40),
    copies=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 3_000)), max_size=10),
    entry_events=st.integers(1, 6),
    count=st.integers(1, 20),
    deaths=st.lists(st.integers(-1, 3), max_size=8),
)
def test_stream_and_batch_agree_in_any_order_with_copies_and_deaths(client, came, copies, entry_events, count, deaths):
    client.flushall()
    arrivals = [(event, event.time_us + (60 * delay + second) * 1_000_000) for event, delay, second in came]
    for which, minutes in copies:
        event, came_us = arrivals[which % len(came)]
        arrivals.append((event, came_us + minutes * 60_000_000))
    appended(client, arrivals, entry_events)
    Consumers(client, deaths).work(count)
    folder = Path(tempfile.mkdtemp())
    try:
        archived(client, folder)
        assert equal(records(client), batch(folder, late_too=False))
        settled = settle.settle(client, folder, 1, UNDERSTAND, LATENESS_S)
        assert settled.waiting == 0
        assert unsettled.waiting(client, 0) == {}
        assert equal(records(client), batch(folder, late_too=True))
    finally:
        shutil.rmtree(folder)


def an_arrival(n=1, kind=View, minutes=0.0, delay=0.0, **fields):
    at_us = BASE_US + int(minutes * 60e6)
    return act(n, kind, time_us=at_us, **fields), at_us + int(delay * 60e6)


def test_a_late_event_counts_after_settling_as_if_it_had_been_in_time(client, tmp_path):
    late, in_time = an_arrival(1, Cart, 0, 200, category="Automotive"), an_arrival(1, View, 100, category="Music")
    appended(client, [late, in_time], 1)
    Consumers(client, []).work(10)
    archived(client, tmp_path)
    assert records(client)[1].events == 1
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S) == settle.Settled(1, 0)
    assert same(records(client)[1], realtime_batch.record([UNDERSTAND(late[0]), UNDERSTAND(in_time[0])]))
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S) == settle.Settled(0, 0)


def test_a_late_copy_of_an_event_that_was_in_time_changes_nothing(client, tmp_path):
    event, came_us = an_arrival(1, View, 0, event_id="e")
    appended(client, [(event, came_us), (event, came_us + 30 * HOUR_US)], 1)
    Consumers(client, []).work(10)
    archived(client, tmp_path)
    settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S)
    assert records(client)[1].events == 1


def test_nobody_is_settled_before_the_archive_has_what_the_record_has(client, tmp_path):
    appended(client, [an_arrival(1, delay=100)], 1)
    Consumers(client, []).work(10)
    with pytest.raises(DmpError, match="no archive"):
        settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S)
    archived(client, tmp_path)
    appended(client, [an_arrival(1, minutes=200)], 1)
    Consumers(client, []).work(10)
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S) == settle.Settled(0, 1)
    assert records(client)[1].events == 1
    archived(client, tmp_path)
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S) == settle.Settled(1, 0)
    assert records(client)[1].events == 2


def test_nobody_is_settled_while_events_are_on_their_way_or_come_meanwhile(client, tmp_path, monkeypatch):
    appended(client, [an_arrival(1, delay=100), an_arrival(2, minutes=200)], 1)
    Consumers(client, []).work(1)
    appended(client, [an_arrival(1, minutes=300)], 1)
    client.xreadgroup(TAGS, "slow", {keys.events(0): ">"})
    archived(client, tmp_path)
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S).waiting == 1, "an entry is pending"
    Consumers(client, []).work(10)
    compute = realtime_batch.record

    def meanwhile(acts, *rules):
        appended(client, [an_arrival(1, minutes=400)], 1)
        Consumers(client, []).work(10)
        return compute(acts, *rules)

    monkeypatch.setattr(realtime_batch, "record", meanwhile)
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S).waiting == 1, "the record has changed"
    monkeypatch.undo()
    archived(client, tmp_path)
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S).users == 1
    assert records(client)[1].events == 3


def test_what_rules_know_survives_settling(client, tmp_path):
    appended(client, [an_arrival(1), an_arrival(1, minutes=1, delay=100)], 1)
    Consumers(client, []).work(10)
    held = records(client)[1]
    known = msgspec.structs.replace(held, raised={7: 2**32 - 1}, moments=[Moment(9, 8)])
    client.set(keys.realtime(user(1)), realtime.encode(known))
    archived(client, tmp_path)
    settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S)
    assert (records(client)[1].raised, records(client)[1].moments) == ({7: 2**32 - 1}, [Moment(9, 8)])
    assert records(client)[1].events == 2


def test_a_user_with_more_tags_than_fit_is_exact_once_settled_as_is_an_evicted_tag_that_came_back(client, tmp_path):
    names = sorted(BY_ID[tag].name for tag in SUBJECTS)
    weak, strong = names[0], names[1:160]
    seen = [
        an_arrival(1, View, 0, category=weak),
        *(an_arrival(1, Cart, n, category=name) for n, name in enumerate(strong)),
    ]
    appended(client, [*seen, *(an_arrival(1, Cart, 170 + n, category=weak) for n in range(20))], 40)
    Consumers(client, []).work(1)
    archived(client, tmp_path)
    expected = batch(tmp_path, late_too=True)[1]
    assert tag_id(weak) in expected.sums
    assert expected.evicted > 0
    assert records(client)[1].sums != expected.sums, "the stream has not seen the first of the weak one's events"
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S) == settle.Settled(1, 0)
    assert same(records(client)[1], expected)
    assert client.strlen(keys.realtime(user(1))) <= realtime.MAX_BYTES


def test_when_some_found_no_room_aside_the_whole_partition_is_settled(client, tmp_path, monkeypatch):
    monkeypatch.setattr(settle, "CHUNK_USERS", 2)
    late = [an_arrival(n, delay=100) for n in range(1, USERS + 1)]
    appended(client, [*late, *(an_arrival(n, minutes=300) for n in range(1, USERS + 1))], 1)
    Consumers(client, []).work(10)
    client.delete(keys.unsettled(0))
    unsettled.add(client, 0, [user(n) for n in range(1, USERS + 1)], most=1)
    archived(client, tmp_path)
    told = []
    settled = settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S, lambda *done: told.append(done))
    assert settled == settle.Settled(USERS, 0)
    assert told == [(2, 3), (3, 3)]
    assert unsettled.waiting(client, 0) == {}
    assert equal(records(client), batch(tmp_path, late_too=True))


def test_settling_mends_a_broken_record_and_leaves_a_later_releases_one(client, tmp_path):
    appended(client, [an_arrival(1), an_arrival(2)], 1)
    Consumers(client, []).work(10)
    later = bytes((realtime.VERSION + 1,)) + bytes(59)
    client.set(keys.realtime(user(1)), client.get(keys.realtime(user(1)))[:-2])
    client.set(keys.realtime(user(2)), later)
    appended(client, [an_arrival(1, minutes=1), an_arrival(2, minutes=1)], 1)
    Consumers(client, []).work(10)
    archived(client, tmp_path)
    assert settle.settle(client, tmp_path, 1, UNDERSTAND, LATENESS_S) == settle.Settled(1, 1)
    assert realtime.parts(realtime.decode(client.get(keys.realtime(user(1))))).events == 2
    assert client.get(keys.realtime(user(2))) == later
