import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import codec, keys, realtime
from dmp.errors import CorruptRecord
from dmp.events import Bid, decode, encode
from dmp.realtime import CART, PURCHASE, SEARCH, VIEW, Basket, Moment, Parts, Recent
from dmp.schema import NOBODY, Realtime, User
from dmp.store import forget, read_users
from dmp.taxonomy import tag_id
from tests.dmp.factories import NOW_US, user

MINUTE_US, HOUR_US, DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000
AUTO, AUTO_INTENT, MUSIC = tag_id("interest.automotive"), tag_id("intent.automotive"), tag_id("interest.music")

u16, u32, i64 = st.integers(0, 65_535), st.integers(0, 2**32 - 1), st.integers(0, 2**62)
finite = st.floats(0, 1e14)
counts = st.tuples(u16, u16, u16, u16, u16)


def limited(strategy, size):
    return strategy.map(lambda found: dict(list(found.items())[:size]))


records = st.builds(
    Parts,
    nonce=st.binary(min_size=8, max_size=8), newest_us=i64, spent_micros=i64, events=u32, evicted=u32,
    sums=st.dictionaries(u32, st.tuples(finite, finite, finite), max_size=realtime.LEAST_TAGS),
    hours=st.dictionaries(u32, counts, max_size=realtime.HOURS),
    days=st.dictionaries(u32, counts, max_size=realtime.DAYS),
    recent=st.lists(st.builds(Recent, i64, st.integers(0, 4), u32), max_size=realtime.MAX_RECENT),
    carts=st.dictionaries(u32, st.builds(Basket, i64, st.sampled_from([CART, PURCHASE])), max_size=realtime.MAX_CARTS),
    keywords=st.dictionaries(u32, i64, max_size=realtime.MAX_KEYWORDS),
    raised=st.dictionaries(u32, u32, max_size=realtime.MAX_RAISED),
    moments=st.lists(st.builds(Moment, u32, u32), max_size=realtime.MAX_MOMENTS),
)  # fmt: skip


def record(newest_us=NOW_US, **fields):
    """A record; sums are given as decayed values at `newest_us`."""
    values = fields.pop("values", {})
    grown = [math.exp((newest_us - realtime.landmark_us(newest_us, h)) / realtime.TAU_US[h]) for h in range(3)]
    sums = {tag: tuple(v * g for v, g in zip(value, grown, strict=True)) for tag, value in values.items()}
    return realtime.decode(
        realtime.encode(Parts(**{"nonce": bytes(8), "newest_us": newest_us, "sums": sums, **fields}))
    )


@given(records)
def test_a_record_is_read_back_as_it_was_written(parts):
    data = realtime.encode(parts)
    assert len(data) <= realtime.MAX_BYTES
    assert realtime.parts(realtime.decode(data)) == parts


@given(records)
def test_a_record_cut_short_or_of_another_version_is_refused(parts):
    data = realtime.encode(parts)
    for broken in (data[:-2], data[:10], b"", b"\x02" + data[1:]):
        with pytest.raises(CorruptRecord):
            realtime.decode(broken)


@given(records)
def test_what_a_later_version_appends_is_left_alone(parts):
    assert realtime.parts(realtime.decode(realtime.encode(parts) + b"later")) == parts


def test_bytes_of_the_first_release_are_read():
    data = bytes.fromhex(
        """
        01 01 01 00 00 01 00 01  0102030405060708  80a9cb3ce5010000  80841e0000000000  02000000  00000000
        ed030000  000000000000f03f  0000000000000040  0000000000000840
        50a90700  0100 0000 0000 0100 0000
        ed030000  80a9cb3ce5010000  03
        d1070000  ffffffff
        """
    )
    found = realtime.parts(realtime.decode(data))
    assert found == Parts(
        nonce=bytes(range(1, 9)), newest_us=0x01E53CCBA980, spent_micros=2_000_000, events=2,
        sums={1005: (1.0, 2.0, 3.0)}, hours={502096: (1, 0, 0, 1, 0)}, carts={1005: Basket(0x01E53CCBA980, PURCHASE)},
        raised={2001: 2**32 - 1},
    )  # fmt: skip
    assert realtime.encode(found) == data + b"\0", "no moments were remembered then"


def test_interest_falls_to_a_half_life_of_each_horizon():
    it = record(values={AUTO: (1, 1, 1)})
    assert realtime.interests(it, NOW_US)[AUTO] == pytest.approx((1, 1, 1))
    half_hour = realtime.interests(it, NOW_US + 30 * MINUTE_US)[AUTO]
    assert half_hour == pytest.approx((math.exp(-1), math.exp(-1 / 48), math.exp(-1 / 672)))
    assert realtime.interests(it, NOW_US + 14 * DAY_US)[AUTO][2] == pytest.approx(math.exp(-1))
    assert realtime.interests(it, NOW_US - HOUR_US)[AUTO] == pytest.approx((1, 1, 1)), "no clock runs backwards"


@pytest.mark.parametrize(
    ("weight", "score"), [(1, 25), (3, 50), (5, 62), (0.001, 0)]
)  # 3/12, 9/18, 15/24; an event counts on each of three horizons
def test_a_tag_scores_by_its_weight_on_all_horizons(weight, score):
    it = record(values={AUTO: (weight, weight, weight)})
    assert realtime.realtime_tags(it, NOW_US).get(AUTO, 0) == score


def test_what_is_in_a_basket_is_wanted_and_what_was_bought_is_not():
    values = {AUTO: (5, 5, 5), MUSIC: (1, 1, 1)}
    assert set(realtime.realtime_tags(record(values=values), NOW_US)) == {AUTO, MUSIC}, "a look is no intent"
    carted = record(values=values, carts={AUTO: Basket(NOW_US, CART)})
    assert realtime.realtime_tags(carted, NOW_US) == {AUTO: 62, AUTO_INTENT: 62, MUSIC: 25}
    assert AUTO_INTENT not in realtime.realtime_tags(carted, NOW_US + 3 * DAY_US + 1)
    bought = record(values=values, carts={AUTO: Basket(NOW_US, PURCHASE)})
    assert realtime.realtime_tags(bought, NOW_US) == {MUSIC: 25}
    assert AUTO in realtime.realtime_tags(bought, NOW_US + 14 * DAY_US + 1)


def test_a_search_is_an_intent_once_the_day_weighs_enough():
    once = record(values={AUTO: (3, 3, 3)}, keywords={AUTO: NOW_US})
    assert realtime.realtime_tags(once, NOW_US) == {AUTO: 50}
    twice = record(values={AUTO: (6, 6, 6)}, keywords={AUTO: NOW_US})
    assert realtime.realtime_tags(twice, NOW_US) == {AUTO: 66, AUTO_INTENT: 66}
    assert AUTO_INTENT not in realtime.realtime_tags(record(values={AUTO: (6, 6, 6)}), NOW_US)


def test_the_higher_score_holds_and_a_purchase_silences_both():
    it = record(values={AUTO: (3, 3, 3)}, raised={7: NOW_US // 1_000_000 + 1})
    assert realtime.current_tags({AUTO: 80, MUSIC: 10}, it, NOW_US) == {AUTO: 80, MUSIC: 10, 7: 100}
    assert realtime.current_tags({AUTO: 20}, it, NOW_US) == {AUTO: 50, 7: 100}
    assert realtime.current_tags({AUTO: 20}, it, NOW_US + 1_000_000) == {AUTO: 49}, "a raised tag has ended"
    assert realtime.current_tags({AUTO: 20}, None, NOW_US) == {AUTO: 20}
    bought = record(values={AUTO: (3, 3, 3)}, carts={AUTO: Basket(NOW_US, PURCHASE)})
    assert realtime.current_tags({AUTO: 80, AUTO_INTENT: 90, MUSIC: 1}, bought, NOW_US) == {MUSIC: 1}


@given(records, st.integers(0, 2**50), st.sets(st.sampled_from([AUTO, AUTO_INTENT, MUSIC, 7])))
def test_asking_for_some_tags_only_gives_what_all_tags_say_of_them(parts, now_us, wanted):
    known = {AUTO: (9.0, 9.0, 9.0), MUSIC: (1.0, 1.0, 1.0)}
    it = realtime.decode(realtime.encode(Parts(**{**_fields(parts), "sums": known})))
    everything = realtime.current_tags({AUTO: 3}, it, now_us)
    some = realtime.current_tags({AUTO: 3}, it, now_us, wanted)
    assert {tag: some.get(tag) for tag in wanted} == {tag: everything.get(tag) for tag in wanted}
    assert all(0 <= score <= 100 for score in everything.values())


def _fields(parts):
    return {name: getattr(parts, name) for name in parts.__struct_fields__}


def test_a_session_ends_with_half_an_hour_of_nothing():
    times = [0, 10, 20, 51, 60]  # minutes ago; 31 minutes passed between the third and the fourth
    it = record(recent=[Recent(NOW_US - m * MINUTE_US, VIEW, AUTO * (m > 5)) for m in times])
    assert realtime.session_depth(it, NOW_US) == 3
    assert realtime.session_depth(it, NOW_US + 30 * MINUTE_US) == 3
    assert realtime.session_depth(it, NOW_US + 30 * MINUTE_US + 1) == 0
    assert realtime.last_category(it) == AUTO
    assert realtime.last_seen_us(it) == NOW_US


def test_counts_are_of_the_tiles_asked_for():
    hour, day = NOW_US // HOUR_US, NOW_US // DAY_US
    it = record(
        hours={hour: (1, 0, 0, 0, 0), hour - 1: (2, 1, 0, 0, 0), hour - 5: (4, 0, 0, 0, 9)},
        days={day: (5, 0, 0, 0, 0), day - 13: (0, 0, 0, 7, 0)},
    )
    assert realtime.counts(it, NOW_US, 0) == (1, 0, 0, 0, 0)
    assert realtime.counts(it, NOW_US, 1) == (3, 1, 0, 0, 0)
    assert realtime.counts(it, NOW_US, 23) == (7, 1, 0, 0, 9)
    assert realtime.counts(it, NOW_US + DAY_US, 23) == (0, 0, 0, 0, 0)
    assert realtime.parts(it).days == {day: (5, 0, 0, 0, 0), day - 13: (0, 0, 0, 7, 0)}


def test_keywords_last_a_day():
    it = record(keywords={AUTO: NOW_US - DAY_US, MUSIC: NOW_US - DAY_US - 1})
    assert realtime.keywords(it, NOW_US) == {AUTO}


def test_a_read_of_a_user_brings_the_record_and_the_bid_log_keeps_it(client):
    it = record(values={AUTO: (1, 1, 1)}, recent=[Recent(NOW_US, SEARCH, AUTO)])
    client.set(keys.realtime(user(1)), it.data)
    known, unknown = read_users(client, [user(1), user(2)], 0)
    assert known == User(realtime=Realtime(it.data))
    assert unknown == NOBODY
    bid = Bid(
        event_id="b", time_us=1, exchange="x", auction_id="a", imp_id="1", campaign="c", creative="d", advertiser="e",
        price_micros=1, user=known,
    )  # fmt: skip
    assert decode(encode(bid)) == bid


@pytest.mark.rule("P-71")
def test_forgetting_a_user_takes_the_record_and_its_marks(client):
    client.set(keys.realtime(user(1)), b"r")
    client.set(keys.realtime_marks(user(1)), b"m")
    assert forget(client, user(1)) == 2
    assert client.keys("*") == []


def test_a_record_of_another_version_is_no_user():
    with pytest.raises(CorruptRecord):
        codec.decode_user((None, None, None, None, b"\xff" * 40), 0, 0)
