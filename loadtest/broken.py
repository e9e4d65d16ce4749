"""A corpus of broken requests, each with what should be answered, held against what was.

A line is `{"class", "reason", "expect", "body", ...}`; `referee.expectation_met` knows the texts of `expect`.
"""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dmp.errors import TagbidError
from loadtest import referee
from loadtest.load import Result


class BadCorpus(TagbidError):
    """A file that is no corpus of broken requests."""


class Broken(msgspec.Struct, frozen=True):
    """kind: class of the fault. sent: the bytes to send."""

    kind: str
    reason: str
    expect: str
    sent: bytes


class _Line(msgspec.Struct, frozen=True):
    kind: str = msgspec.field(name="class")
    reason: str
    expect: str
    body: str


class Kind(msgspec.Struct):
    """What came back for one class of faults. met: answers that are as expected."""

    requests: int = 0
    met: int = 0
    statuses: Counter[str] = msgspec.field(default_factory=Counter)


class Violation(msgspec.Struct, frozen=True):
    kind: str
    reason: str
    expect: str
    status: int
    answer: str


class Judged(msgspec.Struct, frozen=True):
    """kinds: by class. violations: every answer that is not what was expected."""

    kinds: dict[str, Kind]
    violations: list[Violation]


def read(file: Path) -> list[Broken]:
    """Raises BadCorpus naming the line."""
    found = []
    with gzip.open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                # Not msgspec's reader: a broken body may hold half a surrogate pair.
                record = msgspec.convert(json.loads(line), _Line)
            except (ValueError, msgspec.ValidationError) as error:
                raise BadCorpus(f"{file}, line {number}: {error}") from None
            sent = record.body.encode("utf-8", "surrogatepass")
            found.append(Broken(record.kind, record.reason, record.expect, sent))
    return found


def judge(broken: Sequence[Broken], result: Result) -> Judged:
    """result: of sending all of them once, in order, with every answer kept."""
    kinds: dict[str, Kind] = {}
    violations = []
    for i, request in enumerate(broken):
        status, answer = int(result.status[i]), result.bodies.get(i, b"")
        kind = kinds.setdefault(request.kind, Kind())
        kind.requests += 1
        kind.statuses[str(status) if status else "none"] += 1
        if referee.expectation_met(request.expect, request.reason, request.sent, status, answer):
            kind.met += 1
        else:
            text = answer[:200].decode(errors="replace")
            violations.append(Violation(request.kind, request.reason, request.expect, status, text))
    return Judged(dict(sorted(kinds.items())), violations)
