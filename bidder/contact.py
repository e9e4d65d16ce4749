"""Frequency caps: rolling windows over the hourly contact counters of a user's record.

A counter is an hour, a window starts anywhere: the partial first hour counts in full, so a cap is reached a little
early and never exceeded. Impressions are counted by `contact.lua`, mark and count in one step on the user's slot.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from bidder.campaigns import FrequencyCap
from dmp import keys
from dmp.codec import MAX_CONTACTS
from dmp.schema import Contact, Uid

HOUR_US = 3_600_000_000
KEEP_S = 400 * 86_400  # P-70: contact counters are kept at most 400 days
SCRIPT = (Path(__file__).parent / "contact.lua").read_text()
SHA1 = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # the name Redis gives a script


def over_cap(caps: Iterable[FrequencyCap], contacts: Sequence[Contact], now_us: int) -> bool:
    """Whether one more impression would be one too many under any of the caps. contacts: of the capped scope only.

    >>> over_cap([FrequencyCap(2, 3600)], [Contact(7, 100, 1), Contact(7, 101, 1)], 101 * HOUR_US)
    True
    >>> over_cap([FrequencyCap(2, 3600)], [Contact(7, 100, 1), Contact(7, 101, 1)], 102 * HOUR_US)
    False
    """
    for cap in caps:
        first_hour = (now_us - cap.window_s * 1_000_000) // HOUR_US
        if sum([contact.count for contact in contacts if contact.hour >= first_hour]) >= cap.limit:
            return True
    return False


async def record(
    client: Any, uid: Uid, scopes: Sequence[int], now_us: int, mark_key: bytes, mark_ttl_s: int, keep_s: int = KEEP_S
) -> bool:
    """Count one impression of each scope once; False when `mark_key` says it was counted before.

    client: redis.asyncio.Redis. mark_key: `dmp.keys.contact_mark`, on the user's slot. keep_s: the longest live
    window; older counters are dropped. Counts in the hour of `now_us`. Raises redis.RedisError when the store fails
    or holds a record of an unknown version; then nothing was changed.
    """
    arguments: tuple[Any, ...] = (now_us // HOUR_US, -(-keep_s // 3600), mark_ttl_s, MAX_CONTACTS, *scopes)
    names = (keys.contacts(uid), mark_key)
    try:
        counted = await client.evalsha(SHA1, len(names), *names, *arguments)
    except NoScriptError:
        counted = await client.eval(SCRIPT, len(names), *names, *arguments)
    return bool(counted)
