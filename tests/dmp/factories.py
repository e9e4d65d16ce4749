"""Users, events and tags for tests of the build; expected values follow from these few numbers."""

import itertools
from collections.abc import Mapping

import pyarrow as pa

from dmp.events import CONSENT_ALL, Crm, View
from dmp.generations import TAG_COLUMNS

DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US + DAY_US // 2  # noon of day 20,000: 2024-10-04
_counter = itertools.count()


def user(n: int) -> bytes:
    return n.to_bytes(16, "big")


def act(n, kind=View, days_ago=0.0, **fields):
    """Something user n did, with full consent; an id of its own unless told."""
    at = NOW_US - int(days_ago * DAY_US)
    usual = {"event_id": f"e{next(_counter)}", "uid": user(n), "time_us": at, "source": "test", "consent": CONSENT_ALL}
    return kind(**usual | fields)


def customer(n, days_ago=0.0, **fields):
    return act(n, Crm, days_ago, **fields)


def tags_table(users: Mapping[int, Mapping[int, int]], day: int = 20_000) -> pa.Table:
    """{user: {tag: score}} as a build's tags."""
    rows = [
        {"uid": user(n), "tag": tag, "score": score, "as_of_day": day, "source": 4}
        for n, scores in users.items()
        for tag, score in scores.items()
    ]
    return pa.Table.from_pylist(rows, schema=TAG_COLUMNS)
