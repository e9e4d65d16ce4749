"""The real-time record computed from all of a user's events at once, by its definition.

This is what the stream's record is held against, and what the nightly batch puts in its place where the stream could
not be exact (`dmp.settle`). It shares the layout and the meaning of events with the stream, and none of its adding.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from dmp.acts import Act
from dmp.draft import KEEP_CARTS_H, KEEP_KEYWORDS_H, MAX_EVENTS, MAX_SPENT
from dmp.realtime import (
    CART,
    DAY_US,
    DAYS,
    HOUR_US,
    HOURS,
    IDLE_S,
    MAX_CARTS,
    MAX_COUNT,
    MAX_KEYWORDS,
    MAX_RECENT,
    MAX_TAGS,
    OTHER,
    PURCHASE,
    TAU_US,
    Basket,
    Counts,
    Parts,
    Recent,
    Sums,
    landmark_us,
)


def record(happened: Iterable[Act]) -> Parts | None:
    """The record of one user's acts, each given once, in any order; None without any. Raised tags are the stream's."""
    acts = _since_idle(sorted(happened))
    if not acts:
        return None
    newest_us = acts[-1].time_us
    newest_hour, newest_day = newest_us // HOUR_US, newest_us // DAY_US
    sums = _sums(acts, newest_us)
    strongest = sorted(sums, key=lambda tag: (-sums[tag][2], tag))
    baskets: dict[int, Basket] = {}
    keywords: dict[int, int] = {}
    for act in acts:  # in order of time and kind, so the latest stays
        hour = act.time_us // HOUR_US
        if act.kind in (CART, PURCHASE) and act.subject.tag and hour > newest_hour - KEEP_CARTS_H:
            baskets[act.subject.tag] = Basket(act.time_us, act.kind)
        if hour > newest_hour - KEEP_KEYWORDS_H:
            keywords |= dict.fromkeys(act.subject.keywords, act.time_us)
    return Parts(
        newest_us=newest_us,
        spent_micros=min(MAX_SPENT, sum(act.spent_micros for act in acts)),
        events=min(MAX_EVENTS, len(acts)),
        evicted=max(0, len(sums) - MAX_TAGS),
        sums={tag: sums[tag] for tag in strongest[:MAX_TAGS]},
        hours=_tiles(
            (act.time_us // HOUR_US, act.kind) for act in acts if act.time_us // HOUR_US > newest_hour - HOURS
        ),
        days=_tiles((act.time_us // DAY_US, act.kind) for act in acts if act.time_us // DAY_US > newest_day - DAYS),
        recent=sorted((Recent(act.time_us, act.kind, act.subject.tag) for act in acts), reverse=True)[:MAX_RECENT],
        carts=_latest(baskets, MAX_CARTS),
        keywords=_latest(keywords, MAX_KEYWORDS),
    )


def _since_idle(acts: list[Act]) -> list[Act]:
    """The acts since the last pause of more than IDLE_S."""
    starts = [i for i, (a, b) in enumerate(pairwise(acts), 1) if b.time_us - a.time_us > IDLE_S * 1_000_000]
    return acts[starts[-1] :] if starts else acts


def _sums(acts: Sequence[Act], newest_us: int) -> dict[int, Sums]:
    weights: dict[int, list[tuple[int, float]]] = {}
    for act in acts:
        for tag, share in act.subject.shares:
            weights.setdefault(tag, []).append((act.time_us, act.weight * share))

    def total(of: list[tuple[int, float]], horizon: int) -> float:
        start_us, tau_us = landmark_us(newest_us, horizon), TAU_US[horizon]
        return math.fsum(weight * math.exp((time_us - start_us) / tau_us) for time_us, weight in of)

    return {tag: (total(of, 0), total(of, 1), total(of, 2)) for tag, of in weights.items()}


def _tiles(counted: Iterable[tuple[int, int]]) -> dict[int, Counts]:
    found = Counter(counted)
    return {
        tile: tuple(min(found[tile, kind], MAX_COUNT) for kind in range(OTHER + 1))  # type: ignore[misc]
        for tile, _ in found
    }


Entry = TypeVar("Entry", Basket, int)


def _latest(table: dict[int, Entry], most: int) -> dict[int, Entry]:
    order = sorted(table, key=lambda tag: (table[tag], -tag), reverse=True)
    return {tag: table[tag] for tag in order[:most]}
