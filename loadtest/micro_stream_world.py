"""Events for timing the stream: people in sessions, each with some tastes; seeded, with a share of copies."""

import random
from collections.abc import Iterator
from itertools import islice

from dmp.acts import SUBJECTS
from dmp.events import CONSENT_ALL, Behaviour, Cart, Purchase, Search, View
from dmp.schema import Uid
from dmp.taxonomy import BY_ID

SESSION_EVENTS = 6
TASTES = 6
_NAMES = sorted(BY_ID[tag].name for tag in SUBJECTS)
_QUERIES = ("cheap travel insurance", "running shoes", "二手车 价格", "credit card", "how do i get there")
_KINDS: tuple[type[Behaviour], ...] = (View, Search, Cart, Purchase)
_SHARES = (80, 12, 6, 2)


def users(n: int, seed: int) -> list[Uid]:
    rng = random.Random(seed)
    return [rng.randbytes(16) for _ in range(n)]


def happened(who: list[Uid], n: int, now_us: int, seed: int, ago_s: int = 1_800) -> Iterator[Behaviour]:
    """Yields n events of the last `ago_s` seconds, sessions of different people mixed as they would arrive."""
    rng = random.Random(seed)
    tastes = {uid: rng.sample(_NAMES, TASTES) for uid in who}
    open_sessions = [rng.choice(who) for _ in range(max(1, len(who) // 4))]
    for number in range(n):
        at = rng.randrange(len(open_sessions))
        uid = open_sessions[at]
        if rng.random() < 1 / SESSION_EVENTS:
            open_sessions[at] = rng.choice(who)
        kind = rng.choices(_KINDS, _SHARES)[0]
        fields = {"query": rng.choice(_QUERIES)} if kind is Search else {"category": rng.choice(tastes[uid])}
        if kind is Purchase:
            fields["value_micros"] = 1_000_000 * rng.randint(1, 200)  # type: ignore[assignment]
        yield kind(
            event_id=f"{seed:x}-{number:x}",
            uid=uid,
            time_us=now_us - rng.randrange(ago_s * 1_000_000),
            source="shop",
            consent=CONSENT_ALL,
            **fields,  # type: ignore[arg-type]
        )


def with_copies(events: Iterator[Behaviour], share: float, seed: int) -> Iterator[Behaviour]:
    """The events, a share of them again within the next thousand, as senders do who were not sure."""
    rng = random.Random(seed)
    held: list[Behaviour] = []
    for event in events:
        yield event
        if rng.random() < share:
            held.append(event)
        if held and rng.random() < share:
            yield held.pop(rng.randrange(len(held)))
    yield from held


def batches(events: Iterator[Behaviour], size: int) -> Iterator[list[Behaviour]]:
    while batch := list(islice(events, size)):
        yield batch
