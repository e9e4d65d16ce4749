"""Adding acts to a real-time record: the inner loop of the stream.

What comes out depends on which acts were added, not on their order: see `dmp.realtime`, and `dmp.realtime_batch`, which
computes the same record from all acts at once. One rule looks at the gaps between acts: after IDLE_S without any, a
record starts anew, as its key would have expired.

A table is kept as it is stored as long as possible: most acts touch one row of the tiles, three numbers a tag, and
put one row in front of the recent ones. That costs a third of taking the record apart and putting it together.
"""

import math
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from dmp import realtime
from dmp.acts import Act
from dmp.realtime import (
    CART,
    CART_ROW,
    DAY_US,
    DAYS,
    HEAD,
    HOUR_US,
    HOURS,
    IDLE_S,
    KEYWORD_ROW,
    MAX_CARTS,
    MAX_COUNT,
    MAX_KEYWORDS,
    MAX_RAISED,
    MAX_RECENT,
    MOMENT_ROW,
    PURCHASE,
    RAISED_ROW,
    RECENT_ROW,
    TAU_US,
    TILE_ROW,
    VERSION,
    Basket,
    Moment,
    Recent,
    landmark_us,
)
from dmp.schema import Realtime

KEEP_CARTS_H, KEEP_KEYWORDS_H = 14 * 24 + 1, 25  # clock hours, the newest event's included
MAX_EVENTS, MAX_SPENT = 2**32 - 1, 2**62
_I64, _U32 = struct.Struct("<q"), struct.Struct("<I")
_SWAP = sys.byteorder == "big"


class Draft:
    """A record being changed."""

    def __init__(self, before: Realtime | None) -> None:
        self._empty()
        if before is not None:
            self._read(before.data)

    def _empty(self) -> None:
        self.newest_us = -1  # no act yet
        self._spent = self._events = self._evicted = 0
        self._landmarks = (0, 0, 0)
        self._ids = array("I")
        self._sums = array("d"), array("d"), array("d")
        self._hours, self._days, self._recent = bytearray(), bytearray(), b""
        self._rest, self._rest_rows = b"", (0, 0, 0)
        self._small: _Small | None = None
        self._moments = b""

    def _read(self, data: bytes) -> None:
        tags, hours, days, recent, _, _, raised = realtime.ends(data)
        _, n, _, _, _, carts, keywords, raised_rows, _, self.newest_us, self._spent, self._events, self._evicted = (
            HEAD.unpack_from(data)
        )
        at = HEAD.size
        _fill(self._ids, data[at : at + 4 * n])
        at += 4 * n
        short, day = at + 8 * n, at + 16 * n
        for sums, start, end in zip(self._sums, (at, short, day), (short, day, tags), strict=True):
            _fill(sums, data[start:end])
        self._hours, self._days = bytearray(data[tags:hours]), bytearray(data[hours:days])
        self._recent = data[days:recent]
        self._rest, self._rest_rows = data[recent:raised], (carts, keywords, raised_rows)
        self._moments = data[raised + 1 : realtime.moments_end(data)]
        self._landmarks = landmark_us(self.newest_us, 0), landmark_us(self.newest_us, 1), landmark_us(self.newest_us, 2)

    def add(self, act: Act) -> None:
        """Count one act, which must not have been added before."""
        time_us, kind, weight, subject, spent = act
        if time_us > self.newest_us:
            self._advance(time_us)
        elif self.newest_us - time_us > IDLE_S * 1_000_000:
            return
        for tag, share in subject.shares:
            self._weigh(tag, time_us, weight * share)
        _count(self._hours, time_us // HOUR_US, kind, self.newest_us // HOUR_US - HOURS)
        _count(self._days, time_us // DAY_US, kind, self.newest_us // DAY_US - DAYS)
        self._remember(time_us, kind, subject.tag)
        if subject.keywords or (subject.tag and kind in (CART, PURCHASE)):
            self._open().note(act, self.newest_us // HOUR_US)
        self._events = min(self._events + 1, MAX_EVENTS)
        self._spent = min(self._spent + spent, MAX_SPENT)

    @property
    def moments(self) -> list[Moment]:
        return [Moment(*row) for row in MOMENT_ROW.iter_unpack(self._moments)]

    @property
    def recent(self) -> list[Recent]:
        return [Recent(*row) for row in RECENT_ROW.iter_unpack(self._recent)]

    @property
    def evicted(self) -> int:
        """Tags that ever had to go; what `finish` drops is counted by then."""
        return self._evicted

    def judge(self, moments: Sequence[Moment], raised: Mapping[int, int]) -> None:
        """Hold what the rules say now in the place of what they said before: `Parts.moments`, `Parts.raised`.

        Of more than MAX_RAISED tags, those that end last stay.
        """
        self._moments = realtime.pack_moments(moments)[1:]
        small = self._open()
        small.raised = dict(raised)
        _keep_latest(small.raised, MAX_RAISED)

    def finish(self, nonce: bytes) -> bytes:
        """The record. nonce: 8 bytes that no record of this user had before."""
        rest, rows = self._rest, self._rest_rows
        if self._small is not None:
            rest, rows = self._small.pack()
        hours, days = len(self._hours) // TILE_ROW.size, len(self._days) // TILE_ROW.size
        recent, moments = len(self._recent) // RECENT_ROW.size, len(self._moments) // MOMENT_ROW.size
        self._evict(len(self._ids) - realtime.tags_that_fit(hours + days, recent, *rows, moments))
        head = HEAD.pack(
            VERSION, len(self._ids), hours, days, recent, *rows,
            nonce, max(0, self.newest_us), self._spent, self._events, self._evicted,
        )  # fmt: skip
        sums = map(_bytes, self._sums)
        return b"".join(
            (
                head,
                _bytes(self._ids),
                *sums,
                self._hours,
                self._days,
                self._recent,
                rest,
                bytes((moments,)),
                self._moments,
            )
        )

    def _evict(self, surplus: int) -> None:
        """Drop so many of the weakest tags, of equal ones those with the higher ids."""
        if surplus <= 0:
            return
        order = sorted(range(len(self._ids)), key=lambda i: (-self._sums[2][i], i))
        for i in sorted(order[-surplus:], reverse=True):
            for column in (self._ids, *self._sums):
                column.pop(i)
        self._evicted = min(self._evicted + surplus, MAX_EVENTS)

    def _advance(self, time_us: int) -> None:
        """Make `time_us` the newest event's: landmarks move on, and what is too old now goes."""
        before_us = self.newest_us
        if before_us >= 0 and time_us - before_us > IDLE_S * 1_000_000:
            self._empty()
        self.newest_us = time_us
        hour = time_us // HOUR_US
        if before_us // HOUR_US == hour:
            return  # and so within the same landmarks, which lie on hours
        landmarks = landmark_us(time_us, 0), landmark_us(time_us, 1), landmark_us(time_us, 2)
        for sums, old_us, new_us, tau_us in zip(self._sums, self._landmarks, landmarks, TAU_US, strict=True):
            if old_us != new_us:
                factor = math.exp((old_us - new_us) / tau_us)
                for i, value in enumerate(sums):
                    sums[i] = value * factor
        self._landmarks = landmarks
        _cut(self._hours, hour - HOURS)
        _cut(self._days, time_us // DAY_US - DAYS)
        if any(self._rest_rows) or self._small:
            self._open().drop_old(time_us)

    def _weigh(self, tag: int, time_us: int, weight: float) -> None:
        ids, (short, day, long), (t_short, t_day, t_long) = self._ids, self._sums, self._landmarks
        i = bisect_left(ids, tag)
        if i == len(ids) or ids[i] != tag:
            ids.insert(i, tag)
            for sums in self._sums:
                sums.insert(i, 0.0)
        short[i] += weight * math.exp((time_us - t_short) / TAU_US[0])
        day[i] += weight * math.exp((time_us - t_day) / TAU_US[1])
        long[i] += weight * math.exp((time_us - t_long) / TAU_US[2])

    def _remember(self, time_us: int, kind: int, tag: int) -> None:
        held = self._recent
        if not held or time_us > _I64.unpack_from(held)[0]:
            self._recent = (RECENT_ROW.pack(time_us, kind, tag) + held)[: MAX_RECENT * RECENT_ROW.size]
            return
        rows = sorted([(time_us, kind, tag), *RECENT_ROW.iter_unpack(held)], reverse=True)[:MAX_RECENT]
        self._recent = b"".join(RECENT_ROW.pack(*row) for row in rows)

    def _open(self) -> "_Small":
        """The small tables taken apart, which most acts leave alone."""
        if self._small is None:
            self._small = _Small(self._rest, self._rest_rows)
        return self._small


class _Small:
    """Baskets, keywords and raised tags."""

    def __init__(self, data: bytes, rows: tuple[int, int, int]) -> None:
        carts = rows[0] * CART_ROW.size
        keywords = carts + rows[1] * KEYWORD_ROW.size
        self.carts = {tag: Basket(time_us, kind) for tag, time_us, kind in CART_ROW.iter_unpack(data[:carts])}
        self.keywords: dict[int, int] = dict(KEYWORD_ROW.iter_unpack(data[carts:keywords]))
        self.raised: dict[int, int] = dict(RAISED_ROW.iter_unpack(data[keywords:]))

    def note(self, act: Act, newest_hour: int) -> None:
        hour, tag = act.time_us // HOUR_US, act.subject.tag
        if act.kind in (CART, PURCHASE) and tag and hour > newest_hour - KEEP_CARTS_H:
            latest = Basket(act.time_us, act.kind)
            self.carts[tag] = max(latest, self.carts.get(tag, latest))
            _keep_latest(self.carts, MAX_CARTS)
        if hour > newest_hour - KEEP_KEYWORDS_H:
            for word in act.subject.keywords:
                self.keywords[word] = max(act.time_us, self.keywords.get(word, 0))
            _keep_latest(self.keywords, MAX_KEYWORDS)

    def drop_old(self, newest_us: int) -> None:
        """By whole hours, so that the same go whichever act of an hour comes first."""
        hour = newest_us // HOUR_US
        self.carts = {tag: cart for tag, cart in self.carts.items() if cart.time_us // HOUR_US > hour - KEEP_CARTS_H}
        self.keywords = {tag: at for tag, at in self.keywords.items() if at // HOUR_US > hour - KEEP_KEYWORDS_H}
        self.raised = {tag: until_s for tag, until_s in self.raised.items() if until_s * 1_000_000 // HOUR_US >= hour}

    def pack(self) -> tuple[bytes, tuple[int, int, int]]:
        return (
            realtime.pack_small(self.carts, self.keywords, self.raised),
            (len(self.carts), len(self.keywords), len(self.raised)),
        )


def _count(table: bytearray, tile: int, kind: int, oldest: int) -> None:
    """One more of a kind in a tile, newest first; tiles up to `oldest` are not kept."""
    if tile <= oldest:
        return
    at, end, found = 0, len(table), -1
    while at < end and (found := _U32.unpack_from(table, at)[0]) > tile:
        at += TILE_ROW.size
    if at == end or found != tile:
        table[at:at] = TILE_ROW.pack(tile, 0, 0, 0, 0, 0)
    at += 4 + 2 * kind
    count = table[at] + 256 * table[at + 1]
    if count < MAX_COUNT:
        table[at], table[at + 1] = (count + 1) % 256, (count + 1) // 256


def _cut(table: bytearray, oldest: int) -> None:
    while table and _U32.unpack_from(table, len(table) - TILE_ROW.size)[0] <= oldest:
        del table[-TILE_ROW.size :]


def _keep_latest(table: "dict[int, Basket] | dict[int, int]", most: int) -> None:
    """Drop the earliest entries beyond `most`; of equal ones the higher tag."""
    while len(table) > most:
        del table[min(table, key=lambda tag: (table[tag], -tag))]


def _fill(column: "array[int] | array[float]", data: bytes) -> None:
    column.frombytes(data)
    if _SWAP:
        column.byteswap()


def _bytes(column: "array[int] | array[float]") -> bytes:
    if _SWAP:
        column = column[:]
        column.byteswap()
    return column.tobytes()
