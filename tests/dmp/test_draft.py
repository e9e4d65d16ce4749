"""Adding acts one by one gives the record that the definition gives for all of them, in whatever order they come."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp import realtime, realtime_batch
from dmp.acts import SUBJECTS, Act, Subject
from dmp.draft import Draft
from dmp.realtime import (
    CART,
    IDLE_S,
    LEAST_TAGS,
    MAX_BYTES,
    MAX_MOMENTS,
    OTHER,
    PURCHASE,
    SEARCH,
    VIEW,
    Basket,
    Moment,
    Parts,
)
from tests.dmp.factories import DAY_US, NOW_US

HOUR_US = 3_600_000_000
TAGS = sorted(SUBJECTS)
A, B = TAGS[:2]


def an_act(time_us=NOW_US, kind=VIEW, weight=1.0, tag=A, shares=None, keywords=(), spent=0):
    return Act(time_us, kind, weight, Subject(tag, ((tag, 1.0),) if shares is None else shares, keywords), spent)


def added(acts, start=None, batch=None):
    """The record after these acts, written and read back after each `batch` of them."""
    held = start
    size = batch or max(1, len(acts))
    for at in range(0, len(acts), size):
        draft = Draft(held)
        for act in acts[at : at + size]:
            draft.add(act)
        held = realtime.decode(draft.finish(bytes(8)))
    return held


def same(found: Parts, expected: Parts) -> bool:
    """Equal, decayed sums within 1e-9 of each other."""
    assert found.sums.keys() == expected.sums.keys()
    for tag, sums in expected.sums.items():
        for mine, theirs in zip(found.sums[tag], sums, strict=True):
            assert math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-100)
    plain = {name: (getattr(found, name), getattr(expected, name)) for name in Parts.__struct_fields__}
    for name in ("nonce", "sums", "raised"):
        del plain[name]
    assert {name: pair for name, pair in plain.items() if pair[0] != pair[1]} == {}
    return True


few_tags = st.sampled_from(TAGS[:40])
subjects = st.builds(
    lambda tag, more, words: Subject(tag, ((tag, 1.0), *((m, 0.5) for m in more if m != tag)) if tag else (), words),
    st.one_of(st.just(0), few_tags), st.sets(few_tags, max_size=2), st.lists(few_tags, max_size=3).map(tuple),
)  # fmt: skip
weights = st.sampled_from([1.0, 1.5, 3.0, 5.0, 8.0])


def acts_within(days):
    times = st.integers(0, days * DAY_US).map(lambda us: NOW_US - us)
    near = st.sampled_from([NOW_US - n * HOUR_US + d for n in (0, 1, 16, 24, 25, 336, 337) for d in (-1, 0, 1)])
    return st.builds(
        lambda at, kind, weight, subject, spent: Act(
            at, kind, weight, subject if kind == SEARCH else subject._replace(keywords=()), spent * (kind == PURCHASE)
        ),
        st.one_of(times, near), st.integers(VIEW, OTHER), weights, subjects, st.integers(0, 10**9),
    )  # fmt: skip


@settings(max_examples=300)
@given(st.lists(acts_within(29), min_size=1, max_size=60), st.randoms(use_true_random=False), st.integers(1, 60))
def test_any_order_and_any_batches_give_the_record_of_the_definition(acts, rng, batch):
    expected = realtime_batch.record(acts)
    shuffled = list(acts)
    rng.shuffle(shuffled)
    found = added(shuffled, batch=batch)
    assert same(realtime.parts(found), expected)
    assert len(found.data) <= MAX_BYTES


@given(st.lists(acts_within(700), min_size=1, max_size=30))
def test_acts_in_order_over_years_give_the_record_of_the_definition(acts):
    """With pauses that start the record anew, and every landmark passed many times."""
    acts.sort()
    assert same(realtime.parts(added(acts, batch=3)), realtime_batch.record(acts))


def test_weights_decay_to_what_the_formula_says():
    acts = [an_act(NOW_US - DAY_US, weight=3.0), an_act(NOW_US - 1_800_000_000, weight=1.0)]
    short, day, long = realtime.interests(added(acts), NOW_US)[A]
    assert short == pytest.approx(3 * math.exp(-48) + math.exp(-1), rel=1e-9)
    assert day == pytest.approx(3 * math.exp(-1) + math.exp(-1 / 48), rel=1e-9)
    assert long == pytest.approx(3 * math.exp(-1 / 14) + math.exp(-1 / 672), rel=1e-9)


def test_the_largest_record_there_can_be_is_within_its_limit():
    draft = Draft(None)
    for i, tag in enumerate(TAGS * 3):
        for kind in (SEARCH, CART):
            draft.add(an_act(NOW_US - i * HOUR_US // 2, kind, tag=tag, keywords=(tag,)))
    moments = [Moment(NOW_US // 1_000_000 - n, n) for n in range(MAX_MOMENTS)]
    draft.judge(moments, {tag: 2**32 - 1 - i for i, tag in enumerate(TAGS)})
    data = draft.finish(bytes(8))
    parts = realtime.parts(realtime.decode(data))
    assert MAX_BYTES - 100 < len(data) <= MAX_BYTES
    assert len(parts.sums) == LEAST_TAGS
    assert parts.evicted == len(TAGS) - LEAST_TAGS
    assert parts.raised == {tag: 2**32 - 1 - i for i, tag in enumerate(TAGS[:24])}
    assert parts.moments == moments


MOST = realtime.tags_that_fit(2, 24, 0, 0, 0, 0)  # beside one hour, one day, and the latest events


def test_the_weakest_tags_go_when_there_are_too_many():
    strong = [an_act(NOW_US - n, weight=2.0, tag=tag) for n, tag in enumerate(TAGS[1 : MOST + 1])]
    found = realtime.parts(added([an_act(NOW_US - 1_000, weight=1.0, tag=TAGS[0]), *strong]))
    assert set(found.sums) == set(TAGS[1 : MOST + 1])
    assert found.evicted == 1
    assert found.events == MOST + 1, "what was evicted stays counted"
    level = realtime.parts(added([an_act(NOW_US, tag=tag) for tag in reversed(TAGS[: MOST + 2])]))
    assert set(level.sums) == set(TAGS[:MOST]), "of equal ones the lower ids stay"


def test_a_record_starts_anew_after_a_month_of_nothing():
    old = an_act(NOW_US - IDLE_S * 1_000_000 - 1, PURCHASE, spent=5)
    found = realtime.parts(added([old, an_act(NOW_US, tag=B)]))
    assert (set(found.sums), found.events, found.spent_micros, found.carts) == ({B}, 1, 0, {})
    assert realtime.parts(added([an_act(NOW_US, tag=B), old])) == found, "and does not take up what was before"
    kept = an_act(NOW_US - IDLE_S * 1_000_000)
    assert realtime.parts(added([kept, an_act(NOW_US)])).events == 2


def test_a_full_tile_stays_full():
    counts = {NOW_US // HOUR_US: (65_534, 0, 0, 0, 0)}
    start = realtime.decode(realtime.encode(Parts(nonce=bytes(8), newest_us=NOW_US, hours=counts)))
    found = realtime.parts(added([an_act()] * 3, start))
    assert found.hours[NOW_US // HOUR_US][VIEW] == 65_535
    assert found.days[NOW_US // DAY_US][VIEW] == 3


def test_a_basket_is_forgotten_by_a_purchase_whichever_is_told_first():
    cart, purchase = an_act(NOW_US - 5, CART), an_act(NOW_US, PURCHASE)
    for acts in ([cart, purchase], [purchase, cart]):
        assert realtime.carts(added(acts)) == {A: Basket(NOW_US, PURCHASE)}
    again = an_act(NOW_US + 1, CART)
    assert realtime.carts(added([again, purchase, cart])) == {A: Basket(NOW_US + 1, CART)}


def test_what_rules_say_takes_the_place_of_what_they_said_and_goes_with_the_hour_it_ended_in():
    draft = Draft(added([an_act()]))
    end_s = NOW_US // 1_000_000 + 60
    draft.judge([Moment(end_s, 1)], {8: end_s, 9: end_s - 30})
    draft.judge([Moment(end_s, 2)], {9: end_s})
    held = realtime.decode(draft.finish(bytes(8)))
    assert realtime.parts(held).moments == Draft(held).moments == [Moment(end_s, 2)]
    assert realtime.raised(held, NOW_US) == {9}
    assert realtime.raised(held, NOW_US + 60_000_000) == set()
    later = realtime.parts(added([an_act(NOW_US + HOUR_US)], held))
    assert (later.raised, later.moments) == ({}, [Moment(end_s, 2)])


def test_the_nonce_is_the_writers():
    draft = Draft(None)
    draft.add(an_act())
    assert draft.finish(b"12345678")[8:16] == b"12345678"
