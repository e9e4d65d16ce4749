from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import lookups
from models.forest import kernel
from models.lookups import look_up, ones, plain_look_up, plain_ones

compiled = kernel()
here = pytest.mark.skipif(compiled is None, reason="built without a compiler")


@given(st.sets(st.integers(0, 3_000)), st.integers(0, 60))
def test_ones_are_the_lowest_set_bits(bits: set[int], limit: int) -> None:
    mask = sum(1 << bit for bit in bits)
    assert ones(mask, limit) == plain_ones(mask, limit) == sorted(bits)[:limit]


@given(
    st.dictionaries(st.integers(0, 20), st.one_of(st.integers(), st.booleans())),
    st.lists(st.integers(0, 25), min_size=1).map(tuple),
    st.data(),
)
def test_what_is_known_of_some_entries_stands_in_their_order(
    known: dict[int, Any], column: tuple[int, ...], data: st.DataObject
) -> None:
    positions = data.draw(st.lists(st.integers(0, len(column) - 1)))
    expected = [known.get(column[position], -1) for position in positions]
    assert look_up(known, column, positions, -1) == plain_look_up(known, column, positions, -1) == expected


@here
def test_the_compiled_look_ups_refuse_what_does_not_fit() -> None:
    assert compiled is not None
    assert lookups.look_up is compiled.look_up
    for position in (2, -1):
        with pytest.raises(IndexError, match="no such position"):
            compiled.look_up({}, (1, 2), [0, position], 0)
    for wrong in (([], (1,), [0]), ({}, [1], [0]), ({}, (1,), (0,)), ({}, (1,), ["0"]), ({}, ([],), [0])):
        with pytest.raises(TypeError):
            compiled.look_up(*wrong, 0)
    with pytest.raises(TypeError):
        compiled.ones("x", 1)
    with pytest.raises(TypeError):
        compiled.ones(b"x", "1")
