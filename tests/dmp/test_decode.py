"""The compiled decoder of users answers as its Python twin does, to whatever bytes it gets."""

import random
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp import codec, realtime
from dmp.codec import plain_user
from dmp.compiled import compiled
from dmp.errors import CorruptRecord
from dmp.schema import Contact, Tag, User
from tests.growth import growth_kb

module = compiled("dmp._decode", codec.DECODE_VERSION)
pytestmark = pytest.mark.skipif(module is None, reason="built without a compiler")

u32 = st.integers(0, 2**32 - 1)
TAGS = st.builds(Tag, u32, st.integers(0, 255), st.integers(0, 65_535), st.integers(0, 255))
PROFILES = st.builds(
    codec.encode_profile, st.integers(0, 5), st.lists(TAGS, max_size=40), st.sampled_from([b"", bytes(range(128))])
)
AUDIENCES = st.lists(st.tuples(u32, st.integers(0, 9)), max_size=5).map(codec.encode_audiences)
CONTACTS = st.lists(st.builds(Contact, u32, u32, st.integers(0, 65_535)), max_size=5).map(codec.encode_contacts)
MOMENTS = st.lists(st.builds(realtime.Moment, u32, u32), max_size=2)
RECENT = st.builds(
    realtime.Parts,
    nonce=st.just(bytes(8)),
    sums=st.dictionaries(u32, st.tuples(*[st.floats(0, 1)] * 3), max_size=3),
    carts=st.dictionaries(u32, st.builds(realtime.Basket, st.integers(0, 9), st.integers(2, 3)), max_size=2),
    keywords=st.dictionaries(u32, st.integers(0, 9), max_size=2),
    moments=MOMENTS,
).map(realtime.encode)


def answer(decode: Any, values: Sequence[bytes | None], live: Any, now_s: Any) -> object:
    """The user, or the error and what it says."""
    try:
        user = decode(values, live, now_s)
    except Exception as error:  # noqa: BLE001 - whatever it is, both must give it
        return type(error), str(error)
    assert isinstance(user, User)
    return [user, *map(type, (user.tags, user.audiences, user.contacts, user.vector)), list(user.tags.items())]


def both(values: Sequence[bytes | None], live: Any = 3, now_s: Any = 5) -> object:
    """What both decoders answer, as one."""
    found = answer(codec.decode_user, values, live, now_s)
    assert found == answer(plain_user, values, live, now_s)
    return found


@settings(max_examples=300)
@given(*[st.one_of(st.none(), PROFILES)] * 2, st.one_of(st.none(), AUDIENCES), st.one_of(st.none(), CONTACTS),
       st.one_of(st.none(), RECENT), st.integers(-1, 6), st.integers(0, 9))  # fmt: skip
def test_what_was_stored_is_decoded_by_both_alike(
    bank0: bytes | None,
    bank1: bytes | None,
    audiences: bytes | None,
    contacts: bytes | None,
    recent: bytes | None,
    live: int,
    now_s: int,
) -> None:
    assert isinstance(both([bank0, bank1, audiences, contacts, recent], live, now_s), list)


@settings(max_examples=500)
@given(st.data())
def test_what_is_cut_lengthened_or_changed_gets_the_same_answer_of_both(data: st.DataObject) -> None:
    values = [data.draw(st.one_of(st.none(), one)) for one in (PROFILES, PROFILES, AUDIENCES, CONTACTS, RECENT)]
    at = data.draw(st.integers(0, 4))
    record = bytearray(values[at] or b"")
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 47), st.integers(0, 255)), max_size=3)):
        if place < len(record):
            record[place] = byte
    end = data.draw(st.integers(0, len(record)))
    values[at] = bytes(record[: end if data.draw(st.booleans()) else len(record)]) + data.draw(st.binary(max_size=12))
    both(values)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=200)), min_size=5, max_size=5))
def test_random_bytes_get_the_same_answer_of_both(values: list[bytes | None]) -> None:
    both(values)


def fuzzed(n: int, seed: int) -> int:
    """How many of n damaged users both decode, alike to the last."""
    rng = random.Random(seed)
    held = [Tag(rng.randrange(2**32), rng.randrange(101), 20_000, 1) for _ in range(20)]
    sound = [
        codec.encode_profile(3, held, bytes(128)), codec.encode_profile(2, held[:3]),
        codec.encode_audiences([(1, 0), (2, 9), (3, 4)]), codec.encode_contacts([Contact(1, 2, 3)] * 4),
        realtime.encode(realtime.Parts(nonce=bytes(8), sums={7: (1.0, 1.0, 1.0)}, moments=[realtime.Moment(1, 2)])),
    ]  # fmt: skip
    decoded = 0
    for _ in range(n):
        values: list[bytes | None] = list(sound)
        for at in rng.sample(range(5), rng.randint(1, 2)):
            record = bytearray(sound[at])
            for _ in range(rng.randint(0, 3)):
                record[rng.randrange(min(len(record), 44))] = rng.choice((0, 1, 2, 3, rng.randrange(256), 255))
            del record[rng.choice((len(record), rng.randrange(len(record) + 1))) :]
            values[at] = bytes(record)
        decoded += isinstance(both(values), list)
    return decoded


def test_damaged_records_get_the_same_answer_of_both() -> None:
    assert 300 < fuzzed(3_000, 1) < 2_700


@pytest.mark.long
def test_a_hundred_thousand_damaged_records_get_the_same_answer_of_both() -> None:
    assert 10_000 < fuzzed(100_000, 2) < 90_000


def test_what_is_no_record_at_all_is_refused_as_python_refuses_it() -> None:
    profile = codec.encode_profile(3, [Tag(7, 1, 1, 1)])
    one: Any
    for one in (7, "text", bytearray(profile), [1]):
        for at in range(5):
            values: list[Any] = [None] * 5
            values[at] = one
            both(values)
    for values in ([], [None] * 4, [None] * 6, None, 7, dict.fromkeys(range(5))):  # type: ignore[assignment]
        both(values)
    for live, now_s in ((None, 5), (3, None), (2**80, 5), (-(2**80), 5), (3, 2**80), (3.5, 5), (True, 5)):
        both([profile, None, codec.encode_audiences([(1, 9)]), None, None], live, now_s)


def test_the_decoder_checks_how_it_is_called() -> None:
    assert module is not None
    with pytest.raises(TypeError):
        codec.decode_user()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="not made"):
        module.Decoder.__new__(module.Decoder).user([None] * 5, 0, 0)
    with pytest.raises(TypeError):
        module.Decoder()
    made = module.Decoder(User, Contact, realtime.Realtime, plain_user)
    with pytest.raises(TypeError, match="once"):
        made.__init__(User, Contact, realtime.Realtime, plain_user)


def test_a_bank_above_the_live_generation_is_not_seen() -> None:
    banks = [codec.encode_profile(5, [Tag(1, 9, 1, 1)]), codec.encode_profile(4, [Tag(2, 8, 1, 1)])]
    assert [codec.decode_user([*banks, None, None, None], live, 0).tags for live in (3, 4, 5)] == [{}, {2: 8}, {1: 9}]
    assert codec.decode_user([*banks[::-1], None, None, None], 9, 0).tags == {1: 9}


def grown_kb(calls: int) -> int:
    """How much the process grows by so many decodings, a fifth of them of what cannot be decoded."""
    profile = codec.encode_profile(3, [Tag(1_000 + n, 1, 1, 1) for n in range(20)], bytes(128))
    recent = realtime.encode(realtime.Parts(nonce=bytes(8)))
    audiences, contacts = codec.encode_audiences([(1_000, 0)]), codec.encode_contacts([Contact(1_000, 2_000, 3_000)])
    users: list[list[bytes | None]] = [
        [profile, profile, audiences, contacts, recent], [None] * 5, [profile, None, b"", b"", b""],
        [None, profile, audiences, contacts, struct.pack("<B", 9)], [profile[:-1], None, None, None, None],
    ]  # fmt: skip

    def play(n: int) -> None:
        for number in range(n):
            with suppress(CorruptRecord):
                codec.decode_user(users[number % 5], 3, 5)

    return growth_kb(play, calls)


def test_decoding_leaves_no_memory_behind() -> None:
    assert grown_kb(60_000) < 1_000  # a leaked int a call would be this much


@pytest.mark.long
def test_decoding_a_million_times_leaves_no_memory_behind() -> None:
    assert grown_kb(1_000_000) < 1_000
