"""Audience expressions: who is meant, as text a marketer can type, and as a tree that bitmaps answer.

    interest.travel >= 60 AND NOT lifecycle.lost AND seen < 7d
    (intent.automotive OR interest.automotive > 80) AND audience:acme/buyers
    all AND NOT interest

| term | users meant |
|---|---|
| `interest.travel` | who have the tag; for a root or group: who have any tag under it |
| `interest.travel >= 60` | who have it with such a score, 0 to 100; `>= > <= < = !=`; never who lack it |
| `seen < 7d` | whose last behaviour is so many days old at the time of the build; d or w (7 d), whole days |
| `audience:acme/buyers` | the members of an audience |
| `all` | everybody with tags |

`NOT` binds closest, then `AND`, then `OR`; key words in any case. A wrong expression is told with a caret under the
place, and with the nearest tag where a name is unknown. Sensitive tags are refused: no audience is made of them.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from dmp import taxonomy
from dmp.errors import DmpError
from dmp.schema import MAX_SCORE

Comparison = Literal[">=", ">", "<=", "<", "=", "!="]
MAX_CHARS = 4_000
MAX_TERMS = 200
MAX_DEPTH = 50
DAYS = {"d": 1, "w": 7}


class BadExpression(DmpError):
    """An expression that means nobody can tell whom. place: 0-based, of the first wrong character."""

    def __init__(self, text: str, place: int, problem: str) -> None:
        self.place = place
        self.problem = problem
        shown = "".join(c if c.isprintable() else " " for c in text)
        super().__init__(f"{problem}\n  {shown}\n  {' ' * place}^")


class Everybody(msgspec.Struct, frozen=True, tag=True):
    """Users with tags."""


class HasTag(msgspec.Struct, frozen=True, tag=True):
    """Users who have any of the tags."""

    tags: tuple[int, ...]


class Scored(msgspec.Struct, frozen=True, tag=True):
    """Users who have any of the tags with such a score."""

    tags: tuple[int, ...]
    comparison: Comparison
    score: int


class Seen(msgspec.Struct, frozen=True, tag=True):
    """Users whose last behaviour is so many days old."""

    comparison: Comparison
    days: int


class Member(msgspec.Struct, frozen=True, tag=True):
    """Members of an audience."""

    advertiser: str
    name: str


class Not(msgspec.Struct, frozen=True, tag=True):
    inner: "Expression"


class And(msgspec.Struct, frozen=True, tag=True):
    parts: tuple["Expression", ...]


class Or(msgspec.Struct, frozen=True, tag=True):
    parts: tuple["Expression", ...]


Expression = Everybody | HasTag | Scored | Seen | Member | Not | And | Or


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<audience>audience:[^\s()<>=!]*)
      | (?P<age>[0-9]+[A-Za-z]+)
      | (?P<number>-?[0-9]+(?:\.[0-9]+)?)
      | (?P<sign>>=|<=|!=|==|[<>=])
      | (?P<open>\()
      | (?P<close>\))
      | (?P<name>[^\W\d][\w.-]*)""",
    re.VERBOSE,
)


def parse(text: str) -> Expression:
    """The tree of an expression; raises BadExpression.

    >>> parse("seen < 1w and not rfm.recency.1")
    And(parts=(Seen(comparison='<', days=7), Not(inner=HasTag(tags=(201,)))))
    """
    return _Parser(text).whole()


def audiences_in(expression: Expression) -> Iterator[Member]:
    """The audiences it names."""
    match expression:
        case Member():
            yield expression
        case Not(inner):
            yield from audiences_in(inner)
        case And(parts) | Or(parts):
            for part in parts:
                yield from audiences_in(part)


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > MAX_CHARS:
            raise BadExpression(text[:60], 0, f"longer than {MAX_CHARS:,} characters; make audiences of its parts")
        self._tokens = list(self._split())
        self._at = self._terms = self._depth = 0

    def _split(self) -> Iterator[_Token]:
        place = 0
        while place < len(self._text):
            found = _TOKEN.match(self._text, place)
            if found is None:
                raise self._wrong(place, f"{self._text[place]!r} means nothing here")
            if found.lastgroup is not None and found.lastgroup != "space":
                word = found[0].upper()
                keyword = found.lastgroup == "name" and word in ("AND", "OR", "NOT", "ALL", "SEEN")
                yield _Token(word.lower() if keyword else found.lastgroup, found[0], place)
            place = found.end()
        yield _Token("end", "", len(self._text))

    def _wrong(self, place: int, problem: str) -> BadExpression:
        return BadExpression(self._text, place, problem)

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at += token.kind != "end"
        return token

    def _peek(self) -> str:
        return self._tokens[self._at].kind

    def whole(self) -> Expression:
        found = self._either()
        rest = self._next()
        if rest.kind == "close":
            raise self._wrong(rest.place, "this parenthesis was never opened")
        if rest.kind != "end":
            raise self._wrong(rest.place, f"AND or OR is missing before {rest.text!r}")
        return found

    def _either(self) -> Expression:
        parts = [self._both()]
        while self._peek() == "or":
            self._next()
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Expression:
        parts = [self._one()]
        while self._peek() == "and":
            self._next()
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Expression:
        token = self._next()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(token.place, f"nested deeper than {MAX_DEPTH} levels; make an audience of a part")
        try:
            return self._after(token)
        finally:
            self._depth -= 1

    def _after(self, token: _Token) -> Expression:
        if token.kind == "not":
            return Not(self._one())
        if token.kind == "open":
            inner = self._either()
            if self._peek() != "close":
                raise self._wrong(self._next().place, "a closing parenthesis is missing here")
            self._next()
            return inner
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._wrong(token.place, f"more than {MAX_TERMS} terms; make audiences of its parts")
        if token.kind == "all":
            return Everybody()
        if token.kind == "seen":
            return self._seen(token)
        if token.kind == "audience":
            advertiser, _, name = token.text.removeprefix("audience:").partition("/")
            if not advertiser or not name:
                raise self._wrong(token.place, "an audience is named audience:<advertiser>/<name>")
            return Member(advertiser, name)
        if token.kind == "name":
            return self._tag(token)
        expected = "a tag, audience:<advertiser>/<name>, seen, all, NOT or a parenthesis is expected here"
        raise self._wrong(token.place, expected)

    def _seen(self, token: _Token) -> Expression:
        if self._peek() != "sign":
            raise self._wrong(token.place, "say how long ago, for instance: seen < 7d")
        comparison = self._comparison()
        age = self._next()
        number, unit = re.fullmatch(r"([0-9]*)(.*)", age.text, re.DOTALL).groups()  # type: ignore[union-attr]
        if age.kind != "age" or unit.lower() not in DAYS:
            raise self._wrong(age.place, "an age is a number of days or weeks, for instance 7d or 2w")
        return Seen(comparison, min(int(number[:9]) * DAYS[unit.lower()], 1 << 20))

    def _tag(self, token: _Token) -> Expression:
        known = taxonomy.BY_NAME.get(token.text)
        if known is None:
            close = difflib.get_close_matches(token.text, taxonomy.BY_NAME, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "`tagbid dmp taxonomy show` lists them"
            raise self._wrong(token.place, f"no tag is named {token.text!r}; {hint}")
        tags: tuple[int, ...] = (known.id,)
        if known.kind in ("root", "group"):
            under = [tag for tag in taxonomy.TAGS if tag.name.startswith(f"{known.name}.")]
            tags = tuple(tag.id for tag in under if tag.kind not in ("root", "group") and not tag.sensitive)
        elif known.sensitive:
            raise self._wrong(token.place, f"{known.name} is a sensitive tag; no audience is made of it")
        if self._peek() != "sign":
            return HasTag(tags)
        comparison = self._comparison()
        number = self._next()
        if number.kind != "number" or not number.text.isdigit() or int(number.text) > MAX_SCORE:
            raise self._wrong(number.place, f"a score is a whole number from 0 to {MAX_SCORE}")
        return Scored(tags, comparison, int(number.text))

    def _comparison(self) -> Comparison:
        sign = self._next().text
        return "=" if sign == "==" else sign  # type: ignore[return-value]  # the token's pattern has no other
