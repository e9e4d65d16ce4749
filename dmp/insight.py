"""What may be told about audiences: sizes, overlaps, and which tags are over-represented; never about few people.

Every answer keeps the floors of P-65: sizes have two digits and are 0 below 50; overlap and index need 1,000 users on
either side, and a cell below 50 is not told. Rounding alone leaves a hole: ask for a set with and without one person
until the pair straddles a rounding edge, and the edge tells whether that person is in. So two sets of one asker that
differ by fewer than 50 users are one set: the later question is answered about the earlier one. What was asked is
logged per tenant and generation, and that log is also the memory of which sets these were.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
from pyroaring import BitMap

from dmp import bitmaps, taxonomy
from dmp.audiences import told, told_rate
from dmp.bitmaps import Bitmaps
from dmp.errors import DmpError
from dmp.expression import Member, parse

FLOOR_INSIGHT = 1_000  # P-65: overlaps and indices of fewer users are not told, whatever the settings say
FLOOR_CELL = 50  # P-65: as in `told`
OPERATOR = "!operator"
"""Who asks when no advertiser does; no advertiser can be named so."""

Kind = Literal["size", "overlap", "insight", "create"]


class TooFewUsers(DmpError):
    """The answer would be about so few users that it could be about one (P-65)."""

    def __init__(self, required: int) -> None:
        super().__init__(f"fewer than {required:,} users are meant; ask about more of them")


class Query(msgspec.Struct, frozen=True):
    """One line of a log. users: exact size of each set, which only the operator may read. answered: the expression
    whose users each was answered about.
    """

    at_us: int
    kind: Kind
    expressions: tuple[str, ...]
    generation: int
    users: tuple[int, ...]
    answered: tuple[str, ...]


class Size(msgspec.Struct, frozen=True):
    """users, of: rounded (P-65). share: of all users with tags, 0 to 1."""

    expression: str
    generation: int
    users: int
    of: int
    share: float


class Overlap(msgspec.Struct, frozen=True):
    """How two audiences meet; sizes rounded. share_of_a: of a's users who are in b too; share_of_b likewise."""

    a: str
    b: str
    generation: int
    users_a: int
    users_b: int
    both: int
    share_of_a: float
    share_of_b: float


class TagIndex(msgspec.Struct, frozen=True):
    """One tag in a target group against a base. index: 100 x share / base_share; 100 = as in the base."""

    tag: str
    label_en: str
    label_zh: str
    users: int
    share: float
    base_share: float
    index: int


class Insight(msgspec.Struct, frozen=True):
    """The target group index (TGI) of every tag of which at least 50 users are in target and base, highest first."""

    expression: str
    base: str
    generation: int
    users: int
    base_users: int
    tags: tuple[TagIndex, ...]


class Asker:
    """Who asks about one generation: a tenant with a log of its own, which is also the memory of its questions.

    tenant: an advertiser, or OPERATOR. members: the numbers of an audience's users; raises DmpError for an audience
    that the tenant does not have. log: the tenant's, of this generation. min_users: of overlaps and indices, at
    least FLOOR_INSIGHT.
    """

    def __init__(
        self,
        tenant: str,
        generation: int,
        index: Bitmaps,
        members: Callable[[Member], BitMap],
        log: Path,
        clock: Callable[[], int],
        min_users: int = FLOOR_INSIGHT,
    ) -> None:
        self.tenant, self.generation, self.bitmaps = tenant, generation, index
        self._members, self._log, self._clock = members, log, clock
        self._min_users = max(FLOOR_INSIGHT, min_users)

    def size(self, text: str) -> Size:
        """How many users an expression means. Raises BadExpression, and what `members` raises."""
        (users,) = self._settled("size", (text,))
        return Size(
            text,
            self.generation,
            told(len(users)),
            told(self.bitmaps.index.users),
            told_rate(len(users), self.bitmaps.index.users),
        )

    def overlap(self, a: str, b: str) -> Overlap:
        """How two expressions meet; raises TooFewUsers as well."""
        users_a, users_b, both = self._settled("overlap", (a, b, f"({a}) AND ({b})"))
        self._enough(users_a, users_b)
        return overlap_of(a, b, self.generation, users_a, users_b, len(both))

    def insight(self, text: str, base: str = "all") -> Insight:
        """Every tag's index in an expression against `base`; raises TooFewUsers as well. Sensitive tags stay out."""
        users, base_users = self._settled("insight", (text, base))
        self._enough(users, base_users)
        found = tag_indices(self.bitmaps, users, base_users)
        return Insight(text, base, self.generation, told(len(users)), told(len(base_users)), found)

    def users(self, text: str) -> tuple[BitMap, int]:
        """Exactly the users meant, to make an audience of, and how many it may be said to have, before rounding.

        Raises TooFewUsers below FLOOR_CELL.
        """
        users = self._of(text)
        if len(users) < FLOOR_CELL:
            raise TooFewUsers(FLOOR_CELL)
        (settled,) = self._settled("create", (text,))
        return users, len(settled)

    def _enough(self, *sets: BitMap) -> None:
        if min(map(len, sets)) < self._min_users:
            raise TooFewUsers(self._min_users)

    def _of(self, text: str) -> BitMap:
        return bitmaps.meant(parse(text), self.bitmaps, self._members)

    def _settled(self, kind: Kind, texts: tuple[str, ...]) -> tuple[BitMap, ...]:
        """The sets that texts mean, each replaced by one the tenant was told about before when they are nearly one."""
        sets = tuple(map(self._of, texts))
        with self._opened_log() as log:
            before = _told_about(log.read())
            settled = [self._earlier(text, users, before) for text, users in zip(texts, sets, strict=True)]
            log.write(self._line(kind, texts, sets, tuple(text for text, _ in settled)))
        return tuple(users for _, users in settled)

    def _earlier(self, asked: str, users: BitMap, before: dict[str, int]) -> tuple[str, BitMap]:
        size = len(users)
        for text, was in before.items():
            if text == asked:
                break
            if abs(was - size) >= FLOOR_CELL:
                continue
            try:
                old = self._of(text)
            except DmpError:  # an audience in it is gone
                continue
            if users.symmetric_difference_cardinality(old) < FLOOR_CELL:
                return text, old
        return asked, users

    @contextmanager
    def _opened_log(self) -> Iterator[BinaryIO]:
        """The log, at its beginning; what is written is added at the end. One question of a tenant at a time."""
        self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _line(self, kind: Kind, texts: tuple[str, ...], sets: tuple[BitMap, ...], answered: tuple[str, ...]) -> bytes:
        query = Query(self._clock(), kind, texts, self.generation, tuple(map(len, sets)), answered)
        return msgspec.json.encode(query) + b"\n"


def _told_about(log: bytes) -> dict[str, int]:
    """{expression: users} of the sets that were answered about, the first first.

    A set that was answered about another one is none of them: it was never told, and must not be now.
    """
    found: dict[str, int] = {}
    for line in log.split(b"\n")[:-1]:  # a torn last line was never answered
        query = msgspec.json.decode(line, type=Query)
        for text, users, answered in zip(query.expressions, query.users, query.answered, strict=True):
            if text == answered:
                found.setdefault(text, users)
    return found


def overlap_of(a: str, b: str, generation: int, users_a: BitMap, users_b: BitMap, both: int) -> Overlap:
    """Two sets of users as their overlap may be told. both: users of the two, as settled."""
    return Overlap(
        a,
        b,
        generation,
        told(len(users_a)),
        told(len(users_b)),
        told(both),
        told_rate(both, len(users_a)),
        told_rate(both, len(users_b)),
    )


def tag_indices(index: Bitmaps, users: BitMap, base: BitMap) -> tuple[TagIndex, ...]:
    """The index of every tag that is not sensitive and has 50 users in both groups, highest first; rounded.

    Shares are of sizes as told, so that they give no more away than those do.
    """
    size, base_size = told(len(users)), told(len(base))
    found = []
    for tag in index.index.columns:
        known = taxonomy.BY_ID.get(tag)
        if tag == bitmaps.SEEN or known is None or known.sensitive:
            continue
        having = index.having(tag)
        here = told(having.intersection_cardinality(users))
        there = told(having.intersection_cardinality(base))
        if here and there:
            share, base_share = here / size, there / base_size
            label = (known.name, known.label_en, known.label_zh)
            found.append(
                TagIndex(
                    *label,
                    here,
                    round(min(1.0, share), 3),
                    round(min(1.0, base_share), 3),
                    round(100 * share / base_share),
                )
            )
    return tuple(sorted(found, key=lambda entry: (-entry.index, entry.tag)))
