"""From campaigns to masks: builds the `bidder.index.Index` of a snapshot."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from types import MappingProxyType
from typing import get_args

from bidder import fences
from bidder.bits import by_value, free_of, mask_of
from bidder.blocking import codes
from bidder.campaigns import Campaign, FrequencyCap, Placement, Targeting
from bidder.creatives import Creative, is_secure
from bidder.fences import Fences
from bidder.fitting import Fitting
from bidder.hours import Rows, running_of, schedule_of
from bidder.index import AnyOf, Index, Labels
from bidder.levels import metrics_of, scores_of
from bidder.native import image_mimes
from bidder.rulebook import with_rules
from bidder.topics import Topics
from bidder.useragent import os_name
from dmp import keys
from dmp.taxonomy import TAGS, tag_id

DEVICES: dict[str, tuple[int, ...]] = {
    "mobile": (1, 4, 5),
    "phone": (4,),
    "tablet": (5,),
    "desktop": (2,),
    "tv": (3, 7),
    "connected": (6,),
    "ooh": (8,),
}
"""OpenRTB device types (AdCOM, List: Device Types) behind our names; 1 is "mobile or tablet"."""

PLACEMENTS: dict[str, int] = {name: number for number, name in enumerate(get_args(Placement), 1)}
HTML_BTYPES = (1, 3, 4)  # XHTML text, JavaScript, iframe: what advertiser HTML may be
IMAGE_BTYPE = 2


def _up(domain: str) -> list[str]:
    """A domain and all above it: blocking any of them blocks it.

    >>> _up("shop.example.com")
    ['shop.example.com', 'example.com', 'com']
    """
    labels = domain.lower().split(".")
    return [".".join(labels[i:]) for i in range(len(labels))]


def build(
    rows: Rows,
    auditors: frozenset[str] = frozenset(),
    topics: Topics | None = None,
    https: bool = True,
    too_large: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> Index:
    """The index of ads in the order given: bit i of every mask is rows[i]. auditors: exchanges that approve ads.

    topics: what is hot; None = nothing ever is. https: whether pages reach our own pixels by it. too_large: exchange ->
    ids of the creatives that its answers cannot hold.
    """
    n = len(rows)
    rules = [campaign.targeting for campaign, _ in rows]
    everything = (1 << n) - 1
    changes, running = running_of(rows, n)
    local, by_utc = schedule_of(rows, n)
    geo_rows = [t.countries + t.regions + t.cities + t.radius + t.polygons for t in rules]
    taxonomies = {1} | {int(name) for campaign, _ in rows for name in campaign.cat_in}
    attrs = [frozenset(campaign.attr) | frozenset(creative.attr) for campaign, creative in rows]
    banners = [creative if creative.media == "banner" else None for _, creative in rows]
    needs_user = [
        bool(t.tags or t.not_tags or t.audiences or t.not_audiences or t.not_segments)
        or (bool(campaign.caps) and campaign.cap_without_user == "skip")
        for (campaign, _), t in zip(rows, rules, strict=True)
    ]
    index = Index(
        everything=everything,
        rules=(),
        page_rules=(),
        reader_rules=(),
        asked=(),
        asked_of_lists=(),
        imp_rules=(),
        banner_rules=(),
        shared_rules=(),
        by_page={},
        by_reader={},
        by_banner={},
        changes=changes,
        running=running,
        seats=by_value(([campaign.seat] for campaign, _ in rows), n),
        at={at: mask_of((i for i, t in enumerate(rules) if not t.at or at in t.at), n) for at in (1, 2)},
        devices=_with_free(by_value(([c for d in t.devices for c in DEVICES[d]] for t in rules), n), rules, n),
        devices_free=free_of((t.devices for t in rules), n),
        os=_any_of([[os_name(name) for name in t.os] for t in rules], n),
        local=local,
        by_utc=by_utc,
        geo_free=free_of(geo_rows, n),
        countries=by_value((t.countries for t in rules), n),
        regions=by_value((t.regions for t in rules), n),
        cities=by_value(([_city(name) for name in t.cities] for t in rules), n),
        fences=_fences(rules, n),
        not_countries=by_value((t.not_countries for t in rules), n),
        not_regions=by_value((t.not_regions for t in rules), n),
        inventory_free=free_of((t.domains + t.apps for t in rules), n),
        domains=by_value((map(_domain, t.domains) for t in rules), n),
        apps=by_value((t.apps for t in rules), n),
        not_domains=by_value((map(_domain, t.not_domains) for t in rules), n),
        not_apps=by_value((t.not_apps for t in rules), n),
        categories=_any_of([t.categories for t in rules], n),
        not_categories=by_value((t.not_categories for t in rules), n),
        keywords=_any_of([related(t.keywords) for t in rules], n),
        segments=_any_of([t.segments for t in rules], n),
        not_segments=by_value((t.not_segments for t in rules), n),
        audits=_audits(rows, auditors, n),
        light={
            name: mask_of((i for i, (_, creative) in enumerate(rows) if creative.id not in ids), n)
            for name, ids in too_large.items()
        },
        declared=mask_of((i for i, (campaign, _) in enumerate(rows) if campaign.dsa is not None), n),
        noticed=mask_of((i for i, (campaign, _) in enumerate(rows) if campaign.dsa and campaign.dsa.rendered), n),
        not_keywords=by_value(([word.lower() for word in t.not_keywords] for t in rules), n),
        hot_free=free_of((t.hot for t in rules), n),
        topics=Topics() if topics is None else topics,
        labels={tax: _labels([_cats(*row, tax) for row in rows], n) for tax in taxonomies},
        advertisers=by_value((_up(campaign.adomain) for campaign, _ in rows), n),
        bundles=by_value(([creative.bundle] if creative.bundle else [] for _, creative in rows), n),
        languages=tuple(by_value(([frozenset(map(str.lower, creative.languages))] for _, creative in rows), n).items()),
        anonymous=mask_of((i for i, needed in enumerate(needs_user) if not needed), n),
        tags_free=free_of((t.tags for t in rules), n),
        tags=scores_of([t.tags for t in rules], n),
        not_tags=scores_of([t.not_tags for t in rules], n),
        wanted_tags=frozenset(tag_id(name) for t in rules for name in (*t.tags, *t.not_tags)),
        audiences_free=free_of((t.audiences for t in rules), n),
        audiences=by_value(([keys.number(name) for name in t.audiences] for t in rules), n),
        not_audiences=by_value(([keys.number(name) for name in t.not_audiences] for t in rules), n),
        caps=_caps(rows, n),
        least_cap=min((cap.limit for campaign, _ in rows for cap in campaign.caps), default=0),
        uncapped=mask_of((i for i, (c, _) in enumerate(rows) if not c.caps or c.cap_without_user == "bid"), n),
        sizes=by_value(([(c.w, c.h)] if c is not None else [] for c in banners), n),
        flexible=_flexible(banners, n),
        secure=mask_of((i for i, (_, creative) in enumerate(rows) if https and is_secure(creative)), n),
        attributes=by_value(attrs, n),
        types=by_value((HTML_BTYPES if creative.html else (IMAGE_BTYPE,) for _, creative in rows), n),
        banners=mask_of((i for i, c in enumerate(banners) if c is not None), n),
        banner_mimes=_any_of([image_mimes(creative.image_url) for _, creative in rows], n),
        apis=by_value((creative.apis for _, creative in rows), n),
        rewarded=mask_of((i for i, t in enumerate(rules) if t.rewarded != "never"), n),
        unrewarded=mask_of((i for i, t in enumerate(rules) if t.rewarded != "only"), n),
        metrics=metrics_of([t.metrics for t in rules], n),
        fitting=Fitting(
            [
                (creative, attr, frozenset(PLACEMENTS[name] for name in t.placements))
                for (_, creative), attr, t in zip(rows, attrs, rules, strict=True)
            ]
        ),
        open=free_of((campaign.deals for campaign, _ in rows), n),
        deals=by_value((campaign.deals for campaign, _ in rows), n),
    )
    return with_rules(index)


def _cats(campaign: Campaign, creative: Creative, taxonomy: int) -> tuple[str, ...]:
    return creative.cat or campaign.cat if taxonomy == 1 else campaign.cat_in.get(str(taxonomy), ())


def _labels(rows: Sequence[tuple[str, ...]], n: int) -> Labels:
    rows = [tuple(codes(own)) if own else () for own in rows]
    return Labels(
        by_value(({x for c in own for x in (c, c.partition("-")[0])} or {""} for own in rows), n),
        by_value((own or ("",) for own in rows), n),
    )


def _any_of(rows: Sequence[Sequence[str]], n: int) -> AnyOf:
    return AnyOf(free_of(rows, n), by_value(rows, n))


def _with_free(masks: dict[int, int], rules: Sequence[Targeting], n: int) -> dict[int, int]:
    free = free_of((t.devices for t in rules), n)
    return {value: mask | free for value, mask in masks.items()}


def _domain(name: str) -> str:
    """The spelling of `bidder.pages.Page.domain`."""
    return name.lower().removeprefix("www.")


def _city(name: str) -> str:
    """The spelling of `models.context.Reader.city`: country as is, the rest in lower case."""
    country, _, rest = name.partition("-")
    return f"{country}-{rest.lower()}"


def _audits(rows: Rows, auditors: frozenset[str], n: int) -> dict[str, int]:
    """Exchange -> the ads it may be sent; exchanges that are not in it may be sent all."""
    names = auditors | {name for _, creative in rows for name, told in creative.audit.items() if told == "refused"}
    found = {}
    for name in names:
        fits = ("approved",) if name in auditors else ("approved", "pending", "")
        found[name] = mask_of((i for i, (_, creative) in enumerate(rows) if creative.audit.get(name, "") in fits), n)
    return found


def related(words: Sequence[str]) -> list[str]:
    """Keywords with the other words the taxonomy has for the same thing, lower case.

    >>> "trips" in related(["Travel"]) or "travel" in related(["Travel"])
    True
    """
    return sorted({name for word in words for name in _known_as(word.lower())})


_WORDS: tuple[frozenset[str], ...] = tuple(
    frozenset(
        {tag.label_en.lower(), tag.label_zh, tag.name.rpartition(".")[2], *(a.lower() for a in tag.aliases)} - {""}
    )
    for tag in TAGS
    if tag.kind == "score"
)
"""What each tag is called, in the taxonomy's order."""

_ALL_WORDS = frozenset().union(*_WORDS)


def _known_as(word: str) -> frozenset[str]:
    return _named(word) if word in _ALL_WORDS else frozenset({word})


@cache  # as many as the taxonomy has words
def _named(word: str) -> frozenset[str]:
    """A word of the taxonomy and all that tags called by it, or by a word found before, are called."""
    found = {word}
    for names in _WORDS:
        if not names.isdisjoint(found):
            found |= names
    return frozenset(found)


def _flexible(banners: Sequence[Creative | None], n: int) -> dict[Fraction, tuple[tuple[int, int], ...]]:
    """Width to height -> (width, ads) of every width such a banner has."""
    sizes = by_value(([(c.w, c.h)] if c is not None and c.flexible else [] for c in banners), n)
    found: dict[Fraction, tuple[tuple[int, int], ...]] = {}
    for (w, h), mask in sizes.items():
        found[Fraction(w, h)] = (*found.get(Fraction(w, h), ()), (w, mask))
    return found


def _fences(rows: Sequence[Targeting], n: int) -> Fences:
    """Every distinct area with the ads that name it."""
    areas = by_value((t.radius for t in rows), n)
    polygons = by_value((t.polygons for t in rows), n)
    return Fences(
        [
            *(fences.circle(area, mask) for area, mask in areas.items()),
            *(fences.polygon(corners, mask) for corners, mask in polygons.items()),
        ]
    )


def _caps(rows: Rows, n: int) -> dict[int, tuple[tuple[FrequencyCap, ...], int, int]]:
    bits: dict[int, list[int]] = {}
    caps: dict[int, tuple[FrequencyCap, ...]] = {}
    for bit, (campaign, _) in enumerate(rows):
        if campaign.caps:
            scope = keys.number(campaign.id)
            bits.setdefault(scope, []).append(bit)
            caps[scope] = campaign.caps
    return {
        scope: (caps[scope], min(cap.limit for cap in caps[scope]), mask_of(found, n)) for scope, found in bits.items()
    }
