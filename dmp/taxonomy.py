"""The standard tag tree: stable ids, names, half-lives, and the way from a free label to a tag.

`taxonomy.csv` holds one tag a line; ids are never reused and rows only added. Columns: id, name (dotted path),
parent (name), kind (root, group, score 0-100, quintile, fact), half_life_days (0 = no decay), ttl_days,
sensitive (1: never inferred into by machine alone), label_en, label_zh, iab_content (IAB Content Taxonomy 1.0
id where one fits), iab_audience (IAB Audience Taxonomy 1.1 id), aliases (`|`-separated free labels), exclusive
(group of which a user has one tag at most). `tagbid dmp taxonomy check` holds a file to these rules.
"""

import csv
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import blake2b
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
    exclusive: str = ""


class UnknownTag(DmpError):
    """A tag name that the taxonomy does not have."""

    def __init__(self, name: str) -> None:
        close = difflib.get_close_matches(name, BY_NAME, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; `tagbid dmp taxonomy show` lists them"
        super().__init__(f"no tag {name!r} in the taxonomy{hint}")


def packaged() -> str:
    """The text of the taxonomy file of this release."""
    return files("dmp").joinpath("taxonomy.csv").read_text(encoding="utf-8")


def parse(text: str) -> tuple[TagDefinition, ...]:
    """The tags of a taxonomy file, in file order; ValueError or KeyError where `taxonomy_check` finds problems."""
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
            exclusive=line["exclusive"],
        )
        for line in csv.DictReader(text.splitlines())
    )


TAGS: tuple[TagDefinition, ...] = parse(packaged())
BY_NAME: Mapping[str, TagDefinition] = MappingProxyType({tag.name: tag for tag in TAGS})
BY_ID: Mapping[int, TagDefinition] = MappingProxyType({tag.id: tag for tag in TAGS})
INTERESTS: tuple[int, ...] = tuple(tag.id for tag in TAGS if tag.parent == "interest")
"""Ids of the interest tags, one per vertical, in file order."""


FIRST_PARTNER_TAG = 2**31


def partner_tag(name: str) -> int:
    """The number of a tag that a partner declares (`dmp.partner`): made of its name alone, above all of ours."""
    return FIRST_PARTNER_TAG + int.from_bytes(blake2b(name.encode(), digest_size=4).digest()) % FIRST_PARTNER_TAG


def tag_id(name: str) -> int:
    """The id of a tag by name; raises UnknownTag with the nearest names. Any `partner.<who>.<what>` has one.

    >>> tag_id("demographic.gender.male")
    101
    """
    if name.startswith("partner.") and name.count(".") == 2:
        return partner_tag(name)
    try:
        return BY_NAME[name].id
    except KeyError:
        raise UnknownTag(name) from None


def tag_name(tag: int) -> str:
    """The name of a tag by id, `tag#<id>` for one this release does not know (a newer build may have written it)."""
    known = BY_ID.get(tag)
    return known.name if known else f"tag#{tag}"


def normal(label: str) -> str:
    r"""One width (NFKC) and case, `&` as "and", punctuation and white space as single blanks.

    >>> normal("\uff26ood&Drink、Tea")
    'food and drink tea'
    """
    folded = unicodedata.normalize("NFKC", label).casefold().replace("&", " and ")
    return " ".join(re.sub(r"[\W_]+", " ", folded).split())


_FACETS: Mapping[str, str] = {
    "interests": "interest",
    "long term interest": "interest",
    "in market": "intent",
    "intent": "intent",
    "购买意图": "intent",
    "demographics": "demographic",
    "人口统计": "demographic",
    "life cycle": "lifecycle",
    "生命周期": "lifecycle",
    **{normal(word): tag.name for tag in TAGS if not tag.parent for word in (tag.name, tag.label_en, tag.label_zh)},
}


def labels_of(tag: TagDefinition) -> Iterable[str]:
    """What a free label may be called to mean this tag: none for a root or group, which no user has.

    The last part of a name counts only right under a root: deeper down it says too little ("women", "online").
    """
    if tag.kind in ("root", "group"):
        return ()
    short = (tag.name.rpartition(".")[2],) if "." not in tag.parent else ()
    return (*short, tag.label_en, tag.label_zh, *tag.aliases)


def facet_of(tag: TagDefinition) -> str:
    """The root a tag stands under: "interest", "intent", "demographic" ..."""
    return tag.name.partition(".")[0]


def split(label: str) -> tuple[str | None, str]:
    """(facet, the label without facet and path); (None, the whole label) without a facet that we know.

    >>> split("In-market/Home/Furniture"), split("Furniture"), split("nonsense/Furniture")
    (('intent', 'Furniture'), (None, 'Furniture'), (None, 'nonsense/Furniture'))
    """
    head, slash, rest = label.partition("/")
    facet = _FACETS.get(normal(head)) if slash else None
    return (None, label) if facet is None else (facet, rest.rpartition("/")[2])


def _labels() -> dict[tuple[str, str], int]:
    """{(facet, normalised label): tag id}; the first tag in file order keeps a label that two would claim."""
    found: dict[tuple[str, str], int] = {}
    for tag in TAGS:
        for label in labels_of(tag):
            found.setdefault((facet_of(tag), normal(label)), tag.id)
    return found


LABELS: Mapping[tuple[str, str], int] = MappingProxyType(_labels())


def find(label: str) -> int | None:
    """The tag that a free label stands for, or None.

    A label is a tag's name, its last part, an English or Chinese label or an alias, in any width, case and
    punctuation; it may start with a facet and a slash. Without a facet an interest is meant, else a demographic.

    >>> tag_name(find("In-market/Beauty& Personal Care"))
    'intent.beauty'
    >>> tag_name(find("旅游"))
    'interest.travel'
    >>> find("no such thing") is None
    True
    """
    named = BY_NAME.get(label)
    if named is not None and named.kind not in ("root", "group"):
        return named.id
    facet, rest = split(label)
    if facet is None:
        return LABELS.get(("interest", normal(rest))) or LABELS.get(("demographic", normal(rest)))
    return LABELS.get((facet, normal(rest)))
