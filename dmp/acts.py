"""What an event does to a real-time record: its kind, its weight, and the tags it is about.

An event without consent to build profiles does nothing, nor does a customer record, which tells nothing about now.
Tags come from the event's category and, of a search, from the words of the query: the longest runs of them that are
a standard label, found as `dmp.standardise` finds them, people's decisions included. What leads to a sensitive tag
leads nowhere. The tag above an interest gets half the weight, so that who reads about tents is seen among campers.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from dmp import standardise, taxonomy
from dmp.decisions import Decision
from dmp.events import CONSENT_PROFILE, Behaviour, Cart, Crm, Purchase, Search, View
from dmp.realtime import CART, OTHER, PURCHASE, SEARCH, VIEW, WEIGHTS

DWELL_MS = 60_000  # that long on a page counts as another view ...
MAX_DWELL_VIEWS = 2.0  # ... and so on, up to this
MAX_QUERY_CHARS = 200
MAX_QUERY_TAGS = 3
MAX_WORDS, MAX_IDEOGRAPHS = 4, 8  # of a label that is looked for in a query
_KINDS = {View: VIEW, Search: SEARCH, Cart: CART, Purchase: PURCHASE}
_PIECES = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+(?:'\w+)?")


class Subject(NamedTuple):
    """tag: what the event is about, 0 for nothing known. shares: (tag, share of the weight). keywords: of a query."""

    tag: int
    shares: tuple[tuple[int, float], ...]
    keywords: tuple[int, ...]


class Act(NamedTuple):
    """An event as a record counts it. kind: `dmp.realtime.VIEW` to OTHER. spent_micros: of a purchase, else 0."""

    time_us: int
    kind: int
    weight: float
    subject: Subject
    spent_micros: int


Understanding = Callable[[Behaviour], Act | None]
"""The act of an event; None when it does nothing."""


def understanding(decided: Mapping[str, Decision], cache_entries: int = 65_536) -> Understanding:
    """How events are understood, given people's decisions on labels; remembers what the latest labels meant."""
    resolve = standardise.resolver(decided)

    @lru_cache(cache_entries)
    def tag_of(label: str) -> int:
        found = resolve(label)
        return found if found is not None and found in SUBJECTS else 0

    @lru_cache(cache_entries)
    def subject(category: str, query: str) -> Subject:
        tag = tag_of(category) if category else 0
        keywords = tuple(keyword_tags(query, tag_of)) if query else ()
        shares: dict[int, float] = {}
        for found in (tag, *keywords):
            if found:
                shares[found] = 1.0
                if above := SUBJECTS[found]:
                    shares.setdefault(above, 0.5)
        return Subject(tag or (keywords[0] if keywords else 0), tuple(shares.items()), keywords)

    def act(event: Behaviour) -> Act | None:
        if not event.consent & CONSENT_PROFILE or isinstance(event, Crm):
            return None
        kind = _KINDS.get(type(event), OTHER)
        weight = WEIGHTS[kind]
        if isinstance(event, View) and event.dwell_ms > 0:
            weight += min(event.dwell_ms / DWELL_MS, MAX_DWELL_VIEWS)
        query = event.query[:MAX_QUERY_CHARS] if isinstance(event, Search) else ""
        spent = max(0, event.value_micros) if kind == PURCHASE else 0
        return Act(event.time_us, kind, weight, subject(event.category, query), spent)

    return act


def keyword_tags(query: str, tag_of: Callable[[str], int]) -> list[int]:
    """The tags a query names, in the order named, at most three: the longest run of words first, no word used twice.

    >>> from dmp.taxonomy import find, tag_name
    >>> [tag_name(tag) for tag in keyword_tags("cheap Travel insurance 旅游", lambda label: find(label) or 0)]
    ['interest.travel', 'interest.finance']
    """
    pieces = [(match.group(), match.start(), match.end()) for match in _PIECES.finditer(query)]
    found: list[int] = []
    at = 0
    while at < len(pieces) and len(found) < MAX_QUERY_TAGS:
        longest = MAX_IDEOGRAPHS if _is_ideograph(pieces[at][0]) else MAX_WORDS
        for size in range(min(longest, len(pieces) - at), 0, -1):
            tag = tag_of(query[pieces[at][1] : pieces[at + size - 1][2]])
            if tag:
                if tag not in found:
                    found.append(tag)
                at += size
                break
        else:
            at += 1
    return found


def _is_ideograph(piece: str) -> bool:
    return "\u3400" <= piece[0] <= "\u9fff"


def _subjects() -> dict[int, int]:
    """{tag an event may be about: the tag above it, 0 when that is a mere group}."""
    able = {
        tag.name: tag
        for tag in taxonomy.TAGS
        if taxonomy.facet_of(tag) in ("interest", "intent") and tag.kind == "score" and not tag.sensitive
    }
    return {tag.id: able[tag.parent].id if tag.parent in able else 0 for tag in able.values()}


SUBJECTS: Mapping[int, int] = _subjects()
