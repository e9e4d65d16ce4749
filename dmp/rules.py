"""Trigger rules as data: a TOML file, and the little language of their conditions.

    zone = "Asia/Shanghai"                # whose weekdays and hours; default UTC

    [[rule]]
    name = "keen on travel"
    when = "searched interest.travel twice within 10 min and no purchase within 1 d"
    raise = "intent.travel"               # a standard tag ...
    for = "2 h"

    [[rule]]
    name = "late beauty"
    when = "weekday 22-24h and interest.beauty >= 50 and in region 'US-CA'"
    audience = "acme/late-beauty"         # ... or an audience to be put into
    for = "1 d"

Conditions:

* `viewed | searched | carted | purchased | acted [tag, 'label' or hot] [once | twice | N times] [within N s|min|h|d]`;
  nothing said means once and within 30 min; `hot` is any topic that is breaking out (`tagbid dmp hot`);
* `no view | search | cart | purchase | act [tag, 'label' or hot] [within ...]`;
* `in region 'R'`: reported from there within a day; `weekday`, `weekend`, `mon` to `sun`, `22-24h`, or a day and hours;
* `TAG >= N` (also `>`, `<=`, `<`): the long-term score;

joined by `and`, `or`, `not` and parentheses.
"""

import re
import tomllib
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from dmp import taxonomy
from dmp.audiences import BadName, audience_id
from dmp.errors import ConfigError
from dmp.realtime import CART, MAX_RECENT, PURCHASE, SEARCH, VIEW

ANY = -1
HOT = -1  # as the tag of an act: whatever is a hot topic at that time (`dmp.hot`)
ACTS = {"viewed": VIEW, "searched": SEARCH, "carted": CART, "purchased": PURCHASE, "acted": ANY}
NOUNS = {"view": VIEW, "search": SEARCH, "cart": CART, "purchase": PURCHASE, "act": ANY}
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_SETS = {
    "weekday": frozenset(range(5)),
    "weekend": frozenset((5, 6)),
    **{d: frozenset((i,)) for i, d in enumerate(DAYS)},
}
UNITS_US = {"s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
WINDOW_US = 30 * UNITS_US["min"]
MAX_WINDOW_US = 14 * UNITS_US["d"]
MAX_FOR_US = 30 * UNITS_US["d"]
_TOKEN = re.compile(r"\s*(?:'([^']*)'|\"([^\"]*)\"|(\d+-\d+h)|([A-Za-z_][\w.]*)|(\d+)|(>=|<=|>|<|\(|\)))")


class Acted(NamedTuple):
    """At least `times` acts of a kind (ANY: whatever) in the window that ends now, about a tag (0: anything, HOT: a
    topic that was hot then).
    """

    kind: int
    tag: int
    times: int
    window_us: int


class InRegion(NamedTuple):
    """Reported from this region within the last day."""

    region: str


class At(NamedTuple):
    """Local days of the week (0 Monday) and hours from..to."""

    days: frozenset[int]
    first_hour: int
    end_hour: int


class Scored(NamedTuple):
    """The long-term score of a tag, 0 where there is none, compared."""

    tag: int
    compare: str
    score: int


class Not(NamedTuple):
    part: "Condition"


class All(NamedTuple):
    parts: tuple["Condition", ...]


class Any(NamedTuple):
    parts: tuple["Condition", ...]


Condition = Acted | InRegion | At | Scored | Not | All | Any


class Rule(msgspec.Struct, frozen=True):
    """tag: what is raised, 0 when an audience is meant. for_us: how long it holds after the moment that met `when`."""

    name: str
    when: Condition
    tag: int
    audience: str
    for_us: int


class Rules(msgspec.Struct, frozen=True):
    rules: tuple[Rule, ...] = ()
    zone: str = "UTC"


class _RuleText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"raises": "raise", "lasts": "for"}):
    name: str
    when: str
    lasts: str
    raises: str = ""
    audience: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[_RuleText, ...] = ()
    zone: str = "UTC"


class BadRule(Exception):
    """Text that is no condition; says where and what was expected."""


def load(path: Path) -> Rules:
    """Raises ConfigError with every problem of the file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        missing = "there is no such file: write one with [[rule]] tables, as `dmp/rules.py` of the source shows"
        raise ConfigError(str(path), [missing]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [str(error)]) from None


def parse(text: str, origin: str) -> Rules:
    """Rules from TOML text; raises ConfigError with every problem."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(origin, [str(error)]) from None
    problems, rules = [], []
    try:
        zoneinfo.ZoneInfo(file.zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        problems.append(f"zone: {file.zone!r} is no IANA time zone")
    for one in file.rule:
        try:
            rules.append(_rule(one))
        except (BadRule, taxonomy.UnknownTag, BadName) as error:
            problems.append(f"rule {one.name!r}: {error}")
    names = [one.name for one in file.rule]
    problems += [f"two rules are named {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise ConfigError(origin, problems)
    return Rules(tuple(rules), file.zone)


def _rule(text: _RuleText) -> Rule:
    if bool(text.raises) == bool(text.audience):
        raise BadRule("say either what tag to raise, or which audience to put the user into")
    if text.audience:
        owner, _, name = text.audience.partition("/")
        audience_id(owner, name)
    for_us = _Reader(text.lasts).whole_duration()
    if not 0 < for_us <= MAX_FOR_US:
        raise BadRule("for: from 1 s to 30 d")
    return Rule(
        text.name, condition(text.when), taxonomy.tag_id(text.raises) if text.raises else 0, text.audience, for_us
    )


def condition(text: str) -> Condition:
    """A condition from its text; raises BadRule and UnknownTag.

    >>> condition("searched interest.travel twice within 10 min and no purchase").parts[0].times
    2
    """
    return _Reader(text).whole()


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []  # (kind, value, place)
        self._at = at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise BadRule(f"cannot read {text[at:].strip()[:20]!r} in {text!r}")
            kinds = ("label", "label", "hours", "word", "number", "sign")
            kind, value = next((k, v) for k, v in zip(kinds, match.groups(), strict=True) if v is not None)
            self._tokens.append((kind, value.lower() if kind == "hours" else value, match.start(match.lastindex or 0)))
            at = match.end()

    def whole(self) -> Condition:
        found = self._any()
        self._end()
        return found

    def whole_duration(self) -> int:
        found = self._duration()
        self._end()
        return found

    def _end(self) -> None:
        if self._at < len(self._tokens):
            raise self._wrong("the end, `and` or `or`")

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._word("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._word("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self) -> Condition:
        if self._word("not"):
            return Not(self._one())
        if self._take("sign", "("):
            inner = self._any()
            if not self._take("sign", ")"):
                raise self._wrong("`)`")
            return inner
        if self._word("no"):
            return Not(self._acted(NOUNS, counted=False))
        if self._word("in"):
            if not self._word("region"):
                raise self._wrong("`region`")
            return InRegion(self._text_value("a region"))
        kind, value, _ = self._peek()
        if kind == "word" and value in ACTS:
            return self._acted(ACTS, counted=True)
        if kind == "hours" or (kind == "word" and value in DAY_SETS):
            return self._moment()
        if kind == "word" and "." in value:
            return self._scored()
        raise self._wrong(
            "a condition, such as `searched ...`, `no purchase`, `in region ...`, `weekday`, `interest.x >= 50`"
        )

    def _acted(self, kinds: dict[str, int], counted: bool) -> Acted:
        kind, value, _ = self._peek()
        if kind != "word" or value not in kinds:
            raise self._wrong(f"one of {', '.join(kinds)}")
        self._at += 1
        tag, times, window_us = self._subject(), 1, WINDOW_US
        if counted:
            times = self._times()
        if self._word("within"):
            window_us = self._duration()
            if not 0 < window_us <= MAX_WINDOW_US:
                raise BadRule("a window is from 1 s to 14 d")
        return Acted(kinds[value], tag, times, window_us)

    def _subject(self) -> int:
        kind, value, _ = self._peek()
        if kind == "word" and "." in value:
            self._at += 1
            return taxonomy.tag_id(value)
        if self._word("hot"):
            return HOT
        if kind == "label":
            self._at += 1
            tag = taxonomy.find(value)
            if tag is None:
                raise BadRule(f"{value!r} is no label of a standard tag; `tagbid dmp taxonomy show` lists them")
            return tag
        return 0

    def _times(self) -> int:
        for word, times in (("once", 1), ("twice", 2)):
            if self._word(word):
                return times
        kind, value, _ = self._peek()
        if kind != "number":
            return 1
        self._at += 1
        if not self._word("times"):
            raise self._wrong("`times`")
        if not 1 <= int(value) <= MAX_RECENT:
            raise BadRule(f"{value} times: from 1 to {MAX_RECENT}, as many events of a user are remembered one by one")
        return int(value)

    def _moment(self) -> At:
        days = frozenset(range(7))
        kind, value, _ = self._peek()
        if kind == "word":
            self._at += 1
            days = DAY_SETS[value]
            kind, value, _ = self._peek()
        first, end = 0, 24
        if kind == "hours":
            self._at += 1
            first, end = (int(part) for part in value.rstrip("h").split("-"))
            if not 0 <= first < end <= 24:
                raise BadRule(f"{value}: hours go from 0 to 24, the first before the second; join two spans with `or`")
        return At(days, first, end)

    def _scored(self) -> Scored:
        tag = taxonomy.tag_id(self._peek()[1])
        self._at += 1
        kind, compare, _ = self._peek()
        if kind != "sign" or compare in "()":
            raise self._wrong("one of >=, >, <=, <")
        self._at += 1
        kind, value, _ = self._peek()
        if kind != "number" or int(value) > 100:
            raise self._wrong("a score from 0 to 100")
        self._at += 1
        return Scored(tag, compare, int(value))

    def _duration(self) -> int:
        kind, value, _ = self._peek()
        if kind != "number":
            raise self._wrong("a duration such as `10 min`")
        self._at += 1
        for unit, us in UNITS_US.items():
            if self._word(unit):
                return int(value) * us
        raise self._wrong(f"one of {', '.join(UNITS_US)}")

    def _text_value(self, what: str) -> str:
        kind, value, _ = self._peek()
        if kind not in ("label", "word") or not value:
            raise self._wrong(f"{what} in quotes")
        self._at += 1
        return value

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "", len(self._text))

    def _word(self, word: str) -> bool:
        return self._take("word", word)

    def _take(self, kind: str, value: str) -> bool:
        if self._peek()[:2] == (kind, value):
            self._at += 1
            return True
        return False

    def _wrong(self, wanted: str) -> BadRule:
        _, value, place = self._peek()
        found = repr(value) if value else "nothing more"
        return BadRule(f"expected {wanted}, found {found} at character {place + 1} of {self._text!r}")


def parts_of(found: Condition) -> Sequence[Condition]:
    """A condition and everything in it."""
    if isinstance(found, Not):
        return (found, *parts_of(found.part))
    if isinstance(found, All | Any):
        return (found, *(inner for part in found.parts for inner in parts_of(part)))
    return (found,)
