import operator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from dmp import bitmaps, taxonomy
from dmp.bitmaps import Bitmaps, meant
from dmp.errors import CorruptRecord
from dmp.expression import And, Everybody, HasTag, Member, Not, Or, Scored, Seen, parse
from dmp.generations import TAG_COLUMNS
from dmp.grouped import grouped
from tests.dmp.factories import DAY_US, tags_table, user

TODAY = 20_000
SIGNS = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}
TAGS = (1033, 3605, 1001)
users = st.dictionaries(
    st.integers(0, 300),
    st.dictionaries(st.sampled_from(TAGS), st.tuples(st.integers(0, 100), st.integers(19_900, TODAY)), min_size=1),
    max_size=40,
)
signs = st.sampled_from(sorted(SIGNS))
leaves = st.one_of(
    st.just(Everybody()),
    st.builds(HasTag, st.lists(st.sampled_from([*TAGS, 7]), min_size=1, max_size=2).map(tuple)),
    st.builds(Scored, st.tuples(st.sampled_from(TAGS)), signs, st.integers(0, 100)),
    st.builds(Seen, signs, st.integers(0, 120)),
    st.builds(Member, st.just("acme"), st.just("buyers")),
)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


def a_table(people):
    rows = [
        {"uid": user(n), "tag": tag, "score": score, "as_of_day": day, "source": 1}
        for n, tags in people.items()
        for tag, (score, day) in tags.items()
    ]
    return pa.Table.from_pylist(rows, schema=TAG_COLUMNS)


def is_meant(expression, n, tags):
    """The rule, for one user: {tag: (score, day)}."""
    match expression:
        case Everybody():
            return True
        case HasTag(wanted):
            return any(tag in tags for tag in wanted)
        case Scored(wanted, sign, score):
            return any(tag in tags and SIGNS[sign](tags[tag][0], score) for tag in wanted)
        case Seen(sign, days):
            return SIGNS[sign](TODAY - max(day for _, day in tags.values()), days)
        case Member():
            return n % 2 == 0
        case Not(inner):
            return not is_meant(inner, n, tags)
        case And(parts):
            return all(is_meant(part, n, tags) for part in parts)
        case Or(parts):
            return any(is_meant(part, n, tags) for part in parts)


@settings(deadline=None, max_examples=150)
@given(people=users, asked=st.lists(expressions, min_size=1, max_size=6))
def test_an_expression_means_exactly_the_users_that_keep_its_rule(tmp_path_factory, people, asked):
    folder = tmp_path_factory.mktemp("generation")
    bitmaps.make(folder, grouped(a_table(people)), TODAY * DAY_US)
    index = Bitmaps(folder)
    even = index.numbers(user(n) for n in range(0, 301, 2))
    for _ in range(2):  # answers must not spoil what is stored
        for expression in asked:
            found = list(index.uids(meant(expression, index, lambda _: even)))
            assert found == [user(n) for n, tags in sorted(people.items()) if is_meant(expression, n, tags)]
    index.close()


def test_uids_with_any_bytes_keep_their_order_and_meet_themselves(tmp_path):
    odd = [b"\0" * 15 + b"\1", b"\x7f" * 16, b"\x80" + b"\0" * 15, b"\xff" * 16, b"a" + b"\0" * 15]
    rows = [{"uid": uid, "tag": 1033, "score": 1, "as_of_day": TODAY, "source": 1} for uid in odd]
    bitmaps.make(tmp_path, grouped(pa.Table.from_pylist(rows, schema=TAG_COLUMNS)), TODAY * DAY_US)
    index = Bitmaps(tmp_path)
    assert list(index.uids(index.everybody)) == sorted(odd)
    assert list(index.numbers([b"\x80" + b"\0" * 15, b"b" + b"\0" * 15, b"\0" * 16])) == [3]
    index.close()


def test_bitmaps_that_leave_the_memory_are_read_again(tmp_path, monkeypatch):
    people = {n: dict.fromkeys(TAGS, n % 101) for n in range(1, 500)}
    bitmaps.make(tmp_path, grouped(tags_table(people)), TODAY * DAY_US)
    monkeypatch.setattr(bitmaps, "CACHE_BYTES", 1)
    index = Bitmaps(tmp_path)
    text = " and ".join(f"{taxonomy.tag_name(tag)} >= 37" for tag in TAGS)
    wanted = [n for n in range(1, 500) if n % 101 >= 37]
    assert len(meant(parse(text), index, lambda _: BitMap())) == len(wanted)
    index.close()


def test_bitmaps_of_another_release_are_refused_with_what_to_do(tmp_path):
    bitmaps.make(tmp_path, grouped(tags_table({1: {1033: 1}})), TODAY * DAY_US)
    path = tmp_path / bitmaps.INDEX_FILE
    path.write_text(path.read_text().replace('"version":1', '"version":99'))
    with pytest.raises(CorruptRecord, match="build again"):
        Bitmaps(tmp_path)
    path.write_text("{")
    with pytest.raises(CorruptRecord, match="remove it"):
        Bitmaps(tmp_path)


@settings(deadline=None)
@given(people=users, seed=st.randoms(use_true_random=False))
def test_grouped_rows_are_the_rows_in_order_of_user_and_tag(people, seed):
    table = a_table(people)
    order = list(range(len(table)))
    seed.shuffle(order)
    found = grouped(table.take(pa.array(order, pa.int64())))
    rows = [
        (found.uid(n), *(int(column[at]) for column in (found.tag, found.score, found.as_of_day, found.source)))
        for n in range(found.users)
        for at in range(found.starts[n], found.starts[n + 1])
    ]
    assert rows == sorted(tuple(row.values()) for row in table.to_pylist())


def test_numbers_too_wide_for_one_word_are_grouped_all_the_same(monkeypatch):
    from dmp import grouped as module

    table = a_table({2: {3605: (5, 19_990), 1001: (7, 20_000)}, 1: {1033: (100, 19_900)}})
    packed = grouped(table)
    monkeypatch.setattr(module, "_WORD", 1)
    plain = grouped(table)
    assert packed.uids == plain.uids
    for name in ("starts", "tag", "score", "as_of_day", "source"):
        assert getattr(packed, name).tolist() == getattr(plain, name).tolist()
