"""Hot topics as the store holds them: made by `dmp.hot`, read by the trigger rules and by bidders."""

from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from dmp import keys, taxonomy
from dmp.errors import CorruptRecord

KEPT_US = 2 * 3_600_000_000  # so long "nothing is hot" is believed without being told again


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


def stated(label: str, now_us: int) -> Hot:
    """A topic that is hot because somebody says so, for a minute.

    >>> stated("Travel", 0).topic, taxonomy.tag_name(stated("Travel", 0).tag)
    ('travel', 'interest.travel')
    """
    return Hot(taxonomy.normal(label), taxonomy.find(label) or 0, 0.0, 0, 0.0, 0, now_us, now_us + 60_000_000)


def publish(client: redis.Redis, found: Sequence[Hot], now_us: int) -> None:
    """Make these the hot topics of the store until the last of them is over; none at all is told for `KEPT_US`.

    So a record that is missing says that nobody looks for hot topics any more.
    """
    lasting = [hot for hot in found if hot.until_us > now_us]
    ends_us = max((hot.until_us for hot in lasting), default=now_us + KEPT_US)
    client.set(keys.HOT, msgspec.json.encode(lasting), exat=ends_us // 1_000_000)


def published(client: redis.Redis) -> list[Hot]:
    """The hot topics of the store; raises CorruptRecord on a record of another release."""
    record: Any = client.get(keys.HOT)
    return [] if record is None else decode(record)


def decode(record: bytes) -> list[Hot]:
    """Raises CorruptRecord on a record of another release."""
    try:
        return msgspec.json.decode(record, type=list[Hot])
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"hot topics cannot be read: {error}") from None
