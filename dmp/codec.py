"""User records <-> bytes. Each starts with a version byte; later versions only append.

Profile, version 1, little endian, 8 + 8 n bytes for n tags (808 for 100): u8 version, u8 flags (0),
u16 n, u32 generation, then columns: u32 tag[n], u8 score[n], u16 as_of_day[n], u8 source[n].
Version 2 is version 1 with the long-term preference vector after the columns: 128 bytes (`dmp.preference.pack`).
A profile of no tags and no vector is a tombstone: the user has none as of that generation.
Audiences, version 1, 1 + 8 n bytes: u8 version, then n x (u32 audience, u32 expires_s, 0 = never).
Contacts, version 1, 1 + 10 n bytes, n <= 64: u8 version, then n x (u32 scope, u32 hour, u16 count).
The real-time record has a file of its own, `dmp.realtime`.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import starmap

import msgspec

from dmp import realtime
from dmp.compiled import compiled
from dmp.errors import CorruptRecord
from dmp.schema import VECTOR_BYTES, Contact, Realtime, Tag, User

VERSION = 1
WITH_VECTOR = 2  # version of a profile with a preference vector
MAX_CONTACTS = 64
DECODE_VERSION = 1  # of `_decode.c`; one built from other sources is not called
_NONE: frozenset[int] = frozenset()
_HEAD = struct.Struct("<BBHI")
_PAIR = struct.Struct("<II")
_CONTACT = struct.Struct("<IIH")


class Profile(msgspec.Struct, frozen=True, gc=False):
    """A user's long-term tags as one generation wrote them. vector: see `dmp.preference.pack`; b"" for none."""

    generation: int
    tags: tuple[Tag, ...] = ()
    vector: bytes = b""


def encode_profile(generation: int, tags: Sequence[Tag], vector: bytes = b"") -> bytes:
    """Pack tags in the order given; at most 65,535. Raises struct.error on values out of range."""
    n = len(tags)
    return b"".join(
        (
            profile_head(generation, n, bool(vector)),
            struct.pack(f"<{n}I", *(t.tag for t in tags)),
            bytes(t.score for t in tags),
            struct.pack(f"<{n}H", *(t.as_of_day for t in tags)),
            bytes(t.source for t in tags),
            vector,
        )
    )


def profile_head(generation: int, n: int, with_vector: bool = False) -> bytes:
    """The 8 bytes before the columns of n tags."""
    return _HEAD.pack(WITH_VECTOR if with_vector else VERSION, 0, n, generation)


def generation_of(data: bytes) -> int:
    """The generation that wrote a profile record."""
    return _profile_head(data)[1]


def decode_profile(data: bytes) -> Profile:
    """Everything a profile holds; raises CorruptRecord on unknown versions and wrong lengths."""
    n, generation = _profile_head(data)
    ids = struct.unpack_from(f"<{n}I", data, 8)
    scores = data[8 + 4 * n : 8 + 5 * n]
    days = struct.unpack_from(f"<{n}H", data, 8 + 5 * n)
    sources = data[8 + 7 * n : 8 + 8 * n]
    return Profile(generation, tuple(map(Tag, ids, scores, days, sources)), _vector(data, n))


def _vector(data: bytes, n: int) -> bytes:
    return data[8 + 8 * n : 8 + 8 * n + VECTOR_BYTES] if data[0] == WITH_VECTOR else b""


def _profile_head(data: bytes) -> tuple[int, int]:
    if len(data) < 8 or data[0] not in (VERSION, WITH_VECTOR):
        raise CorruptRecord(
            f"profile record of version {data[0] if data else 'none'}, this release reads {VERSION} and {WITH_VECTOR}"
        )
    version, _, n, generation = _HEAD.unpack_from(data)
    if len(data) < 8 + 8 * n + (VECTOR_BYTES if version == WITH_VECTOR else 0):
        raise CorruptRecord(f"profile record of {len(data)} bytes says it has {n} tags")
    return n, generation


def visible(bank0: bytes | None, bank1: bytes | None, live: int) -> bytes | None:
    """The bank a reader at generation `live` sees: the highest generation not above it."""
    return _seen(bank0, bank1, live)[0]


def _seen(bank0: bytes | None, bank1: bytes | None, live: int) -> tuple[bytes | None, int]:
    """The visible bank and its number of tags; (None, 0) when there is none."""
    best, best_generation, tags = None, -1, 0
    for data in (bank0, bank1):
        if data is not None:
            n, generation = _profile_head(data)
            if best_generation < generation <= live:
                best, best_generation, tags = data, generation, n
    return best, tags


@cache
def _ids(n: int) -> struct.Struct:
    """The first column of a profile of n tags."""
    return struct.Struct(f"<8x{n}I")


def _scores(data: bytes, n: int) -> dict[int, int]:
    """{tag id: score} of a profile: what the bid path needs, without a Struct per tag."""
    end = 8 + 4 * n
    return dict(zip(_ids(n).unpack_from(data), data[end : end + n], strict=True))


def encode_audiences(members: Iterable[tuple[int, int]]) -> bytes:
    """members: (audience number, expiry in unix seconds or 0 for never)."""
    return bytes((VERSION,)) + b"".join(_PAIR.pack(audience, expires_s) for audience, expires_s in members)


def decode_audiences(data: bytes) -> list[tuple[int, int]]:
    _check(data, _PAIR.size, "audience")
    return list(_PAIR.iter_unpack(data[1:]))


def encode_contacts(contacts: Iterable[Contact]) -> bytes:
    return bytes((VERSION,)) + b"".join(_CONTACT.pack(c.scope, c.hour, c.count) for c in contacts)


def decode_contacts(data: bytes) -> tuple[Contact, ...]:
    _check(data, _CONTACT.size, "contact")
    return tuple(starmap(Contact, _CONTACT.iter_unpack(data[1:])))


def _check(data: bytes, size: int, what: str) -> None:
    if not data or data[0] != VERSION or (len(data) - 1) % size:
        raise CorruptRecord(f"{what} record of {len(data)} bytes, version {data[0] if data else 'none'}")


def joined(values: Sequence[bytes | None], former: Sequence[bytes | None]) -> list[bytes | None]:
    """The five values of a user who is known under two pseudonyms while a key is rotated; `former`: the older one's.

    Audiences (refusals among them) and contacts of both count, contacts since each holds what the other has not; of
    profiles and real-time records the newer pseudonym's.
    """
    bank0, bank1, audiences, contacts, recent = values
    banks = former[:2] if bank0 is None and bank1 is None else (bank0, bank1)
    return [*banks, _both(audiences, former[2]), _both(contacts, former[3]), former[4] if recent is None else recent]


def _both(table: bytes | None, other: bytes | None) -> bytes | None:
    """Two records of one version whose entries follow each other."""
    return other if table is None else table if other is None else table + other[1:]


def plain_user(values: Sequence[bytes | None], live: int, now_s: int) -> User:
    """`decode_user` in Python."""
    bank0, bank1, aud, contacts, recent = values
    seen, n = _seen(bank0, bank1, live)
    vector = _vector(seen, n) if seen is not None and seen[0] == WITH_VECTOR else b""
    return User(
        {} if seen is None else _scores(seen, n),
        frozenset([a for a, until in decode_audiences(aud) if not until or until > now_s]) if aud else _NONE,
        decode_contacts(contacts) if contacts else (),
        vector,
        realtime.decode(recent) if recent else None,
        live if vector else 0,
    )


def _decoder() -> Callable[[Sequence[bytes | None], int, int], User]:
    module = compiled("dmp._decode", DECODE_VERSION)
    if module is None:
        return plain_user
    decoder: Callable[[Sequence[bytes | None], int, int], User] = module.Decoder(
        User, Contact, Realtime, plain_user
    ).user
    return decoder


decode_user = _decoder()
"""A user from the five values of `dmp.keys.user_keys`, as of generation `live` and unix second `now_s`: (values, live,
now_s). Raises CorruptRecord on unknown versions and wrong lengths. In C where that was built: a third of the time.
"""
