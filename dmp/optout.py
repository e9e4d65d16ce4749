"""What a user told us about advertising for them, kept in their own record, where every bid about them reads it.

A mark takes the place of everything else that is held for bidding: profile, audiences, contacts, real-time record.
It has no end, and audiences written later stand beside it (P-32). The stream processor writes nothing for a user who
has a mark.
"""

from collections.abc import Set as AbstractSet
from typing import Any

import redis

from dmp import keys
from dmp.codec import decode_audiences, encode_audiences
from dmp.schema import Uid

MARKS = frozenset({keys.OPTED_OUT, keys.CHILD})


def set_marks(client: redis.Redis, uid: Uid, marks: AbstractSet[int]) -> None:
    """Add marks of `dmp.keys` to a user and drop all else that bids read about them; atomic, safe to repeat."""
    profile0, profile1, audiences, contacts, realtime = keys.user_keys(uid)

    def change(pipe: redis.client.Pipeline) -> None:
        record: Any = pipe.get(audiences)
        held = marks_in(record) | marks
        pipe.multi()
        pipe.delete(profile0, profile1, contacts, realtime, keys.realtime_marks(uid))
        pipe.set(audiences, encode_audiences((mark, 0) for mark in sorted(held)))

    client.transaction(change, audiences)


def clear_marks(client: redis.Redis, uid: Uid, marks: AbstractSet[int]) -> None:
    """Take marks away again: the user has changed their mind, or grown up. Atomic, safe to repeat."""
    audiences = keys.audiences(uid)

    def change(pipe: redis.client.Pipeline) -> None:
        record: Any = pipe.get(audiences)
        pipe.multi()
        if record is not None:
            left = [entry for entry in decode_audiences(record) if entry[0] not in marks]
            if left:
                pipe.set(audiences, encode_audiences(left), keepttl=True)
            else:
                pipe.delete(audiences)

    client.transaction(change, audiences)


def marks_in(record: bytes | None) -> frozenset[int]:
    """The marks in a user's audience record; none without a record."""
    return frozenset() if record is None else MARKS & {number for number, _ in decode_audiences(record)}
