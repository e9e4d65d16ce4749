"""The real-time record of a user: what it holds, its bytes, and what it says at a given moment.

Everything in it is a function of the set of a user's events, whatever order they came in: sums, maxima, and the
latest few by time. So adding is all there is, and a batch over the same events computes the same record.

**Decayed interest.** For each tag three sums `A = sum w * exp((t - t0) / tau)`, tau = 30 min, 1 day, 14 days
(forward decay, Cormode et al. 2009): an event is added and nothing else is touched; the value at time T is
`A * exp(-(T - t0) / tau)`. The landmark t0 is the last multiple of 32 tau before the newest event, so no number grows
beyond e^32 and the record need not store it. Weights: view 1 plus 1 a minute of dwell (2 at most), search 3, cart 5,
purchase 8, else 1; the tag above an interest gets half.

**Tiles.** Counts by kind in the clock hours of the last day and the UTC days of the last two weeks, both counted back
from the newest event.

**Size.** At most `MAX_BYTES`. Tags take what the other tables leave, MAX_TAGS at most and LEAST_TAGS at the least:
three float64 on which stream and batch agree to 1e-9 are 28 bytes a tag, so 200 tags alone are more than the limit.
Those with the largest 14-day sums stay, on a tie the lower id, and `evicted` counts the others. That is no function of
the events, since nobody remembers what an evicted tag had when it comes back: such users are settled by the nightly
batch (`dmp.settle`). Of carts, keywords, raised tags, moments and recent events, the latest stay.

**Rules.** What trigger rules need to know of a user is kept beside it all as moments: when the latest events came that
match an atom of some rule (`dmp.detect`).

Version 1, little endian. Head, 40 bytes: u8 version, u8 number of tags, hours, days, recent, carts, keywords, raised;
8 bytes nonce (new with every write, so that a writer can tell whether it has seen the last one), i64 newest_us,
i64 spent micros, u32 events, u32 evicted. Then u32 tag[n], f64 short[n], f64 day[n], f64 long[n]; hours and days:
u32 tile, u16 counts of views, searches, carts, purchases, others, newest first; recent: i64 time_us, u8 kind, u32 tag
(0 = none), newest first; carts: u32 tag, i64 time_us, u8 kind; keywords: u32 tag, i64 time_us; raised: u32 tag, u32
until (unix second). Then, from the second release on, u8 number of moments and moments: u32 unix second, u32 atom,
latest first. Tables end with the record, so that a later version can append.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from dmp import taxonomy
from dmp.errors import CorruptRecord
from dmp.schema import Realtime

VERSION = 1
MAX_BYTES = 4096
MAX_TAGS, MAX_RECENT, MAX_CARTS, MAX_KEYWORDS, MAX_RAISED, MAX_MOMENTS = 200, 24, 24, 16, 24, 48
LEAST_TAGS = 76  # that fit beside tables which are all full
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
HOURS, DAYS = 24, 14
MAX_COUNT = 65_535  # a tile that is full stays full
TAU_US = (1_800_000_000, DAY_US, 14 * DAY_US)
SPANS_US = tuple(32 * tau for tau in TAU_US)
IDLE_S = 30 * 86_400  # P-70: as profiles
SESSION_US = 1_800_000_000  # the usual gap that ends a visit
CART_US, BOUGHT_US, KEYWORD_US = 3 * DAY_US, 14 * DAY_US, DAY_US
ROUNDING = 1e-9  # so that 50 computed by another way is 50
HALF_SCORE = 9.0  # one search just now (3 on each horizon) scores 50
INTENT_DAY = 6.0  # of the one-day sum: two searches, or a cart and a view

VIEW, SEARCH, CART, PURCHASE, OTHER = range(5)
"""Kinds of events as counted and stored."""
WEIGHTS = (1.0, 3.0, 5.0, 8.0, 1.0)  # by kind

HEAD = struct.Struct("<8B8sqqII")
TILE_ROW = struct.Struct("<I5H")
RECENT_ROW = struct.Struct("<qBI")
CART_ROW = struct.Struct("<IqB")
KEYWORD_ROW = struct.Struct("<Iq")
RAISED_ROW = struct.Struct("<II")
MOMENT_ROW = struct.Struct("<II")
TAG_BYTES = 28
_F64 = struct.Struct("<d")
Sums = tuple[float, float, float]
"""A tag's sums at the landmarks of the record, on the horizons of TAU_US."""
Counts = tuple[int, int, int, int, int]
"""Events by kind: views, searches, carts, purchases, others."""


class Recent(NamedTuple):
    """One of the latest events. kind: VIEW to OTHER. tag: 0 for none."""

    time_us: int
    kind: int
    tag: int


class Basket(NamedTuple):
    """The latest cart or purchase of a tag. kind: CART or PURCHASE."""

    time_us: int
    kind: int


class Moment(NamedTuple):
    """An event that matched an atom of a rule. second: unix, of the event."""

    second: int
    atom: int


class Parts(msgspec.Struct, frozen=True, gc=False):
    """A record taken apart.

    newest_us: time of the newest event. spent_micros: of all purchases. events, evicted: all there were, and tags that
    had to go. sums: {tag: Sums}. hours, days: {hours or days since 1970: Counts}. recent: newest first. carts: {tag:
    Basket}. keywords: {tag: time of the latest search that named it}. raised: {tag: unix second it ends}. moments:
    latest first.
    """

    nonce: bytes = b""
    newest_us: int = 0
    spent_micros: int = 0
    events: int = 0
    evicted: int = 0
    sums: dict[int, Sums] = {}
    hours: dict[int, Counts] = {}
    days: dict[int, Counts] = {}
    recent: list[Recent] = []
    carts: dict[int, Basket] = {}
    keywords: dict[int, int] = {}
    raised: dict[int, int] = {}
    moments: list[Moment] = []


def tags_that_fit(tiles: int, recent: int, carts: int, keywords: int, raised: int, moments: int) -> int:
    """How many tags a record may have beside so many rows of the other tables.

    >>> tags_that_fit(HOURS + DAYS, MAX_RECENT, MAX_CARTS, MAX_KEYWORDS, MAX_RAISED, MAX_MOMENTS) == LEAST_TAGS
    True
    >>> tags_that_fit(20, MAX_RECENT, 4, 4, 2, 0), tags_that_fit(1, 1, 0, 0, 0, 0)
    (119, 143)
    """
    used = (
        HEAD.size + TILE_ROW.size * tiles + RECENT_ROW.size * recent + CART_ROW.size * carts
        + KEYWORD_ROW.size * keywords + RAISED_ROW.size * raised + 1 + MOMENT_ROW.size * moments
    )  # fmt: skip
    return min(MAX_TAGS, (MAX_BYTES - used) // TAG_BYTES)


def encode(parts: Parts) -> bytes:
    """The one record of these parts. Raises struct.error on values out of range, and on tables beyond their limits."""
    ordered = sorted(parts.sums.items())
    n = len(ordered)
    tables = (parts.hours, parts.days, parts.recent, parts.carts, parts.keywords, parts.raised)
    head = HEAD.pack(
        VERSION, n, *map(len, tables), parts.nonce, parts.newest_us, parts.spent_micros, parts.events, parts.evicted
    )
    return b"".join(
        (
            head,
            struct.pack(f"<{n}I", *(tag for tag, _ in ordered)),
            *(struct.pack(f"<{n}d", *(sums[horizon] for _, sums in ordered)) for horizon in range(3)),
            *(TILE_ROW.pack(tile, *of) for tile, of in sorted(parts.hours.items(), reverse=True)),
            *(TILE_ROW.pack(tile, *of) for tile, of in sorted(parts.days.items(), reverse=True)),
            *(RECENT_ROW.pack(*event) for event in parts.recent),
            pack_small(parts.carts, parts.keywords, parts.raised),
            pack_moments(parts.moments),
        )
    )


def pack_moments(moments: Sequence[tuple[int, int]]) -> bytes:
    return bytes((len(moments),)) + b"".join(MOMENT_ROW.pack(*moment) for moment in moments)


def pack_small(carts: Mapping[int, Basket], keywords: Mapping[int, int], raised: Mapping[int, int]) -> bytes:
    """The three tables at the end of a record."""
    return b"".join(
        (
            *(CART_ROW.pack(tag, *cart) for tag, cart in sorted(carts.items())),
            *(KEYWORD_ROW.pack(*entry) for entry in sorted(keywords.items())),
            *(RAISED_ROW.pack(*entry) for entry in sorted(raised.items())),
        )
    )


def decode(data: bytes) -> Realtime:
    """A stored record, checked; raises CorruptRecord on unknown versions and wrong lengths."""
    if len(data) < HEAD.size or data[0] != VERSION:
        raise CorruptRecord(f"real-time record of version {data[0] if data else 'none'}, this release reads {VERSION}")
    end = moments_end(data)
    if len(data) < end:
        raise CorruptRecord(f"real-time record of {len(data)} bytes, its tables say {end}")
    return Realtime(data)


def ends(data: bytes) -> tuple[int, int, int, int, int, int, int]:
    """Where each table ends: tags, hours, days, recent, carts, keywords, raised."""
    tags = HEAD.size + TAG_BYTES * data[1]
    hours = tags + TILE_ROW.size * data[2]
    days = hours + TILE_ROW.size * data[3]
    recent = days + RECENT_ROW.size * data[4]
    carts = recent + CART_ROW.size * data[5]
    keywords = carts + KEYWORD_ROW.size * data[6]
    return tags, hours, days, recent, carts, keywords, keywords + RAISED_ROW.size * data[7]


def moments_end(data: bytes) -> int:
    """Where the last table ends; the first release ended with the raised tags."""
    end = ends(data)[-1]
    return end + 1 + MOMENT_ROW.size * data[end] if len(data) > end else end


def parts(realtime: Realtime) -> Parts:
    """All of a record."""
    data = realtime.data
    *_, nonce, newest_us, spent, events, evicted = HEAD.unpack_from(data)
    tags, hours, days, recent, carts, keywords, raised = ends(data)
    return Parts(
        nonce=nonce,
        newest_us=newest_us,
        spent_micros=spent,
        events=events,
        evicted=evicted,
        sums=_sums(data),
        hours=_tiles(data[tags:hours]),
        days=_tiles(data[hours:days]),
        recent=[Recent(*row) for row in RECENT_ROW.iter_unpack(data[days:recent])],
        carts={tag: Basket(time_us, kind) for tag, time_us, kind in CART_ROW.iter_unpack(data[recent:carts])},
        keywords=dict(KEYWORD_ROW.iter_unpack(data[carts:keywords])),
        raised=dict(RAISED_ROW.iter_unpack(data[keywords:raised])),
        moments=[Moment(*row) for row in MOMENT_ROW.iter_unpack(data[raised + 1 : moments_end(data)])],
    )


def _sums(data: bytes) -> dict[int, Sums]:
    n = data[1]
    values = struct.unpack_from(f"<{n}I{3 * n}d", data, HEAD.size)
    return dict(
        zip(values[:n], zip(values[n : 2 * n], values[2 * n : 3 * n], values[3 * n :], strict=True), strict=True)
    )


def _tiles(table: bytes) -> dict[int, Counts]:
    return {row[0]: row[1:] for row in TILE_ROW.iter_unpack(table)}


def last_seen_us(realtime: Realtime) -> int:
    """When the user was last heard of, UTC microseconds."""
    return int.from_bytes(realtime.data[16:24], "little", signed=True)


def landmark_us(newest_us: int, horizon: int) -> int:
    """The t0 of a horizon's sums in a record whose newest event is `newest_us`."""
    span = SPANS_US[horizon]
    return newest_us // span * span


def _fade(newest_us: int, now_us: int) -> list[float]:
    """What to multiply a sum with for its value now, per horizon. Time does not run before the newest event."""
    at = max(now_us, newest_us)
    return [math.exp((landmark_us(newest_us, horizon) - at) / TAU_US[horizon]) for horizon in range(3)]


def interests(realtime: Realtime, now_us: int) -> dict[int, Sums]:
    """{tag: decayed weight on each horizon, now}: a view this moment is (1, 1, 1)."""
    short, day, long = _fade(last_seen_us(realtime), now_us)
    return {tag: (a * short, b * day, c * long) for tag, (a, b, c) in _sums(realtime.data).items()}


def counts(realtime: Realtime, now_us: int, hours: int) -> Counts:
    """Events by kind in the running clock hour and the `hours` (at most 23) before it."""
    tags, end = ends(realtime.data)[:2]
    since = now_us // HOUR_US - hours
    rows = [row[1:] for row in TILE_ROW.iter_unpack(realtime.data[tags:end]) if row[0] >= since]
    return tuple(map(sum, zip(*rows, strict=True))) if rows else (0, 0, 0, 0, 0)  # type: ignore[return-value]


def recent(realtime: Realtime) -> list[Recent]:
    """The latest MAX_RECENT events, newest first."""
    start, end = ends(realtime.data)[2:4]
    return [Recent(*row) for row in RECENT_ROW.iter_unpack(realtime.data[start:end])]


def session_depth(realtime: Realtime, now_us: int) -> int:
    """Events since the last pause of half an hour, MAX_RECENT at most; 0 when the user is in such a pause now."""
    later, depth = now_us, 0
    for event in recent(realtime):
        if later - event.time_us > SESSION_US:
            break
        later, depth = event.time_us, depth + 1
    return depth


def last_category(realtime: Realtime) -> int:
    """Tag of the latest event that had one, 0 for none among the last MAX_RECENT."""
    return next((event.tag for event in recent(realtime) if event.tag), 0)


def carts(realtime: Realtime) -> dict[int, Basket]:
    """{tag: its latest cart or purchase}."""
    start, end = ends(realtime.data)[3:5]
    return {tag: Basket(time_us, kind) for tag, time_us, kind in CART_ROW.iter_unpack(realtime.data[start:end])}


def carted(realtime: Realtime, now_us: int) -> frozenset[int]:
    """Tags put into a basket in the last three days and not bought since."""
    return frozenset(
        tag for tag, cart in carts(realtime).items() if cart.kind == CART and now_us - cart.time_us <= CART_US
    )


def bought(realtime: Realtime, now_us: int) -> frozenset[int]:
    """Tags bought in the last two weeks and not put into a basket since: of these nobody wants to hear now."""
    return frozenset(
        tag for tag, cart in carts(realtime).items() if cart.kind == PURCHASE and now_us - cart.time_us <= BOUGHT_US
    )


def keywords(realtime: Realtime, now_us: int) -> frozenset[int]:
    """Tags that a search named in the last day."""
    start, end = ends(realtime.data)[4:6]
    rows = KEYWORD_ROW.iter_unpack(realtime.data[start:end])
    return frozenset(tag for tag, time_us in rows if now_us - time_us <= KEYWORD_US)


def raised(realtime: Realtime, now_us: int) -> frozenset[int]:
    """Tags that a rule over the stream raised and that have not ended."""
    start, end = ends(realtime.data)[5:7]
    rows = RAISED_ROW.iter_unpack(realtime.data[start:end])
    return frozenset(tag for tag, until_s in rows if now_us < until_s * 1_000_000)


INTENT_OF: Mapping[int, int] = MappingProxyType(
    {
        tag.id: taxonomy.BY_NAME[intent].id
        for tag in taxonomy.TAGS
        if tag.name.startswith("interest.")
        and (intent := "intent" + tag.name.removeprefix("interest")) in taxonomy.BY_NAME
    }
)
"""{interest tag: the intent tag of the same subject}."""
_INTENTS = frozenset(INTENT_OF.values())


def realtime_tags(realtime: Realtime, now_us: int, wanted: AbstractSet[int] | None = None) -> dict[int, int]:
    """{tag: score 0..100}: what this record alone says of the user now. wanted: leave other tags out; None = all.

    An interest scores `100 s / (s + 9)` of s, its three decayed weights together: a view just now 25, a search 50, a
    cart 62. An intent has the score of its interest while that is in a basket, or was searched and is of weight 6 or
    more over the day. What was just bought is left out, whatever else it was. A raised tag scores 100.
    """
    data = realtime.data
    n = data[1]
    ids = struct.unpack_from(f"<{n}I", data, HEAD.size)
    found: dict[int, int] = {}
    if wanted is None or not wanted.isdisjoint(ids) or not _INTENTS.isdisjoint(wanted):
        _score(realtime, ids, now_us, wanted, found)
    if data[7]:
        for tag in raised(realtime, now_us):
            if wanted is None or tag in wanted:
                found[tag] = 100
    return found


def _score(
    realtime: Realtime, ids: Sequence[int], now_us: int, wanted: AbstractSet[int] | None, found: dict[int, int]
) -> None:
    """Add the scores of interests and intents."""
    data, n = realtime.data, len(ids)
    picks = [i for i, tag in enumerate(ids) if wanted is None or tag in wanted or INTENT_OF.get(tag, 0) in wanted]
    if not picks:
        return
    short, day, long = _fade(last_seen_us(realtime), now_us)
    gone = bought(realtime, now_us) if data[5] else ()
    intends = wanted is None or not _INTENTS.isdisjoint(wanted)
    in_basket = carted(realtime, now_us) if data[5] and intends else ()
    searched = keywords(realtime, now_us) if data[6] and intends else ()
    for i, (a, b, c) in zip(picks, _values(data, n, picks), strict=True):
        tag = ids[i]
        s = a * short + b * day + c * long
        score = int(100 * s / (s + HALF_SCORE) + ROUNDING)
        if not score or tag in gone:
            continue
        if wanted is None or tag in wanted:
            found[tag] = score
        if tag in in_basket or (tag in searched and b * day >= INTENT_DAY):
            intent = INTENT_OF.get(tag, 0)
            if intent and (wanted is None or intent in wanted):
                found[intent] = score


def _values(data: bytes, n: int, picks: Sequence[int]) -> Iterator[Sums]:
    """The sums of some of n tags: one by one while they are few, which bids are interested in."""
    start = HEAD.size + 4 * n
    if 4 * len(picks) > n:
        values = struct.unpack_from(f"<{3 * n}d", data, start)
        return ((values[i], values[n + i], values[2 * n + i]) for i in picks)
    one = _F64.unpack_from
    return (
        (one(data, start + 8 * i)[0], one(data, start + 8 * (n + i))[0], one(data, start + 8 * (2 * n + i))[0])
        for i in picks
    )


def current_tags(
    tags: Mapping[int, int], realtime: Realtime | None, now_us: int, wanted: AbstractSet[int] | None = None
) -> Mapping[int, int]:
    """{tag: score} of long-term and real-time tags together: the higher score of the two holds.

    What was just bought, and the intent to buy it, count for nothing, however long they were liked. wanted: what of
    the real-time tags to look at; long-term ones are all there.
    """
    if realtime is None:
        return tags
    lately = realtime_tags(realtime, now_us, wanted)
    gone = bought(realtime, now_us) if realtime.data[5] else ()
    if not lately and not gone:
        return tags
    both = dict(tags)
    for tag, score in lately.items():
        if score > both.get(tag, 0):
            both[tag] = score
    for tag in gone:
        both.pop(tag, None)
        both.pop(INTENT_OF.get(tag, 0), None)
    return both
