"""What one consumer does with entries, against a real store."""

import time

import pytest

from dmp import codec, events, keys, marks, realtime, realtime_batch
from dmp.acts import SUBJECTS, understanding
from dmp.audiences import add_members
from dmp.events import CONSENT_ALL, Bid, Cart, Crm, Purchase, Search, View
from dmp.optout import set_marks
from dmp.realtime import Moment
from dmp.stream import Counts, Entry, Judged, Processor
from dmp.taxonomy import BY_ID, tag_id
from tests.dmp.factories import act, user
from tests.dmp.test_draft import same

LATENESS_S = 3_600
NOW_S = int(time.time())
UNDERSTAND = understanding({})
AUTO, MUSIC = tag_id("interest.automotive"), tag_id("interest.music")


def an_event(n=1, kind=View, seconds_ago=0.0, **fields):
    return act(n, kind, time_us=NOW_S * 1_000_000 - int(seconds_ago * 1e6), **{"category": "Automotive", **fields})


def an_entry(*happened, came_s=NOW_S, name="1-0"):
    return Entry(name.encode(), came_s * 1000, [events.encode(event) for event in happened])


@pytest.fixture
def processor(client):
    return Processor(client, UNDERSTAND, LATENESS_S)


def parts(client, n=1):
    data = client.get(keys.realtime(user(n)))
    return None if data is None else realtime.parts(realtime.decode(data))


def definition(*happened):
    return realtime_batch.record([UNDERSTAND(event) for event in happened])


def test_events_are_in_their_users_records_when_it_returns(client, processor):
    mine = [an_event(1), an_event(1, Search, 60, query="music"), an_event(1, Cart, 5)]
    other = an_event(2, Purchase, value_micros=9)
    turn = processor.apply([an_entry(mine[0], other), an_entry(*mine[1:])], NOW_S)
    assert turn.counts == Counts(applied=4, users=2)
    assert same(parts(client, 1), definition(*mine))
    assert same(parts(client, 2), definition(other))
    more = an_event(1, View, 1)
    processor.apply([an_entry(more)], NOW_S)
    assert same(parts(client, 1), definition(*mine, more))


def test_records_and_marks_end_by_themselves(client, processor):
    processor.apply([an_entry(an_event(seconds_ago=100))], NOW_S)
    left_s = client.ttl(keys.realtime(user(1)))
    assert abs(left_s - (30 * 86_400 - 100 - (time.time() - NOW_S))) < 3, "thirty days after the last event (P-70)"
    assert 0 < client.ttl(keys.realtime_marks(user(1))) <= marks.life_s(LATENESS_S) + marks.REDELIVERY_S


def test_a_copy_changes_nothing_in_the_same_entry_or_a_later_one_or_the_same_again(client, processor):
    event = an_event(event_id="e")
    entry = an_entry(event, event)
    assert processor.apply([entry, an_entry(event)], NOW_S).counts == Counts(applied=1, duplicates=2, users=1)
    before = client.get(keys.realtime(user(1)))
    assert processor.apply([entry], NOW_S, again=True).counts == Counts(duplicates=2)
    assert processor.apply([an_entry(an_event(event_id="e", seconds_ago=50))], NOW_S).counts == Counts(duplicates=1)
    assert client.get(keys.realtime(user(1))) == before
    other = an_event(event_id="e", source="another")
    assert processor.apply([an_entry(other)], NOW_S).counts.applied == 1


def test_an_id_may_be_used_again_when_no_copy_of_it_can_come_any_more(client, processor):
    life_s = marks.life_s(LATENESS_S)
    processor.apply([an_entry(an_event(event_id="e"))], NOW_S)
    for after_s, applied in ((life_s, 0), (life_s + 1, 1)):
        came_s = NOW_S + after_s
        later = act(1, View, event_id="e", time_us=came_s * 1_000_000)
        assert processor.apply([an_entry(later, came_s=came_s)], came_s).counts.applied == applied


@pytest.mark.parametrize(("seconds_ago", "late"), [(0, 0), (3_600, 0), (3_601, 1), (10**7, 1)])
def test_a_late_event_is_set_aside_by_when_it_came_not_by_when_it_is_read(client, processor, seconds_ago, late):
    event = an_event(seconds_ago=seconds_ago)
    turn = processor.apply([an_entry(event)], NOW_S + 10**6)
    assert (turn.counts.late, turn.counts.applied) == (late, 1 - late)
    assert list(turn.aside) == [event.uid] * late
    assert (parts(client) is None) is bool(late)


def test_what_may_have_been_applied_before_its_marks_went_is_set_aside(client, processor):
    event = an_event()
    after_s = NOW_S + marks.life_s(LATENESS_S)
    assert processor.apply([an_entry(event)], after_s + 1, again=True).aside == [event.uid]
    assert parts(client) is None
    assert processor.apply([an_entry(event)], after_s, again=True).counts.applied == 1
    assert processor.apply([an_entry(an_event())], after_s + 1).counts.applied == 1, "new work of any age is sure"


def test_a_user_with_more_events_than_marks_keeps_counting_tomorrow(client, processor):
    """A crawler under one id: what is beyond the limit waits for the batch, and nothing is counted twice."""
    burst = [an_event(event_id=f"e{n}") for n in range(marks.MOST + 5)]
    counts = Counts()
    for at in range(0, len(burst), 500):
        turn = processor.apply([an_entry(*burst[at : at + 500])], NOW_S)
        counts.add(turn.counts)
    assert (counts.applied, counts.surplus) == (marks.MOST, 5)
    assert turn.aside == [user(1)], "one is enough to have all of the user's counted"
    assert processor.apply([an_entry(burst[0])], NOW_S).counts == Counts(duplicates=1)
    assert parts(client).events == marks.MOST
    assert client.strlen(keys.realtime_marks(user(1))) == marks.BYTES * marks.MOST
    tomorrow_s = NOW_S + marks.life_s(LATENESS_S) + 1
    fresh = act(1, View, time_us=tomorrow_s * 1_000_000)
    assert processor.apply([an_entry(fresh, came_s=tomorrow_s)], tomorrow_s).counts.applied == 1
    assert client.strlen(keys.realtime_marks(user(1))) == marks.BYTES, "marks nobody needs are gone"


@pytest.mark.rule("P-16")
def test_what_builds_no_profile_is_counted_and_leaves_no_key(client, processor):
    silent = [an_event(1, consent=0), an_event(2, consent=6), an_event(3, Crm, gender="f")]
    assert processor.apply([an_entry(*silent)], NOW_S).counts == Counts(no_consent=2, plain=1)
    assert client.keys("*") == []


def test_what_is_no_event_harms_nobody(client, processor):
    bid = Bid(
        event_id="b", time_us=1, exchange="x", auction_id="a", imp_id="1", campaign="c", creative="d", advertiser="e",
        price_micros=1,
    )  # fmt: skip
    nonsense = [
        b"", b"\xff", b"\x80", events.encode(bid), events.encode(an_event(uid=b"short")),
        events.encode(act(1, time_us=-1)), events.encode(act(1, time_us=2**60)),
    ]  # fmt: skip
    good = events.encode(an_event())
    turn = processor.apply([Entry(b"1-0", NOW_S * 1000, [*nonsense, good])], NOW_S)
    assert turn.counts == Counts(broken=len(nonsense), applied=1, users=1)


@pytest.mark.rule("P-32")
def test_nothing_is_written_for_who_opted_out_also_between_our_read_and_our_write(client, processor):
    set_marks(client, user(1), {keys.OPTED_OUT})
    assert processor.apply([an_entry(an_event(1))], NOW_S).counts == Counts(opted_out=1)
    add_members(client, "acme/buyers", [user(2)], NOW_S + 3600)
    assert processor.apply([an_entry(an_event(2))], NOW_S).counts == Counts(applied=1, users=1)

    interfering(processor, lambda: set_marks(client, user(3), {keys.OPTED_OUT}))
    assert processor.apply([an_entry(an_event(3))], NOW_S).counts == Counts(opted_out=1, conflicts=1)
    assert client.exists(keys.realtime(user(1)), keys.realtime(user(3)), keys.realtime_marks(user(3))) == 0


def interfering(processor, what):
    """Do something once between the processor's read of its users and its first write."""
    honest = processor._changed

    def changed(*arguments):
        command = honest(*arguments)
        if changed.armed:
            changed.armed = False
            what()
        return command

    changed.armed = True
    processor._changed = changed


def test_two_consumers_with_the_same_entries_count_them_once(client, store, processor):
    """One was thought dead: its work was claimed, then it went on."""
    entry = an_entry(*(an_event(n % 3, event_id=f"e{n}") for n in range(30)))
    other = Processor(store.sync(), UNDERSTAND, LATENESS_S)
    interfering(processor, lambda: other.apply([entry], NOW_S, again=True))
    counts = processor.apply([entry], NOW_S).counts
    assert counts == Counts(duplicates=30, conflicts=3)
    assert [parts(client, n).events for n in range(3)] == [10, 10, 10]


def test_two_consumers_with_events_of_one_user_lose_none(client, store, processor):
    other = Processor(store.sync(), UNDERSTAND, LATENESS_S)
    interfering(processor, lambda: other.apply([an_entry(an_event(1, category="Music"))], NOW_S))
    counts = processor.apply([an_entry(an_event(1))], NOW_S).counts
    assert counts == Counts(applied=1, users=1, conflicts=1)
    assert set(parts(client).sums) == {AUTO, MUSIC}


@pytest.mark.rule("P-71")
def test_a_user_forgotten_between_read_and_write_has_only_what_came_after(client, processor):
    processor.apply([an_entry(an_event(1, category="Music"))], NOW_S)
    interfering(processor, lambda: client.delete(*keys.stream_keys(user(1))))
    processor.apply([an_entry(an_event(1))], NOW_S)
    assert set(parts(client).sums) == {AUTO}


def test_the_script_is_loaded_again_when_the_store_forgot_it(client, processor):
    client.script_flush()
    assert processor.apply([an_entry(an_event())], NOW_S).counts.applied == 1


@pytest.mark.parametrize("key", [keys.realtime, keys.audiences])
def test_a_record_that_cannot_be_read_is_not_overwritten_and_stops_nobody_else(client, processor, key):
    client.set(key(user(1)), b"\x63" * 60)
    turn = processor.apply([an_entry(an_event(1), an_event(2), an_event(1, Cart))], NOW_S)
    assert turn.counts == Counts(applied=1, users=1, unreadable=2)
    assert turn.aside == [user(1)]
    assert client.get(key(user(1))) == b"\x63" * 60
    assert parts(client, 2).events == 1


@pytest.mark.rule("P-71")
def test_of_who_was_forgotten_nothing_that_was_on_its_way_makes_a_record(client):
    processor = Processor(client, UNDERSTAND, LATENESS_S, forgotten={user(1)})
    assert processor.apply([an_entry(an_event(1), an_event(2))], NOW_S).counts == Counts(
        applied=1, opted_out=1, users=1
    )
    assert client.exists(keys.realtime(user(1)), keys.realtime_marks(user(1))) == 0


def test_a_watch_is_asked_once_of_each_new_event_and_what_it_says_is_in_the_record(client, store):
    told = []

    def watch(uid, moments, recent, happened):
        told.append((uid, len(moments), len(recent), [event.event_id for event, _ in happened]))
        return Judged([*moments, Moment(NOW_S, 1)], {7: NOW_S + 60, 8: NOW_S - 1}, {})

    processor = Processor(store.sync(), UNDERSTAND, LATENESS_S, watch)
    processor.apply([an_entry(an_event(event_id="a"), an_event(event_id="b"), an_event(event_id="a"))], NOW_S)
    processor.apply([an_entry(an_event(event_id="b"), an_event(event_id="c"))], NOW_S)
    assert told == [(user(1), 0, 2, ["a", "b"]), (user(1), 1, 3, ["c"])]
    assert parts(client).moments == [Moment(NOW_S, 1)] * 2
    assert parts(client).raised == {7: NOW_S + 60}, "what is over is not kept"


def test_a_watch_moves_users_in_and_out_of_audiences_in_the_script_that_puts_the_record(client, store):
    ends_s, mine, other = NOW_S + 3_600, keys.number("acme/a"), keys.number("acme/b")
    says = [{mine: ends_s}, {mine: ends_s}, {mine: 0}]
    add_members(client, "acme/b", [user(1)], NOW_S + 1_800)
    processor = Processor(store.sync(), UNDERSTAND, LATENESS_S, lambda *_: Judged([], {}, says.pop(0)))
    processor.apply([an_entry(an_event())], NOW_S)
    held = client.get(keys.audiences(user(1)))
    assert dict(codec.decode_audiences(held)) == {mine: ends_s, other: NOW_S + 1_800}
    assert abs(client.ttl(keys.audiences(user(1))) - (ends_s - time.time())) < 3
    processor.apply([an_entry(an_event())], NOW_S)
    assert client.get(keys.audiences(user(1))) == held
    processor.apply([an_entry(an_event())], NOW_S)
    assert codec.decode_audiences(client.get(keys.audiences(user(1)))) == [(other, NOW_S + 1_800)]


def test_a_user_with_more_tags_than_fit_is_put_aside(client, processor):
    names = sorted(BY_ID[tag].name for tag in SUBJECTS)[:150]
    turn = processor.apply([an_entry(*(an_event(category=name) for name in names))], NOW_S)
    held = parts(client)
    assert len(held.sums) == realtime.tags_that_fit(2, 24, 0, 0, 0, 0)
    assert turn.counts.evicted == held.evicted > 0
    assert turn.aside == [user(1)]
    assert client.strlen(keys.realtime(user(1))) <= realtime.MAX_BYTES


def test_many_users_in_one_turn(client, processor):
    many = [an_event(n, consent=CONSENT_ALL) for n in range(1_000)]
    assert processor.apply([an_entry(*many)], NOW_S).counts == Counts(applied=1_000, users=1_000)
    assert all(parts(client, n).events == 1 for n in range(1_000))
