from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import codec
from dmp.codec import Profile, visible
from dmp.errors import CorruptRecord
from dmp.schema import NOBODY, Contact, Tag, User

tags = st.builds(Tag, st.integers(0, 2**32 - 1), st.integers(0, 100), st.integers(0, 65_535), st.integers(0, 255))
u32 = st.integers(0, 2**32 - 1)


def a_user(profile, live):
    """As the bid path reads it."""
    return codec.decode_user((profile, None, None, None, None), live, 0)


@given(u32, st.lists(tags, max_size=100))
def test_a_profile_reads_back_in_eight_bytes_a_tag_and_eight_more(generation, held):
    data = codec.encode_profile(generation, held)
    assert len(data) == 8 + 8 * len(held)
    assert codec.decode_profile(data) == Profile(generation, tuple(held))
    assert codec.generation_of(data) == generation
    assert a_user(data, generation).tags == {tag.tag: tag.score for tag in held}


def test_a_hundred_tags_take_less_than_four_fifths_of_a_kilobyte():
    assert len(codec.encode_profile(1, [Tag(n, 1, 1, 1) for n in range(100)])) == 808


def test_profiles_of_the_first_release_are_read():
    data = bytes.fromhex("0100020005000000e9030000fa0700006401204e214e0102")
    assert codec.decode_profile(data) == Profile(5, (Tag(1001, 100, 20_000, 1), Tag(2042, 1, 20_001, 2)))
    assert codec.encode_profile(5, [Tag(1001, 100, 20_000, 1), Tag(2042, 1, 20_001, 2)]) == data


def test_the_second_version_keeps_a_preference_vector_behind_the_columns():
    vector = bytes(range(128))
    first = bytes.fromhex("0100020005000000e9030000fa0700006401204e214e0102")
    data = codec.encode_profile(5, [Tag(1001, 100, 20_000, 1), Tag(2042, 1, 20_001, 2)], vector)
    assert data == b"\x02" + first[1:] + vector
    assert codec.decode_profile(data) == Profile(5, (Tag(1001, 100, 20_000, 1), Tag(2042, 1, 20_001, 2)), vector)
    assert a_user(data, 5).tags == {1001: 100, 2042: 1}
    assert a_user(data, 5).vector == vector
    assert a_user(first, 5).vector == codec.decode_profile(first).vector == b""
    assert codec.decode_profile(data + b"more").vector == vector


def test_a_users_vector_is_read_with_the_tags():
    data = codec.encode_profile(3, [], bytes(range(128)))
    assert codec.decode_user([data, None, None, None, None], 3, 100).vector == bytes(range(128))
    assert codec.decode_user([data, None, None, None, None], 2, 100) == NOBODY


def test_audiences_and_contacts_of_the_first_release_are_read():
    assert codec.decode_audiences(bytes.fromhex("010a000000000000000b000000e8030000")) == [(10, 0), (11, 1000)]
    assert codec.decode_contacts(bytes.fromhex("0105000000801a06000200")) == (Contact(5, 400_000, 2),)


def test_later_releases_may_append_to_a_profile():
    assert codec.decode_profile(codec.encode_profile(1, [Tag(1, 2, 3, 4)]) + b"more").tags == (Tag(1, 2, 3, 4),)


@given(st.lists(st.tuples(u32, u32), max_size=50))
def test_audiences_read_back(members):
    assert codec.decode_audiences(codec.encode_audiences(members)) == members


@given(st.lists(st.builds(Contact, u32, u32, st.integers(0, 65_535)), max_size=64))
def test_contacts_read_back_and_a_full_record_stays_small(contacts):
    data = codec.encode_contacts(contacts)
    assert codec.decode_contacts(data) == tuple(contacts)
    assert len(data) <= 641


@pytest.mark.parametrize("read", [codec.decode_profile, codec.decode_audiences, codec.decode_contacts])
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_as_corrupt(read, data):
    with suppress(CorruptRecord):
        read(data)


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (codec.decode_profile, b""),
        (codec.decode_profile, b"\x03\x00\x00\x00\x01\x00\x00\x00"),  # version 3
        (codec.decode_profile, b"\x02\x00\x00\x00\x01\x00\x00\x00" + bytes(127)),  # a vector has 128 bytes
        (codec.decode_profile, b"\x01\x00\x02\x00\x01\x00\x00\x00" + bytes(15)),  # two tags need 16 bytes
        (codec.decode_audiences, b"\x01\x00"),
        (codec.decode_audiences, b"\x02"),
        (codec.decode_contacts, b"\x01" + bytes(9)),
        (codec.decode_contacts, b""),
    ],
)
def test_unknown_versions_and_torn_records_are_refused(read, data):
    with pytest.raises(CorruptRecord):
        read(data)


def bank(generation):
    return None if generation is None else codec.encode_profile(generation, [Tag(generation, 1, 1, 1)])


@pytest.mark.parametrize(
    ("banks", "live", "seen"),
    [
        ((None, None), 5, None),
        ((4, None), 5, 4),
        ((None, 5), 5, 5),
        ((4, 5), 5, 5),
        ((5, 4), 5, 5),
        ((4, 6), 5, 4),  # 6 is being built
        ((6, 4), 5, 4),
        ((6, 7), 5, None),
        ((1, None), 0, None),  # nothing was ever published
    ],
)
def test_a_reader_sees_the_highest_generation_not_above_the_live_one(banks, live, seen):
    assert visible(*map(bank, banks), live) == bank(seen)


def test_a_user_is_decoded_from_the_five_values_of_a_read():
    values = [
        codec.encode_profile(3, [Tag(7, 50, 1, 1)]),
        codec.encode_profile(4, []),
        codec.encode_audiences([(1, 0), (2, 100), (3, 101)]),
        codec.encode_contacts([Contact(9, 8, 7)]),
        None,
    ]
    assert codec.decode_user(values, 3, 100) == User({7: 50}, frozenset({1, 3}), (Contact(9, 8, 7),))
    assert codec.decode_user(values, 4, 100).tags == {}  # the tombstone of generation 4
    assert codec.decode_user([None] * 5, 3, 100) == NOBODY
