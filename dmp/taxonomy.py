"""The standard tag tree: stable ids, names, half-lives, and the way from a free label to a tag.

`taxonomy.csv` holds one tag a line; ids are never reused and rows only added. Columns: id, name (dotted path),
parent (name), kind (root, group, score 0-100, quintile, fact), half_life_days (0 = no decay), ttl_days,
sensitive (1: never inferred into by machine alone), label_en, label_zh, iab_content (IAB Content Taxonomy 1.0
id where one fits), iab_audience (IAB Audience Taxonomy 1.1 id), aliases (`|`-separated free labels).
"""

import csv
import difflib
import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

import msgspec

from dmp.errors import DmpError


class TagDefinition(msgspec.Struct, frozen=True):
    """One line of the tree."""

    id: int
    name: str
    parent: str
    kind: str
    half_life_days: int
    ttl_days: int
    sensitive: bool
    label_en: str
    label_zh: str
    iab_content: str
    iab_audience: str
    aliases: tuple[str, ...]


class UnknownTag(DmpError):
    """A tag name that the taxonomy does not have."""

    def __init__(self, name: str) -> None:
        close = difflib.get_close_matches(name, BY_NAME, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; `tagbid dmp taxonomy` lists them"
        super().__init__(f"no tag {name!r} in the taxonomy{hint}")


def _load() -> tuple[TagDefinition, ...]:
    text = files("dmp").joinpath("taxonomy.csv").read_text(encoding="utf-8")
    return tuple(
        TagDefinition(
            id=int(line["id"]),
            name=line["name"],
            parent=line["parent"],
            kind=line["kind"],
            half_life_days=int(line["half_life_days"]),
            ttl_days=int(line["ttl_days"]),
            sensitive=line["sensitive"] == "1",
            label_en=line["label_en"],
            label_zh=line["label_zh"],
            iab_content=line["iab_content"],
            iab_audience=line["iab_audience"],
            aliases=tuple(filter(None, line["aliases"].split("|"))),
        )
        for line in csv.DictReader(text.splitlines())
    )


TAGS: tuple[TagDefinition, ...] = _load()
BY_NAME: Mapping[str, TagDefinition] = MappingProxyType({tag.name: tag for tag in TAGS})
BY_ID: Mapping[int, TagDefinition] = MappingProxyType({tag.id: tag for tag in TAGS})
INTERESTS: tuple[int, ...] = tuple(tag.id for tag in TAGS if tag.parent == "interest")
"""Ids of the interest tags, one per vertical, in file order."""


def tag_id(name: str) -> int:
    """The id of a tag by name; raises UnknownTag with the nearest names.

    >>> tag_id("demographic.gender.male")
    101
    """
    try:
        return BY_NAME[name].id
    except KeyError:
        raise UnknownTag(name) from None


def tag_name(tag: int) -> str:
    """The name of a tag by id, `tag#<id>` for one this release does not know (a newer build may have written it)."""
    known = BY_ID.get(tag)
    return known.name if known else f"tag#{tag}"


_FACETS = {
    "interest": "interest",
    "interests": "interest",
    "long term interest": "interest",
    "intent": "intent",
    "in market": "intent",
    "purchase intent": "intent",
    "demographic": "demographic",
}


def _normal(label: str) -> str:
    """Lower case, `&` as "and", punctuation and white space as single blanks."""
    return " ".join(re.sub(r"[\W_]+", " ", label.lower().replace("&", " and ")).split())


def _labels() -> dict[tuple[str, str], int]:
    """{(facet, normalised label): tag id}; the first tag in file order keeps a label that two would claim."""
    found: dict[tuple[str, str], int] = {}
    for tag in TAGS:
        facet = tag.name.partition(".")[0]
        for label in (tag.name.rpartition(".")[2], tag.label_en, tag.label_zh, *tag.aliases):
            found.setdefault((facet, _normal(label)), tag.id)
    return found


_LABELS = _labels()


def find(label: str) -> int | None:
    """The tag that a free label stands for, or None.

    A label is a tag's name, its last part, an English or Chinese label or an alias, in any case and punctuation;
    it may start with a facet and a slash. Without a facet an interest is meant.

    >>> tag_name(find("In-market/Beauty& Personal Care"))
    'intent.beauty'
    >>> tag_name(find("旅游"))
    'interest.travel'
    >>> find("no such thing") is None
    True
    """
    if label in BY_NAME:
        return BY_NAME[label].id
    head, slash, rest = label.partition("/")
    facet = _FACETS.get(_normal(head)) if slash else None
    if facet is None:
        return _LABELS.get(("interest", _normal(label))) or _LABELS.get(("demographic", _normal(label)))
    return _LABELS.get((facet, _normal(rest.rpartition("/")[2])))
