"""Marks: which events are in a user's real-time record already.

A mark is 12 bytes: 8 of a hash of (source, event_id), then u32, the unix second until which a copy of the event is
taken for it. They are appended in the order of the stream. "Until" is a place in the stream, not a time on somebody's
clock: what counts is when the store took the copy. So however late a consumer comes, it decides alike, and the batch,
which knows the same times, decides alike too.
"""

import struct
from hashlib import blake2b

from dmp.events import Behaviour

BYTES = 12
MOST = 4_096  # of one user: 48 KB
RETRY_S = 86_400  # a sender may repeat an event that long, under whatever time
REDELIVERY_S = 86_400  # and a consumer may be dead that long, before its work waits for the nightly batch
_UNTIL = struct.Struct("<I")


def life_s(lateness_s: int) -> int:
    """How long after an event came a copy of it is one. A later copy with the same time is late, and not counted."""
    return lateness_s + RETRY_S


def of(event: Behaviour) -> bytes:
    """The hash that stands for an event of a user.

    Two of a user's few thousand marks are equal by accident with a chance below 1e-12.
    """
    return blake2b(b"%b\0%b" % (event.source.encode(), event.event_id.encode()), digest_size=8).digest()


def holds(marks: bytes, of_event: bytes, came_s: int) -> bool:
    """Whether a copy that came in unix second `came_s` is marked."""
    at = marks.find(of_event)
    while at >= 0:
        if at % BYTES == 0 and _UNTIL.unpack_from(marks, at + 8)[0] >= came_s:
            return True
        at = marks.find(of_event, at + 1)
    return False


def made(of_event: bytes, until_s: int) -> bytes:
    return of_event + _UNTIL.pack(until_s)


def live(marks: bytes, came_s: int) -> bytes:
    """The marks without the ones at the front that no copy from `came_s` on needs."""
    at = 0
    while at < len(marks) and _UNTIL.unpack_from(marks, at + 8)[0] < came_s:
        at += BYTES
    return marks[at:]
