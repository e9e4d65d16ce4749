"""Hot topics as the store holds them: made by `dmp.hot`, read by the trigger rules."""

from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from dmp import keys
from dmp.errors import CorruptRecord


class Hot(msgspec.Struct, frozen=True):
    """One hot topic. topic: in its normal spelling. tag: the standard tag it means, 0 for none. n, usual: events in the
    tile and the median of the tiles before. users: rounded, of those who may be counted. since_us, until_us: when it is
    hot. among: {tag name: how much more frequent among its users than among all, in per cent} of its three strongest,
    empty for few users.
    """

    topic: str
    tag: int
    z: float
    n: int
    usual: float
    users: int
    since_us: int
    until_us: int
    among: dict[str, int] = {}


def publish(client: redis.Redis, found: Sequence[Hot], now_us: int) -> None:
    """Make these the hot topics of the store until the last of them is over."""
    ends_us = max((hot.until_us for hot in found), default=0)
    if ends_us <= now_us:
        client.delete(keys.HOT)
    else:
        client.set(keys.HOT, msgspec.json.encode(found), exat=ends_us // 1_000_000)


def published(client: redis.Redis) -> list[Hot]:
    """The hot topics of the store; raises CorruptRecord on a record of another release."""
    record: Any = client.get(keys.HOT)
    try:
        return [] if record is None else msgspec.json.decode(record, type=list[Hot])
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"hot topics cannot be read: {error}") from None
