"""What the free texts of events mean: categories, devices, channels and regions, as tables that SQL families join.

Each table holds the texts that occur, so that SQL joins by equality and knows nothing of spellings.
"""

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import pyarrow as pa

from dmp import taxonomy
from dmp.taxonomy import TagDefinition

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
PARENT_SHARE = 0.5
"""What a parent gets of its child's weight (as the child gets 1, a grandparent gets a quarter)."""

_TYPES = {
    "phone": "phone mobile smartphone handset iphone 手机 移动端",
    "tablet": "tablet ipad pad 平板",
    "desktop": "pc desktop laptop computer notebook 电脑 桌面端",
    "tv": "tv ctv ott stb settop smarttv 电视 智能电视",
    "console": "console playstation xbox 游戏机",
    "wearable": "wearable watch smartwatch 手表",
    "speaker": "speaker smartspeaker 音箱",
    "car": "car vehicle carplay 车机",
}
_DEVICES = {word: f"device.type.{name}" for name, words in _TYPES.items() for word in words.split()}
_CHANNELS = {
    "video": "channel.video_ads", "mail": "channel.email", "live": "channel.live_stream", "shop": "channel.store",
    "offline": "channel.store", "h5": "channel.web", "website": "channel.web", "wap": "channel.web",
    "miniprogram": "channel.mini_program", "text": "channel.sms", "telephone": "channel.phone",
    "call": "channel.phone",
}  # fmt: skip
_SPELLED: dict[str, Mapping[str, str]] = {"device": _DEVICES, "channel": _CHANNELS}


class Region(NamedTuple):
    """code: ISO 3166. home: tag of whom lives there, "" for none. offset_us: standard time less UTC, all year."""

    code: str
    home: str
    country: str
    offset_us: int


@cache
def regions() -> Mapping[str, Region]:
    """{ISO 3166 code: region} of `regions.csv`: all countries, in the time of their most populous zone, and China's
    provinces.
    """
    lines = csv.DictReader(files("dmp").joinpath("regions.csv").read_text(encoding="utf-8").splitlines())
    return {
        line["code"]: Region(
            line["code"], line["tag"], line["code"].partition("-")[0], int(line["utc_offset_min"]) * MINUTE_US
        )
        for line in lines
    }


@cache
def _by_home() -> Mapping[str, Region]:
    """Regions that are the only one of their tag, by it."""
    found: dict[str, list[Region]] = {}
    for region in regions().values():
        found.setdefault(region.home, []).append(region)
    return {home: alike[0] for home, alike in found.items() if len(alike) == 1}


def region(label: str) -> Region | None:
    """A region by ISO code ("CN-GD", "us"; a part of a country that is not listed counts as the country) or by name.

    >>> region("cn_gd") == region("Guangdong") == region("广东省")
    True
    >>> region("US-CA").country, region("nowhere") is None
    ('US', True)
    """
    code = label.strip().upper().replace("_", "-")
    found = regions().get(code) or regions().get(code.partition("-")[0])
    if found is not None:
        return found
    tag = taxonomy.LABELS.get(("location", taxonomy.normal(label)))
    return None if tag is None else _by_home().get(taxonomy.tag_name(tag))


def meant(facet: str, label: str) -> TagDefinition | None:
    """The tag of a root ("device", "channel") that a text of that kind means, or None.

    >>> meant("device", "Mobile").name, meant("channel", "E-mail").name, meant("device", "abacus") is None
    ('device.type.phone', 'channel.email', True)
    """
    normal = taxonomy.normal(label)
    named = _SPELLED[facet].get(normal.replace(" ", ""))
    if named is not None:
        return taxonomy.BY_NAME[named]
    tag = taxonomy.LABELS.get((facet, normal)) or taxonomy.LABELS.get((facet, normal.replace(" ", "")))
    return None if tag is None else taxonomy.BY_ID[tag]


def taxonomy_table() -> pa.Table:
    return pa.table(
        {
            "tag": pa.array([tag.id for tag in taxonomy.TAGS], pa.int64()),
            "name": [tag.name for tag in taxonomy.TAGS],
            "half_life_us": pa.array([tag.half_life_days * DAY_US for tag in taxonomy.TAGS], pa.int64()),
            "ttl_us": pa.array([tag.ttl_days * DAY_US for tag in taxonomy.TAGS], pa.int64()),
            "one_of": pa.array([_one_of(tag) for tag in taxonomy.TAGS], pa.int64()),
        }
    )


@cache
def _groups() -> Mapping[str, int]:
    """{exclusion group: the first of its tags}."""
    return {tag.exclusive: tag.id for tag in reversed(taxonomy.TAGS) if tag.exclusive}


def _one_of(tag: TagDefinition) -> int:
    return _groups()[tag.exclusive] if tag.exclusive else tag.id


def labels_table(found: Mapping[str, int]) -> pa.Table:
    """Categories {label: tag id} with the tags' parents, as far as users can have them."""
    rows = []
    for label, tag in found.items():
        share, here = 1.0, taxonomy.BY_ID[tag]
        while here.kind == "score" and not here.sensitive:
            rows.append((label, here.id, share, here.half_life_days * DAY_US, here.ttl_days * DAY_US))
            share *= PARENT_SHARE
            here = taxonomy.BY_NAME[here.parent]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    kinds = {"label": pa.string(), "tag": pa.int64(), "share": pa.float64(), "half_life_us": pa.int64()}
    kinds["ttl_us"] = pa.int64()
    return pa.table(
        [pa.array(cells, kind) for cells, kind in zip(columns, kinds.values(), strict=True)], names=[*kinds]
    )


def words_table(facet: str, labels: Iterable[str]) -> pa.Table:
    """Texts of one kind that mean a tag; facet of a row: the group that the tag stands in ("device.type")."""
    rows = [(label, tag.id, tag.parent) for label in labels if (tag := meant(facet, label)) is not None]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 3
    kinds = (pa.string(), pa.int64(), pa.string())
    return pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names=["label", "tag", "facet"])


def regions_table(labels: Iterable[str]) -> pa.Table:
    """Texts that mean a region."""
    rows = [(label, *found) for label in labels if (found := region(label)) is not None]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    kinds = {
        "label": pa.string(),
        "code": pa.string(),
        "home": pa.string(),
        "country": pa.string(),
        "offset_us": pa.int64(),
    }
    return pa.table([pa.array(c, k) for c, k in zip(columns, kinds.values(), strict=True)], names=[*kinds])
