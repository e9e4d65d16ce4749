import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import marks
from dmp.events import View
from tests.dmp.factories import act

hashes = st.binary(min_size=8, max_size=8)
seconds = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(hashes, seconds), max_size=20), hashes, seconds)
def test_a_mark_is_found_where_a_mark_stands_and_nowhere_else(put, asked, came_s):
    stored = b"".join(marks.made(mark, until_s) for mark, until_s in put)
    expected = any(mark == asked and until_s >= came_s for mark, until_s in put)
    assert marks.holds(stored, asked, came_s) is expected
    for mark, until_s in put:
        assert marks.holds(stored, mark, until_s)


@given(st.lists(st.tuples(hashes, seconds), max_size=20), seconds)
def test_only_marks_nobody_needs_are_dropped(put, came_s):
    stored = b"".join(marks.made(mark, until_s) for mark, until_s in put)
    left = marks.live(stored, came_s)
    assert stored.endswith(left)
    assert len(left) % marks.BYTES == 0
    for mark, until_s in put:
        if until_s >= came_s:
            assert marks.holds(left, mark, until_s)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"event_id": "a"}, {"event_id": "a", "category": "x", "days_ago": 3}, True),
        ({"event_id": "a"}, {"event_id": "b"}, False),
        ({"event_id": "a", "source": "s"}, {"event_id": "a", "source": "t"}, False),
        ({"event_id": "ab", "source": "c"}, {"event_id": "b", "source": "ca"}, False),
    ],
)
def test_an_event_is_known_by_its_source_and_its_id_there(one, other, same):
    assert (marks.of(act(1, View, **one)) == marks.of(act(1, View, **other))) is same


def test_marks_live_longer_than_an_event_can_be_in_time():
    assert marks.life_s(3_600) >= 3_600 + 300
