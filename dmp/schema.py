"""The nouns of the DMP as frozen Structs: ids, tags, profiles, contacts, the user as one read returns it."""

from typing import Literal, get_args

import msgspec

Uid = bytes
"""A user id at rest: 16 bytes, a keyed pseudonym (see `dmp.pseudonym`), never a raw id (P-60)."""

NO_UID: Uid = bytes(16)
"""Stands in events that are kept without an id (P-16); no pseudonym of a real id, and nobody's key."""

IdType = Literal["cookie", "device", "exchange", "email", "phone", "login", "household"]
"""What kind of identifier was hashed; part of the hash, so the same text as two kinds gives two users."""

ID_TYPES: tuple[IdType, ...] = get_args(IdType)
"""Types by number as stored; append only."""

MAX_SCORE = 100
DIMENSIONS = 64  # of a preference vector
VECTOR_BYTES = 2 * DIMENSIONS  # as stored: float16


class Tag(msgspec.Struct, frozen=True, gc=False):
    """One fact about a user from the standard taxonomy.

    tag: id in `dmp.taxonomy`. score: 0..100, comparable within a tag. as_of_day: days since 1970-01-01 UTC
    of the youngest behaviour behind it. source: which family of the offline build made it (`SOURCES`).
    """

    tag: int
    score: int
    as_of_day: int
    source: int


SOURCES: tuple[str, ...] = (
    "unknown", "interest", "rfm", "demographic", "import", "shopping", "value", "power", "brand", "habit", "time",
    "location", "device", "channel", "lifecycle", "ltv", "due", "association", "cluster", "preference", "influence",
    "partner",
)  # fmt: skip
"""Tag sources by number as stored; append only."""


class Contact(msgspec.Struct, frozen=True, gc=False):
    """Impressions of one scope (`dmp.keys.scope`) shown to a user within one clock hour.

    hour: whole hours since 1970-01-01 UTC. count: impressions in that hour.
    """

    scope: int
    hour: int
    count: int


class Realtime(msgspec.Struct, frozen=True, gc=False):
    """What a user did lately, as stored: `data` is a checked record of `dmp.realtime`, whose functions read it.

    Kept as bytes, since a bid wants a few numbers of it and the bid log wants all of them.
    """

    data: bytes


class User(msgspec.Struct, frozen=True, gc=False):
    """All that one round trip returns about a user.

    tags: {tag id: score 0..100} of the live generation. audiences: ids of live audiences the user is in.
    contacts: recent contact counters. vector: long-term preference as `dmp.preference.unpack` reads it. realtime: what
    happened lately, None when nothing is known. generation: the live one when a vector was read, else 0. An unknown
    user has empty fields, which is not the same as a store that could not be read: that is None wherever a User is
    expected.
    """

    tags: dict[int, int] = {}
    audiences: frozenset[int] = frozenset()
    contacts: tuple[Contact, ...] = ()
    vector: bytes = b""
    realtime: Realtime | None = None
    generation: int = 0


NOBODY = User()
"""A user the store was asked about and knows nothing of."""
