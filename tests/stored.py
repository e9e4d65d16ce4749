"""Records as files hold them."""

from collections.abc import Iterable

from dmp.events import Event, encode


def encode_all(events: Iterable[Event]) -> bytes:
    """One after the other."""
    return b"".join(map(encode, events))
