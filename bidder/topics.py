"""What is hot now, as the bidder holds it: read from the store every few seconds, asked by the rule `hot` of campaigns.

`tagbid dmp hot` publishes the topics that broke out, each with the time it is over (`dmp.hot`); between two readings
and while the store is away a topic stays hot until then and no longer. A page is about a topic when one of its
categories, keywords, search terms or words of its address is the topic or another name of the same standard tag, in
whatever width and case. A topic of several words has to be said as one keyword or search.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import redis.exceptions

from bidder.metrics import Metrics
from dmp import keys, taxonomy
from dmp.errors import CorruptRecord
from dmp.link import Link
from dmp.trends import Hot, decode

log = logging.getLogger("tagbid.bidder")
READ_S = 5.0
IDLE_S = 1.0  # while no campaign asks

MAX_NAME = 100  # characters; what senders may make us remember (S-02)
MAX_ODD = 200  # words of a page that are put into normal spelling, 0.5 ms; a page of more is taken as it is spelt

_normal = lru_cache(maxsize=16_384)(taxonomy.normal)


class Topics:
    """The hot topics as last read. of: as they were published."""

    __slots__ = ("_until_us", "of")

    def __init__(self, found: Sequence[Hot] = ()) -> None:
        self.take(found)

    def take(self, found: Sequence[Hot]) -> None:
        """These are hot from now on, each until its end."""
        until_us: dict[str, int] = {}
        for hot in found:
            for name in names(hot):
                until_us[name] = max(hot.until_us, until_us.get(name, 0))
        self.of = tuple(found)
        self._until_us = until_us

    def meet(self, words: Iterable[str], now_us: int) -> bool:
        """Whether one of the words names something that is hot at that time. words: as a request spells them."""
        until_us = self._until_us
        odd = []
        for word in words:
            if until_us.get(word, 0) > now_us:
                return True
            if len(word) <= MAX_NAME and not (word.isascii() and word.isalnum() and word.islower()):
                odd.append(word)  # all others are in normal spelling as they are
        return len(odd) <= MAX_ODD and any(until_us.get(_normal(word), 0) > now_us for word in odd)

    def count(self, now_us: int) -> int:
        """How many topics are hot."""
        return sum(hot.until_us > now_us for hot in self.of)


def names(hot: Hot) -> set[str]:
    """All that a page may call a topic, in normal spelling: the topic, its tag's labels, its IAB category.

    >>> {"travel", "旅游", "iab20"} <= names(Hot("holidays", taxonomy.tag_id("interest.travel"), 9.0, 9, 1.0, 50, 0, 1))
    True
    """
    tag = taxonomy.BY_ID.get(hot.tag)
    also = () if tag is None else (*taxonomy.labels_of(tag), tag.iab_content)
    return {taxonomy.normal(label) for label in (hot.topic, *also)} - {""}


async def follow(
    topics: Topics, link: Link, asked: Callable[[], bool], now_us: Callable[[], int], metrics: Metrics
) -> None:
    """Read the store's hot topics every `READ_S`; never returns. asked: whether any campaign has the rule.

    No record, one whose topics are all over, and one that cannot be read mean that nothing is hot. While the store is
    away what was read holds, topic by topic until its end. Each reading is counted by what came of it.
    """
    slots = {
        result: metrics.slot("tagbid_hot_reads_total", result=result)
        for result in ("read", "none", "missing", "stale", "unreadable", "failed")
    }
    while True:
        if asked():
            metrics.counts[slots[await _read(topics, link, now_us)]] += 1
        await asyncio.sleep(READ_S if asked() else IDLE_S)


async def _read(topics: Topics, link: Link, now_us: Callable[[], int]) -> str:
    """What came of one reading."""
    try:
        record: Any = await link.execute("GET", keys.HOT)
    except (OSError, TimeoutError, redis.exceptions.RedisError):
        return "failed"
    if record is None:
        topics.take(())
        return "missing"
    try:
        topics.take(decode(record))
    except CorruptRecord as error:
        topics.take(())
        log.warning("%s; nothing is hot until `tagbid dmp hot` runs again", error)
        return "unreadable"
    if not topics.of:
        return "none"
    return "read" if topics.count(now_us()) else "stale"
