"""The compiled features are those of their Python twins, to the last bit; and whatever they get, no crash."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dmp import keys, preference, realtime
from dmp.errors import CorruptRecord
from dmp.schema import DIMENSIONS, NOBODY, Contact, User
from dmp.taxonomy import INTERESTS, TAGS, tag_id
from models import features, pairs
from models.context import HOUR_US, Ad, Context
from models.features import Vocabulary
from models.forest import kernel
from tests.growth import growth_kb

compiled = kernel()
pytestmark = pytest.mark.skipif(compiled is None, reason="built without a compiler")

HOUR = 500_000
NOW = HOUR * HOUR_US + 12
BUCKETS = tuple(tag_id(name) for name in ("demographic.age.25_34", "demographic.age.55_64", "rfm.recency.2",
    "rfm.recency.5", "rfm.frequency.1", "demographic.gender.male", "demographic.gender.female"))  # fmt: skip
SOME_TAGS = st.sampled_from([*INTERESTS[:6], *BUCKETS, TAGS[0].id, 4_000_000_000])
CAMPAIGNS = st.sampled_from(["spring", "autumn", "winter"])
CATEGORIES = st.sampled_from(["", "IAB9", "IAB9-30", "IAB9-3", "IAB20", "IAB20-", "-", "é-1", "\ud800"])
VOCABULARY = Vocabulary(
    {
        "search_topic": INTERESTS[:3],
        "user_interest": INTERESTS[1:5],
        "user_last_category": [INTERESTS[0], INTERESTS[2]],
    }
)


def vectors(seed: int) -> bytes:
    made = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return preference.pack(made / np.linalg.norm(made))


VECTORS = st.one_of(st.just(b""), st.integers(0, 3).map(vectors), st.just(bytes(2 * DIMENSIONS)))
ADS = st.lists(
    st.builds(
        Ad,
        campaign=CAMPAIGNS,
        creative=st.just("x"),
        category=CATEGORIES,
        interest=st.one_of(st.just(0), SOME_TAGS),
        target_tags=st.lists(SOME_TAGS, max_size=3).map(tuple),
        audiences=st.frozensets(st.integers(1, 5), max_size=2),
        preference=VECTORS,
        fences=st.frozensets(st.integers(1, 3), max_size=1),
    ),
    min_size=1,
    max_size=5,
)
CONTEXTS = st.builds(
    Context,
    category=CATEGORIES,
    floor_micros=st.integers(0, 2**40),
    topics=st.lists(SOME_TAGS, max_size=2).map(tuple),
    searched=st.lists(SOME_TAGS, max_size=2).map(tuple),
    fences=st.lists(st.integers(1, 3), max_size=1).map(tuple),
)
HOURS = st.integers(HOUR - 200, HOUR + 2)
RECENT = st.builds(realtime.Recent, st.integers(NOW - 2 * HOUR_US, NOW), st.integers(0, 4), SOME_TAGS)
RECORDS = st.builds(
    realtime.Parts,
    nonce=st.just(bytes(8)),
    newest_us=st.integers(NOW - 30 * HOUR_US, NOW + HOUR_US),
    sums=st.dictionaries(SOME_TAGS, st.tuples(*[st.floats(0, 1e3)] * 3), max_size=5),
    hours=st.dictionaries(HOURS, st.tuples(*[st.integers(0, 9)] * 5), max_size=3),
    recent=st.lists(RECENT, max_size=4).map(lambda acts: sorted(acts, reverse=True)),
    carts=st.dictionaries(SOME_TAGS, st.builds(realtime.Basket, st.integers(NOW - HOUR_US, NOW), st.integers(2, 3))),
    keywords=st.dictionaries(SOME_TAGS, st.integers(NOW - HOUR_US, NOW), max_size=2),
    raised=st.dictionaries(SOME_TAGS, st.integers(NOW // 10**6 - 5, NOW // 10**6 + 5), max_size=2),
).map(lambda parts: realtime.decode(realtime.encode(parts)))
USERS = st.builds(
    User,
    tags=st.dictionaries(SOME_TAGS, st.integers(0, 100), max_size=8),
    audiences=st.frozensets(st.integers(1, 5), max_size=3),
    contacts=st.lists(
        st.builds(
            Contact,
            scope=st.sampled_from([keys.number("spring"), keys.number("autumn"), 7]),
            hour=HOURS,
            count=st.integers(0, 65_535),
        ),
        max_size=70,
    ).map(tuple),
    vector=VECTORS,
    realtime=st.one_of(st.none(), RECORDS),
)


def same(one: list[float], other: list[float]) -> bool:
    """Equal in value, sign and type; NaN is NaN."""
    return [(type(x), repr(x)) for x in one] == [(type(x), repr(x)) for x in other]


@settings(max_examples=300)
@given(ADS, CONTEXTS, st.one_of(st.none(), USERS), st.integers(-2, 40), st.data())
def test_the_compiled_pair_features_are_those_of_python(
    ads: list[Ad], context: Context, user: User | None, later_h: int, data: st.DataObject
) -> None:
    columns, now_us = pairs.columns_of(ads), NOW + later_h * HOUR_US
    positions = data.draw(st.lists(st.integers(0, len(ads) - 1), min_size=1, max_size=80))
    expected = pairs.pair_columns(columns, positions, context, user, now_us)
    found = pairs.filler(columns)(positions, context, user, now_us)
    assert all(len(column) == len(positions) for column in found if isinstance(column, list))
    for i in range(len(positions)):
        assert same([*map(float, pairs.row_of(found, i))], [*map(float, pairs.row_of(expected, i))])


@settings(max_examples=300)
@given(CONTEXTS, st.one_of(st.none(), USERS), st.integers(-2, 40))
def test_the_compiled_features_of_a_user_now_are_those_of_python(
    context: Context, user: User | None, later_h: int
) -> None:
    now_us = NOW + later_h * HOUR_US
    expected = features.now_values(VOCABULARY, context, user, now_us)
    assert same(features.now_filler(VOCABULARY)(context, user, now_us), expected)
    assert len(expected) == len(features.NOW_COLUMNS)


def test_each_user_tag_the_features_look_at_counts_in_both() -> None:
    for tag in (tag.id for tag in TAGS):
        for other in (INTERESTS[2], *BUCKETS):
            user = User({other: 50, tag: 50})
            expected = features.now_values(VOCABULARY, Context(), user, NOW)
            assert same(features.now_filler(VOCABULARY)(Context(), user, NOW), expected)


AD = Ad("spring", "x", category="IAB9", interest=INTERESTS[0], target_tags=(INTERESTS[1],))
TWO = replace(AD, target_tags=INTERESTS[:2], audiences=frozenset({1}), fences=frozenset({1}), preference=vectors(0))
FULL = User({INTERESTS[0]: 5}, frozenset({1}), (Contact(keys.number("spring"), HOUR, 1),), vectors(1))


class Odd:
    """Answers for anything, as what it is asked for is not."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def odd(of: Any, **fields: Any) -> Odd:
    return Odd(**{name: getattr(of, name) for name in of.__struct_fields__} | fields)


@pytest.mark.parametrize(
    "user",
    [
        7,
        Odd(),
        odd(FULL, tags=[]),
        odd(FULL, tags={INTERESTS[0]: "5"}),
        odd(FULL, contacts=[]),
        odd(FULL, contacts=(1,)),
        odd(FULL, contacts=(Contact(keys.number("spring"), "x", 1),)),  # type: ignore[arg-type]
        odd(FULL, contacts=(Contact(1, 2, 1 << 60),)),
        odd(FULL, contacts=(Contact(1 << 70, 2, 1),)),
        odd(FULL, audiences=(1,)),
        odd(FULL, audiences=None),
        odd(FULL, vector="text"),
        odd(FULL, vector=b"short"),
        odd(FULL, realtime=7),
    ],
)
def test_a_user_of_the_wrong_kind_is_an_error_and_no_crash(user: Any) -> None:
    refused = 0
    for ask in (
        lambda: features.now_filler(VOCABULARY)(Context(), user, NOW),
        lambda: pairs.filler(pairs.columns_of([AD, TWO]))([0, 1], Context(), user, NOW),
    ):
        try:
            ask()
        except (TypeError, AttributeError, OverflowError, CorruptRecord):
            refused += 1
    assert refused


@pytest.mark.parametrize(
    "context",
    [
        None,
        odd(Context(), category=7),
        odd(Context(), topics=[1]),
        odd(Context(), searched=[INTERESTS[0]]),
        odd(Context(), searched=([],)),
        odd(Context(), fences=7),
    ],
)
def test_a_context_of_the_wrong_kind_is_an_error_and_no_crash(context: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        pairs.filler(pairs.columns_of([AD, TWO]))([0, 1], context, FULL, NOW)
    for floor in ("7", None):
        with pytest.raises((TypeError, AttributeError)):
            features.now_filler(VOCABULARY)(odd(Context(), floor_micros=floor), FULL, NOW)  # type: ignore[arg-type]


def test_positions_and_times_of_the_wrong_kind_are_refused() -> None:
    fill: Any = pairs.filler(pairs.columns_of([AD, TWO]))
    for position in (2, -1, 1 << 70):
        with pytest.raises((IndexError, OverflowError)):
            fill([0, position], Context(), FULL, NOW)
    for args in ((("0",), Context(), FULL, NOW), (["0"], Context(), FULL, NOW), ([0], Context(), FULL, 1.5), ([0],)):
        with pytest.raises(TypeError):
            fill(*args)
    now: Any = features.now_filler(VOCABULARY)
    with pytest.raises(TypeError):
        now(Context(), FULL, "now")
    with pytest.raises(TypeError):
        now(Context())


def test_the_positions_may_change_while_python_is_asked() -> None:
    positions = [0, 1] * 40

    class Emptying(list[int]):
        """Geofences, which are asked about by Python code."""

        def __iter__(self) -> Any:
            positions.clear()
            return super().__iter__()

    found = pairs.filler(pairs.columns_of([AD, TWO]))(positions, odd(Context(), fences=Emptying()), FULL, NOW)  # type: ignore[arg-type]
    assert isinstance(found[0], list)
    assert len(found[0]) == 80


def test_what_the_kernel_is_made_of_is_checked() -> None:
    assert compiled is not None
    column = ((1,), (1,), ((),), (1,), ("",), ("",), (frozenset(),))
    for i, wrong in enumerate(((None,), ("1",), (7,), ("x",), (1,), (1,), ({},))):
        with pytest.raises(TypeError):
            compiled.Pairs(*column[:i], wrong, *column[i + 1 :], False, len, len, len)
        with pytest.raises(ValueError, match="one length"):
            compiled.Pairs(*column[:i], (), *column[i + 1 :], False, len, len, len)
    for known in ([7], [(1,)], [(1, 0, 0, "x")]):
        with pytest.raises(TypeError):
            compiled.Now({}, {}, {}, known, len)
    for kind in (-1, 6):
        with pytest.raises(ValueError, match="kind"):
            compiled.Now({}, {}, {}, [(1, kind, 0, 0.0)], len)
    for made, call in ((compiled.Pairs, "columns"), (compiled.Now, "values")):
        raw = made.__new__(made)
        with pytest.raises((TypeError, ValueError)):
            getattr(raw, call)([], None, None, 0)
    with pytest.raises(ValueError, match="not made"):
        compiled.Now.__new__(compiled.Now).values(Context(), None, 0)


def test_what_python_answers_is_checked() -> None:
    assert compiled is not None
    columns = pairs.columns_of([AD])
    known: list[tuple[int, int, int, float]] = []
    record = replace(FULL, realtime=realtime.decode(realtime.encode(realtime.Parts(nonce=bytes(8)))))
    for answer in (7, (1,), ({}, []), ([], set())):

        def asked(*_: Any, answer: Any = answer) -> Any:
            return answer

        made = compiled.Pairs(
            columns.interests, columns.target, columns.targets, columns.scopes, columns.categories, columns.categories,
            columns.audiences, False, asked, asked, asked,
        )  # fmt: skip
        with pytest.raises(TypeError):
            made.columns([0], Context(), record, NOW)
        with pytest.raises(TypeError):
            compiled.Now({}, {}, {}, known, asked).values(Context(), record, NOW)


def grown_kb(calls: int) -> int:
    """How much the process grows by filling features so many times, also where they cannot be filled."""
    fill, now = pairs.filler(pairs.columns_of([AD, TWO])), features.now_filler(VOCABULARY)
    context = Context(category="IAB9-30", topics=(INTERESTS[0],), searched=(INTERESTS[1],))
    record = realtime.decode(realtime.encode(realtime.Parts(nonce=bytes(8), sums={INTERESTS[0]: (1.0, 1.0, 1.0)})))
    users: list[Any] = [
        FULL, NOBODY, None, replace(FULL, contacts=FULL.contacts * 70, vector=b""), replace(FULL, realtime=record),
        odd(FULL, tags=[]), odd(FULL, contacts=FULL.contacts * 70 + (1,)), odd(FULL, vector="x"),
    ]  # fmt: skip

    def play(rounds: int) -> None:
        for number in range(rounds):
            try:
                now(context, users[number % len(users)], NOW)
                fill([1, 0, 1], context, users[number % len(users)], NOW)
            except (TypeError, AttributeError):
                pass

    return growth_kb(play, calls)


def test_filling_features_leaves_no_memory_behind() -> None:
    assert grown_kb(40_000) < 1_000  # a leaked float a call would be this much


@pytest.mark.long
def test_filling_features_a_million_times_leaves_no_memory_behind() -> None:
    assert grown_kb(1_000_000) < 1_000
    assert math.isnan(features.now_filler(VOCABULARY)(Context(), NOBODY, NOW)[1])
