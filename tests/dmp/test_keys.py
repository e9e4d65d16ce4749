import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import keys

uids = st.binary(min_size=16, max_size=16)


def slot_tag(key: bytes) -> bytes:
    """What Redis Cluster hashes: the text between the first { and the next }."""
    found = re.search(rb"\{([^}]+)\}", key)
    assert found
    return found[1]


@given(uids)
def test_all_keys_of_a_user_lie_in_one_slot(uid):
    everything = [
        *keys.user_keys(uid), keys.profile(uid, 0), keys.profile(uid, 1), keys.audiences(uid), keys.contacts(uid),
        keys.contact_mark(uid, "b:impression"), keys.realtime(uid), keys.realtime_marks(uid),
    ]  # fmt: skip
    assert {slot_tag(key) for key in everything} == {keys.text(uid)}


@given(uids)
def test_the_keys_of_a_read_are_the_keys_their_writers_use(uid):
    assert keys.user_keys(uid) == (
        keys.profile(uid, 0), keys.profile(uid, 1), keys.audiences(uid), keys.contacts(uid), keys.realtime(uid)
    )  # fmt: skip
    assert keys.uid_of(keys.profile(uid, 1)) == uid


@given(uids, uids)
def test_two_users_never_share_a_key(one, other):
    assert (keys.text(one) == keys.text(other)) == (one == other)
    assert re.fullmatch(rb"[A-Za-z0-9_-]{22}", keys.text(one))


def test_keys_of_the_first_release_keep_their_spelling():
    uid = bytes(range(240, 256))
    assert keys.user_keys(uid)[:4] == (
        b"prof:{8PHy8_T19vf4-fr7_P3-_w}:0", b"prof:{8PHy8_T19vf4-fr7_P3-_w}:1",
        b"aud:{8PHy8_T19vf4-fr7_P3-_w}", b"fc:{8PHy8_T19vf4-fr7_P3-_w}",
    )  # fmt: skip
    assert keys.GENERATION == b"gen:live"


@given(uids, st.integers(1, 1024))
def test_the_keys_of_an_event_partition_lie_in_one_slot(uid, partitions):
    partition = keys.event_partition(uid, partitions)
    assert 0 <= partition < partitions
    all_of_it = (keys.events(partition), keys.unsettled(partition), keys.event_owner(partition))
    assert {slot_tag(key) for key in all_of_it} == {b"e%d" % partition}


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_money_keys_of_a_campaign_lie_in_one_slot(campaign, event):
    partition = keys.money_partition(campaign)
    assert 0 <= partition < keys.MONEY_PARTITIONS
    tags = {slot_tag(keys.spend(campaign, 20_000)), slot_tag(keys.notices(partition))}
    assert tags == {b"m%d" % partition}
    if event.isascii():
        assert slot_tag(keys.money_mark(campaign, event)) in tags


@pytest.mark.parametrize("name", ["", "acme/spring", "猫"])
def test_numbers_of_names_are_stable_32_bit(name):
    assert 0 <= keys.number(name) < 2**32
    assert keys.number(name) == keys.number(name)


def test_the_number_of_a_name_is_the_first_four_bytes_of_its_blake2b():
    assert keys.number("acme/spring") == 0x852B12EF  # b2sum -l 32, bytes reversed
