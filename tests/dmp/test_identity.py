import itertools
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import identity
from dmp.config import IdentityConfig
from dmp.errors import DmpError
from dmp.identity import BLOCK, LINK, UNBLOCK, UNLINK, Statement, append, collect, edges_file, forget, members, read
from tests.dmp.factories import user

TYPES = {range(40): "cookie", range(40, 60): "device", range(60, 80): "email", range(80, 90): "household"}


def type_of(n):
    return next(name for numbers, name in TYPES.items() if n in numbers)


def said(op, a, b=None, at=0):
    both = {} if b is None else {"b_type": type_of(b), "b": user(b)}
    return Statement(op, at, type_of(a), user(a), **both)


def link(a, b, at=0):
    return said(LINK, a, b, at)


def unlink(a, b, at=1):
    return said(UNLINK, a, b, at)


def people(statements, **caps):
    """{user: canonical user} after these statements."""
    graph = identity.replay(identity.records(list(statements)), IdentityConfig(**caps))
    return {number(row["uid"]): number(row["person"]) for row in graph.persons.to_pylist()}


def number(uid):
    return int.from_bytes(uid, "big")


def test_linked_ids_are_one_person_called_by_the_first_seen():
    assert people([link(1, 60, at=5), link(2, 60, at=3)]) == {1: 2, 2: 2, 60: 2}
    assert people([link(1, 60), link(2, 61)]) == {1: 1, 60: 1, 2: 2, 61: 2}


def test_ids_seen_in_the_same_moment_are_told_apart_by_their_bytes():
    assert people([link(3, 60, at=7)]) == {3: 3, 60: 3}


def test_an_older_id_that_joins_names_the_person():
    before = [link(1, 60, at=5)]
    assert people(before) == {1: 1, 60: 1}
    assert people([*before, link(2, 70, at=1), link(2, 60, at=9)]) == {1: 2, 60: 2, 2: 2, 70: 2}


def test_a_split_is_the_replay_without_the_edge():
    assert people([link(1, 60), link(2, 60), unlink(2, 60)]) == {1: 1, 60: 1, 2: 2}


def test_a_pair_is_what_the_latest_record_says_and_apart_at_the_same_time():
    assert people([link(1, 60, at=3), unlink(1, 60, at=2)])[60] == 1
    assert people([link(1, 60, at=2), unlink(60, 1, at=2)])[60] == 60


def test_a_blocked_id_joins_nobody_until_it_is_unblocked():
    joined = [link(1, 60), link(2, 60)]
    assert people([*joined, said(BLOCK, 60, at=1)]) == {1: 1, 2: 2, 60: 60}
    assert people([*joined, said(BLOCK, 60, at=1), said(UNBLOCK, 60, at=2)]) == {1: 1, 2: 1, 60: 1}
    assert people([*joined, said(UNBLOCK, 60, at=1), said(BLOCK, 60, at=1)])[2] == 2


def test_an_id_with_more_partners_than_its_type_may_have_joins_nobody():
    shop = [link(n, 60) for n in range(3)]
    assert people(shop, email=3) == {0: 0, 1: 0, 2: 0, 60: 0}
    assert people(shop, email=2) == {0: 0, 1: 1, 2: 2, 60: 60}
    assert people([*shop, said(BLOCK, 2, at=1)], email=2) == {0: 0, 1: 0, 2: 2, 60: 0}  # a blocked partner is none


def test_partners_count_once_however_often_they_are_seen():
    assert people([link(0, 60, at=n) for n in range(9)], email=1) == {0: 0, 60: 0}


def test_a_household_joins_nobody_into_a_person():
    assert people([link(1, 80), link(2, 80)]) == {1: 1, 2: 2, 80: 80}


def test_a_person_of_too_many_ids_is_nobody():
    chain = [link(n, n + 1) for n in range(5)]
    assert set(people(chain, max_members=6).values()) == {0}
    assert people(chain, max_members=5) == {n: n for n in range(6)}


ids = st.integers(0, 89)
statements = st.one_of(
    st.builds(
        lambda pair, at, op: said(op, *pair, at),
        st.lists(ids, min_size=2, max_size=2, unique=True),
        st.integers(0, 5),
        st.sampled_from([LINK, LINK, UNLINK]),
    ),
    st.builds(lambda n, at, op: said(op, n, at=at), ids, st.integers(0, 5), st.sampled_from([BLOCK, UNBLOCK])),
)


def the_rules(statements, caps, most):
    """{user: canonical user} by the words of the module, one by one."""
    pairs, marks, first = {}, {}, {}
    for s in statements:
        a, b = number(s.a), number(s.b)
        if s.op in (LINK, UNLINK):
            pair = frozenset((a, b))
            pairs[pair] = max(pairs.get(pair, (-1, 0)), (s.time_us, s.op == UNLINK))
            for n in pair:
                seen = [s.time_us] if s.op == LINK else []
                first[n] = min([first.get(n, float("inf")), *seen])
        else:
            marks[a] = max(marks.get(a, (-1, 0)), (s.time_us, s.op == BLOCK))
            first.setdefault(a, float("inf"))
    barred = {n for n, (_, blocked) in marks.items() if blocked}
    open_ = [tuple(pair) for pair, (_, apart) in pairs.items() if not apart and not pair & barred]
    partners = {n: sum(n in pair for pair in open_) for n in first}
    person = {n: {n} for n in first}
    for a, b in open_:
        joins = all(partners[n] <= caps[type_of(n)] and type_of(n) != "household" for n in (a, b))
        if joins and person[a] is not person[b]:
            person[a] |= person[b]
            for n in person[b]:
                person[n] = person[a]
    return {n: min(who, key=lambda m: (first[m], m)) if len(who) <= most else n for n, who in person.items()}


@given(st.lists(statements, max_size=60), st.randoms(use_true_random=False), st.integers(1, 4), st.integers(2, 12))
def test_merges_and_splits_in_any_order_give_the_persons_the_rules_say(made, rng, cap, most):
    caps = {"cookie": cap, "device": cap, "email": 2 * cap, "household": 1}
    expected = the_rules(made, caps, most)
    for _ in range(3):
        rng.shuffle(made)
        assert people(made, max_members=most, **caps) == expected


@given(st.lists(st.lists(st.integers(0, 39), min_size=2, max_size=2, unique=True), min_size=1, max_size=30), st.data())
def test_taking_an_edge_back_leaves_what_was_without_it(pairs, data):
    links = [link(a, b, at=n) for n, (a, b) in enumerate(pairs)]
    a, b = data.draw(st.sampled_from(pairs))
    without = [s for s in links if {s.a, s.b} != {user(a), user(b)}]
    split = people([*links, unlink(a, b, at=100)])
    rest = people(without)
    groups = lambda found: {frozenset(n for n in found if found[n] == p) for p in found.values()}  # noqa: E731
    alone = {frozenset({n}) for n in split if n not in rest}
    assert groups(split) == groups(rest) | alone


# The log


def test_what_was_appended_reads_back_whatever_the_crash_left_behind(tmp_path):
    path = edges_file(tmp_path)
    assert len(read(path)) == 0
    assert append(path, [link(1, 60), link(2, 60)]) == 2
    whole = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = max(0, (cut - 8) // 48)
        assert len(read(path)) == kept
        append(path, [link(3, 61)])
        assert [number(r["a"].tobytes()) for r in read(path)] == [*[1, 2][:kept], 3]


@pytest.mark.parametrize("end", [bytes(48), bytes(96), b"\xff" * 30 + bytes(40)])
def test_blocks_that_a_power_cut_left_unwritten_are_cut_off(tmp_path, end):
    path = edges_file(tmp_path)
    append(path, [link(1, 60)])
    with path.open("ab") as file:
        file.write(end)
    assert len(read(path)) == 1
    append(path, [link(2, 60)])
    assert [number(r["a"].tobytes()) for r in read(path)] == [1, 2]


def test_a_log_broken_before_its_end_is_refused(tmp_path):
    path = edges_file(tmp_path)
    append(path, [link(1, 60), link(2, 60)])
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(DmpError, match="broken at byte 8"):
        read(path)
    path.write_bytes(b"something else")
    with pytest.raises(DmpError, match="no identity log"):
        append(path, [link(1, 60)])


def test_bytes_of_the_first_release_are_read(tmp_path):
    path = edges_file(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"tbedge1\n" + bytes.fromhex("9e91c3c301000300" + "0700000000000000") + user(1) + user(60))
    assert [(r["op"], r["a_type"], r["b_type"], r["time_us"]) for r in read(path)] == [(LINK, 0, 3, 7)]


def test_an_id_is_not_linked_with_itself(tmp_path):
    with pytest.raises(DmpError, match="itself"):
        append(edges_file(tmp_path), [link(1, 60), link(2, 2)])
    assert len(read(edges_file(tmp_path))) == 0


@pytest.mark.rule("P-71")
def test_forgetting_an_id_leaves_no_trace_of_it(tmp_path):
    path = edges_file(tmp_path)
    append(path, [link(1, 60), link(2, 60), link(2, 61), said(BLOCK, 60)])
    assert forget(path, [user(60)]) == 3
    assert user(60) not in path.read_bytes()
    assert people_of(path) == {2: 2, 61: 2}
    assert forget(path, [user(60)]) == 0
    assert forget(tmp_path / "none", [user(60)]) == 0


def people_of(path):
    graph = identity.replay(read(path), IdentityConfig())
    return {number(row["uid"]): number(row["person"]) for row in graph.persons.to_pylist()}


def test_members_are_all_ids_of_a_person():
    graph = identity.replay(identity.records([link(1, 60), link(2, 60), link(3, 61)]), IdentityConfig())
    assert members(graph, user(2)) == [(user(1), "cookie"), (user(2), "cookie"), (user(60), "email")]
    assert members(graph, user(99)) == []


def pairs(*rows):
    """Pairs of ids seen together: (a, b, first time, last time)."""
    made = [
        {"a": user(a), "b": user(b), "a_type": type_of(a), "b_type": type_of(b), "first_us": first, "last_us": last}
        for a, b, first, last in rows
    ]
    schema = pa.schema([("a", pa.binary(16)), ("b", pa.binary(16)), ("a_type", pa.string()), ("b_type", pa.string()),
                        ("first_us", pa.int64()), ("last_us", pa.int64())])  # fmt: skip
    return pa.Table.from_pylist(made, schema=schema)


def test_the_log_grows_with_what_events_teach_and_not_with_events(tmp_path):
    path = edges_file(tmp_path)
    assert collect(path, pairs((1, 60, 10, 20), (2, 60, 10, 10))) == 2
    assert collect(path, pairs((1, 60, 15, 30))) == 0
    assert collect(path, pairs((60, 1, 5, 30))) == 1  # seen earlier than known
    assert collect(path, pairs()) == 0
    append(path, [unlink(1, 60, at=40)])
    assert collect(path, pairs((1, 60, 5, 40))) == 0  # events from before do not undo a decision
    assert people_of(path)[1] == 1
    assert collect(path, pairs((1, 60, 5, 41))) == 1  # together again afterwards
    assert people_of(path) == {1: 1, 60: 1, 2: 1}


def test_persons_scale_to_many_ids():
    rng = random.Random(1)
    made = [link(a, 60 + a % 20, at=rng.randrange(9)) for a in range(40)]
    graph = identity.replay(np.tile(identity.records(made), 100), IdentityConfig())
    assert len(graph.persons) == 60


def test_every_pair_is_listed_with_whether_it_joins():
    graph = identity.replay(identity.records([link(1, 60), link(2, 80), unlink(3, 60)]), IdentityConfig())
    uids = [number(uid) for uid in graph.persons["uid"].to_pylist()]
    assert [(uids[a], uids[b]) for a, b in graph.edges] == [(1, 60), (2, 80)]
    assert graph.joins.tolist() == [True, False]
    assert list(itertools.chain(graph.blocked, graph.capped)) == []
