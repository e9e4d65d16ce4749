"""The real-time record computed from all of a user's events at once, by its definition.

This is what the stream's record is held against, and what the nightly batch puts in its place where the stream could
not be exact (`dmp.settle`). It shares the layout and the meaning of events with the stream, and none of its adding.

Which events count is decided by their positions in the archive: of copies (the same source and event id) the one the
store took first, with whatever it says; an id is free again when no copy can come any more. The order in which events
came decides nothing else.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset

from dmp import keys, marks, streams
from dmp.acts import Act, Understanding
from dmp.draft import KEEP_CARTS_H, KEEP_KEYWORDS_H, MAX_EVENTS, MAX_SPENT
from dmp.events import Behaviour
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
    OTHER,
    PURCHASE,
    TAU_US,
    Basket,
    Counts,
    Moment,
    Parts,
    Recent,
    Sums,
    landmark_us,
    tags_that_fit,
)
from dmp.schema import Uid

_COLUMNS = pa.schema(
    [
        ("entry", pa.string()), ("place", pa.int32()), ("kind", pa.string()), ("event_id", pa.string()),
        ("uid", pa.binary(16)), ("time_us", pa.int64()), ("source", pa.string()), ("consent", pa.int64()),
        ("category", pa.string()), ("value_micros", pa.int64()), ("dwell_ms", pa.int64()), ("query", pa.string()),
    ]
)  # fmt: skip
"""What of an archived event decides its act (`dmp.acts`), and its position (`dmp.archive`)."""


_NOTHING: Mapping[int, int] = MappingProxyType({})


class Archived(NamedTuple):
    """An event as archived. position: milliseconds and sequence of its entry, and its place in there."""

    position: tuple[int, int, int]
    event: Behaviour


def record(
    happened: Iterable[Act], raised: Mapping[int, int] = _NOTHING, moments: Sequence[Moment] = ()
) -> Parts | None:
    """The record of one user's acts, each given once, in any order; None without any.

    raised, moments: what the stream's rules know, which is theirs alone and takes room from the tags.
    """
    acts = _since_idle(sorted(happened))
    if not acts:
        return None
    newest_us = acts[-1].time_us
    newest_hour, newest_day = newest_us // HOUR_US, newest_us // DAY_US
    baskets: dict[int, Basket] = {}
    keywords: dict[int, int] = {}
    for act in acts:  # in order of time and kind, so the latest stays
        hour = act.time_us // HOUR_US
        if act.kind in (CART, PURCHASE) and act.subject.tag and hour > newest_hour - KEEP_CARTS_H:
            baskets[act.subject.tag] = Basket(act.time_us, act.kind)
        if hour > newest_hour - KEEP_KEYWORDS_H:
            keywords |= dict.fromkeys(act.subject.keywords, act.time_us)
    whole = Parts(
        newest_us=newest_us,
        spent_micros=min(MAX_SPENT, sum(act.spent_micros for act in acts)),
        events=min(MAX_EVENTS, len(acts)),
        hours=_tiles(
            (act.time_us // HOUR_US, act.kind) for act in acts if act.time_us // HOUR_US > newest_hour - HOURS
        ),
        days=_tiles((act.time_us // DAY_US, act.kind) for act in acts if act.time_us // DAY_US > newest_day - DAYS),
        recent=sorted((Recent(act.time_us, act.kind, act.subject.tag) for act in acts), reverse=True)[:MAX_RECENT],
        carts=_latest(baskets, MAX_CARTS),
        keywords=_latest(keywords, MAX_KEYWORDS),
        raised=dict(raised),
        moments=list(moments),
    )
    sums = _sums(acts, newest_us)
    strongest = sorted(sums, key=lambda tag: (-sums[tag][2], tag))
    most = tags_that_fit(
        len(whole.hours) + len(whole.days), len(whole.recent), len(whole.carts), len(whole.keywords),
        len(whole.raised), len(whole.moments),
    )  # fmt: skip
    return msgspec.structs.replace(
        whole, evicted=max(0, len(sums) - most), sums={tag: sums[tag] for tag in strongest[:most]}
    )


def counted(archived: Iterable[Archived], understand: Understanding, lateness_s: int, late_too: bool) -> list[Act]:
    """The acts of one user's archived events that count.

    late_too: also those that came later than `lateness_s`, each once and none that was in time before; False counts
    what the stream counts.
    """
    life_s = marks.life_s(lateness_s)
    until_s: dict[tuple[str, str], int] = {}
    acts: list[Act] = []
    late: list[tuple[tuple[str, str], Act]] = []
    for one in sorted(archived, key=lambda one: one.position):
        event = one.event
        act = understand(event)
        name, came_ms = (event.source, event.event_id), one.position[0]
        if act is None:
            continue
        if came_ms * 1000 - event.time_us > lateness_s * 1_000_000:
            late.append((name, act))
        elif until_s.get(name, -1) < came_ms // 1000:
            until_s[name] = came_ms // 1000 + life_s
            acts.append(act)
    if late_too:
        for name, act in late:
            if name not in until_s:
                until_s[name] = 0
                acts.append(act)
    return acts


def read(
    folder: Path, uids: Collection[Uid] | None = None, upto: Mapping[int, str] | None = None, partitions: int = 0
) -> dict[Uid, list[Archived]]:
    """Archived events by user, without those no position is known of.

    uids: of these users only; None = of all. upto: {partition: id of the last entry to read}, with the number of
    partitions there are; entries after it are left out.
    """
    data = dataset.dataset(folder, format="parquet", exclude_invalid_files=True, schema=_COLUMNS)
    wanted = pc.field("entry").is_valid()
    if uids is not None:
        wanted &= pc.field("uid").isin(pa.array(sorted(uids), pa.binary(16)))
    found: dict[Uid, list[Archived]] = defaultdict(list)
    last = {partition: streams.parse_id(entry) for partition, entry in (upto or {}).items()}
    for batch in data.to_batches(filter=wanted):
        for row in batch.to_pylist():
            ms, sequence = streams.parse_id(row.pop("entry"))
            place = row.pop("place")
            fields = {name: value for name, value in row.items() if value is not None}
            event: Behaviour = msgspec.convert(fields, Behaviour)
            if upto is None or (ms, sequence) <= last.get(keys.event_partition(event.uid, partitions), (0, 0)):
                found[event.uid].append(Archived((ms, sequence, place), event))
    return found


def users(folder: Path) -> set[Uid]:
    """Everybody the archive has events of whose position is known."""
    data = dataset.dataset(folder, format="parquet", exclude_invalid_files=True, schema=_COLUMNS)
    found: set[Uid] = set()
    for batch in data.to_batches(columns=["uid"], filter=pc.field("entry").is_valid()):
        found |= set(batch["uid"].unique().to_pylist())
    return found


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
