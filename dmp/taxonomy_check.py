"""Holds a taxonomy file to the rules its readers rely on; every problem is told, not only the first."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from dmp import taxonomy
from dmp.taxonomy import TagDefinition

COLUMNS = (
    "id", "name", "parent", "kind", "half_life_days", "ttl_days", "sensitive", "label_en", "label_zh", "iab_content",
    "iab_audience", "aliases", "exclusive",
)  # fmt: skip
KINDS = ("root", "group", "score", "quintile", "fact")
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_WHOLE = re.compile(r"[0-9]{1,10}")
_CONTENT = re.compile(r"(IAB[1-9][0-9]?(-[1-9][0-9]?)?)?")
_AUDIENCE = re.compile(r"([1-9][0-9]{0,3})?")


def problems(text: str, published: Sequence[TagDefinition] = taxonomy.TAGS) -> list[str]:
    """What is wrong with a taxonomy file, one sentence each; empty when nothing is.

    published: tags whose ids stored profiles hold already; each must still be there under its name.
    """
    reader = csv.DictReader(text.splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        return [f"the columns must be {','.join(COLUMNS)}"]
    lines = list(reader)
    found = [f"line {n}: {fault}" for n, line in enumerate(lines, 2) for fault in _faults(line)]
    if found:
        return found  # what follows reads the fields
    tags = taxonomy.parse(text)
    return [*_tree(tags), *_groups(tags), *_claims(tags), *_changes(tags, published)]


def _faults(line: dict[str, str]) -> Iterator[str]:
    """Faults within one line."""
    if None in line or None in line.values():
        yield f"must have {len(COLUMNS)} fields"
        return
    for column in ("id", "half_life_days", "ttl_days"):
        if not _WHOLE.fullmatch(line[column]):
            yield f"{column} {line[column]!r} is no whole number"
    if _WHOLE.fullmatch(line["id"]) and not 0 < int(line["id"]) < 2**32:
        yield f"id {line['id']} is not within 1..{2**32 - 1}"
    if line["ttl_days"] == "0":
        yield "ttl_days must be at least 1"
    if not _NAME.fullmatch(line["name"]):
        yield f"name {line['name']!r} is no dotted path of a-z, 0-9 and _"
    if line["kind"] not in KINDS:
        yield f"kind {line['kind']!r} is none of {', '.join(KINDS)}"
    if line["sensitive"] not in ("0", "1"):
        yield f"sensitive {line['sensitive']!r} is neither 0 nor 1"
    for column in ("label_en", "label_zh"):
        if not line[column].strip():
            yield f"{column} is missing"
    if not _CONTENT.fullmatch(line["iab_content"]):
        yield f"iab_content {line['iab_content']!r} is no id of content taxonomy 1.0, such as IAB20-3"
    if not _AUDIENCE.fullmatch(line["iab_audience"]):
        yield f"iab_audience {line['iab_audience']!r} is no id of audience taxonomy 1.1, such as 719"


def _tree(tags: Sequence[TagDefinition]) -> Iterator[str]:
    """Unique ids and names; each parent exists, above its tags (so there is no cycle), and hands its mark down."""
    above: dict[str, TagDefinition] = {}
    ids: dict[int, str] = {}
    names = {tag.name for tag in tags}
    for tag in tags:
        if tag.id in ids:
            yield f"{tag.name}: id {tag.id} is taken by {ids[tag.id]}"
        ids.setdefault(tag.id, tag.name)
        if tag.name in above:
            yield f"{tag.name}: the name is there twice"
        parent = above.get(tag.parent)
        if tag.parent and parent is None:
            where = "must stand above it (or is in a cycle)" if tag.parent in names else "does not exist"
            yield f"{tag.name}: its parent {tag.parent} {where}"
        if tag.name != (f"{tag.parent}." if tag.parent else "") + tag.name.rpartition(".")[2]:
            yield f"{tag.name}: the name must be its parent's name, a dot and one part"
        if (tag.kind == "root") != (not tag.parent):
            yield f"{tag.name}: the tags without a parent, and only they, are of kind root"
        if parent is not None and parent.sensitive and not tag.sensitive:
            yield f"{tag.name}: must be sensitive, as its parent is"
        above.setdefault(tag.name, tag)


def _groups(tags: Sequence[TagDefinition]) -> Iterator[str]:
    """An exclusion group is two tags or more that users can have, of one kind, beside each other."""
    groups: dict[str, list[TagDefinition]] = defaultdict(list)
    for tag in tags:
        if tag.exclusive:
            groups[tag.exclusive].append(tag)
    for name, members in groups.items():
        if len(members) < 2:
            yield f"exclusion group {name}: has only {members[0].name}"
        if len({(tag.parent, tag.kind) for tag in members}) > 1:
            yield f"exclusion group {name}: its tags differ in parent or kind"
        if any(tag.kind in ("root", "group") for tag in members):
            yield f"exclusion group {name}: roots and groups are no tags of users"


def _claims(tags: Sequence[TagDefinition]) -> Iterator[str]:
    """No label means two tags of one facet."""
    claims: dict[tuple[str, str], str] = {}
    for tag in tags:
        for label in taxonomy.labels_of(tag):
            key = taxonomy.facet_of(tag), taxonomy.normal(label)
            if not key[1]:
                yield f"{tag.name}: the label {label!r} is empty once punctuation is gone"
            elif claims.setdefault(key, tag.name) != tag.name:
                yield f"{tag.name}: the label {label!r} is claimed by {claims[key]}"


def _changes(tags: Sequence[TagDefinition], published: Sequence[TagDefinition]) -> Iterator[str]:
    now = {tag.id: tag.name for tag in tags}
    for tag in published:
        if now.get(tag.id) != tag.name:
            yield f"{tag.name}: published as id {tag.id}, which is now {now.get(tag.id, 'gone')}; ids are for ever"
