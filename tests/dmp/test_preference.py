import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import preference as p
from dmp.errors import CorruptRecord
from dmp.schema import DIMENSIONS, VECTOR_BYTES


def axis(n):
    vector = np.zeros(DIMENSIONS, np.float32)
    vector[n] = 1
    return vector


def a_space(**items):
    """Items by number 1, 2, ... in the order given, with these vectors."""
    return p.space_of(range(1, len(items) + 1), np.array(list(items.values()), np.float32))


PLANE = a_space(travel=2 * axis(0), food=3 * axis(1))


@pytest.mark.parametrize(("acts", "share"), [(0, 0.0), (8, 0.5), (24, 0.75), (72, 0.9)])
def test_the_session_counts_n_of_n_plus_eight(acts, share):
    mixed = p.mix(axis(0), axis(1), acts)
    assert mixed[1] / (mixed[0] + mixed[1]) == pytest.approx(share)
    assert np.linalg.norm(mixed) == pytest.approx(1)


def test_what_is_missing_leaves_the_other():
    assert p.mix(None, None, 5) is None
    assert p.mix(axis(0), None, 5).tolist() == axis(0).tolist()
    assert p.mix(None, axis(1), 0).tolist() == axis(1).tolist()


def test_tastes_that_cancel_out_are_no_taste():
    assert p.mix(axis(0), -axis(0), 8) is None


def test_the_fold_in_solves_equation_four_of_hu_koren_volinsky():
    # one axis an item, so each coordinate is y (1 + 40 w) / (y^2 + 40 w y^2 + .05)
    travel, food = 2 * 41 / (4 + 160 + 0.05), 3 * 21 / (9 + 180 + 0.05)
    length = math.hypot(travel, food)
    found = p.fold_in(PLANE, [(1, 1.0), (2, 0.5)])
    assert found[:2] == pytest.approx([travel / length, food / length], rel=1e-5)
    assert not found[2:].any()


def test_the_mean_weighs_the_items_vectors():
    assert p.fold_in(PLANE, [(1, 3.0), (2, 2.0)], "mean")[:2] == pytest.approx([math.sqrt(0.5)] * 2)


def test_only_known_acts_of_the_last_fifty_count():
    assert p.fold_in(PLANE, []) is None
    assert p.fold_in(PLANE, [(99, 1.0), (1, 0.0)]) is None
    long_ago = [(1, 1.0)] + [(2, 1.0)] * p.RECENT_ACTS
    assert p.fold_in(PLANE, long_ago) == pytest.approx(axis(1))


def test_instant_is_the_mix_of_both():
    assert p.instant(PLANE, axis(0), [(2, 1.0)], 8) == pytest.approx(p.mix(axis(0), axis(1), 8))
    assert p.instant(PLANE, None, [], 0) is None


def test_an_ad_points_where_its_tags_point_however_popular_each_is():
    assert p.of_tags(PLANE, [1, 2, 77])[:2] == pytest.approx([math.sqrt(0.5)] * 2)
    assert p.of_tags(PLANE, {1: 3.0, 2: 4.0})[:2] == pytest.approx([0.6, 0.8])
    assert p.of_tags(PLANE, [77]) is None


def test_a_match_is_the_cosine_and_unknown_is_not_a_number():
    assert p.preference_match(p.of_tags(PLANE, {1: 3.0, 2: 4.0}), axis(1)) == pytest.approx(0.8)
    assert math.isnan(p.preference_match(None, axis(1)))
    assert math.isnan(p.preference_match(axis(1), None))


@given(st.lists(st.floats(-1, 1, width=32), min_size=DIMENSIONS, max_size=DIMENSIONS))
def test_a_stored_vector_points_where_it_did_to_a_thousandth(values):
    vector = p.unit(np.array(values, np.float32))
    if vector is not None:
        data = p.pack(vector)
        assert len(data) == VECTOR_BYTES
        assert float(p.unpack(data) @ vector) > 0.999


def test_no_vector_is_none_and_a_torn_one_is_refused():
    assert p.unpack(b"") is None
    assert p.unpack(bytes(VECTOR_BYTES)) is None
    with pytest.raises(CorruptRecord, match="126 bytes"):
        p.unpack(bytes(126))


def test_a_space_reads_back():
    again = p.decode_space(p.encode_space(PLANE))
    assert again.rows == {1: 0, 2: 1}
    assert again.factors.tolist() == PLANE.factors.tolist()
    assert again.gram.tolist() == PLANE.gram.tolist()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        p.encode_space(PLANE)[:-1],
        p.encode_space(PLANE).replace(b"\xa7version\x01", b"\xa7version\x02"),
        p.encode_space(a_space(broken=axis(0) * np.float32("nan"))),
    ],
)
def test_what_is_no_space_is_refused(data):
    with pytest.raises(CorruptRecord):
        p.decode_space(data)
