"""The masks of a snapshot: which ads accept a value, one bit set for each value of each rule.

Bit i stands for ad i, one creative of one campaign. Made by `bidder.indexing`, asked by the rules (`bidder.targeting`).
"""

from collections.abc import Callable, Mapping
from fractions import Fraction

import msgspec

from bidder.campaigns import FrequencyCap
from bidder.fences import Fences
from bidder.fitting import Fitting
from bidder.openrtb import Imp
from bidder.openrtb_media import Banner
from bidder.pages import Page
from bidder.reasons import Reason
from bidder.topics import Topics
from bidder.view import View
from models.context import Reader

RequestRule = Callable[["Index", View], int]
ImpRule = Callable[["Index", View, Imp], int]
PageRule = Callable[["Index", Page], int]
ReaderRule = Callable[["Index", Reader], int]
BannerRule = Callable[["Index", Banner | None], int]
"""Each tells the ads that pass it."""


class AnyOf(msgspec.Struct, frozen=True):
    """free: ads without the rule. masks: value -> ads that accept it."""

    free: int
    masks: dict[str, int]


class Labels(msgspec.Struct, frozen=True):
    """Ads by the categories they advertise, in one taxonomy. owners: code -> ads under it or under a child of it, "" ->
    ads without a label; exact: code -> ads with exactly it.
    """

    owners: dict[str, int]
    exact: dict[str, int]


class Index(msgspec.Struct, frozen=True):
    """Every mask of a snapshot; made by `bidder.indexing.build`.

    rules: of a request, those in use in the order that finds the reason; of them page_rules look at nothing but the
    page, reader_rules at nothing but the reader, asked_of_lists at more, asked at more of a request without lists
    (`bidder.blocking.asks`). imp_rules: of an imp that offers nothing but a banner; banner_rules are those of them that
    look at nothing but the banner, shared_rules the others. by_page, by_reader, by_banner: the ads that pass all of
    such rules. changes, running: from changes[i] µs on, running[i] are the ads within their dates. local, by_utc: ads
    by hour of the week of the user's clock (168), by UTC quarter hour of the week where that clock is unknown (672).
    anonymous: ads that need no user. tags: tag id -> mask by score (101); wanted_tags: those in use. caps: contact
    scope -> (caps, their least limit, ads); least_cap: the least limit of all. uncapped: ads that may be shown
    uncounted. hot_free: ads that do not ask for hot topics; topics: those, which change under a snapshot. open: ads
    that need no deal. labels: by taxonomy. banner_mimes: by what an image's address says it is. apis: framework -> ads
    that need it. flexible: width to height -> (width, ads) of flexible banners. languages: sets of languages with the
    ads in just these. light: exchange -> ads whose bids its answers hold. declared: ads that say who is behind them;
    noticed: those that show it themselves. rewarded, unrewarded: ads that may be shown where the user gets something
    for it, and where not. metrics: type -> (ascending least values, ads that want more than each below it).
    """

    everything: int
    rules: tuple[tuple[Reason, RequestRule], ...]
    page_rules: tuple[tuple[Reason, PageRule], ...]
    reader_rules: tuple[tuple[Reason, ReaderRule], ...]
    asked: tuple[tuple[Reason, RequestRule], ...]
    asked_of_lists: tuple[tuple[Reason, RequestRule], ...]
    imp_rules: tuple[tuple[Reason, ImpRule], ...]
    banner_rules: tuple[tuple[Reason, BannerRule], ...]
    shared_rules: tuple[tuple[Reason, ImpRule], ...]
    by_page: Mapping[Page, int]
    by_reader: Mapping[Reader, int]
    by_banner: Mapping[Banner | None, int]
    changes: tuple[int, ...]
    running: tuple[int, ...]
    seats: dict[str, int]
    at: dict[int, int]
    devices: dict[int, int]
    devices_free: int
    os: AnyOf
    local: tuple[int, ...]
    by_utc: tuple[int, ...]
    geo_free: int
    countries: dict[str, int]
    regions: dict[str, int]
    cities: dict[str, int]
    fences: Fences
    not_countries: dict[str, int]
    not_regions: dict[str, int]
    inventory_free: int
    domains: dict[str, int]
    apps: dict[str, int]
    not_domains: dict[str, int]
    not_apps: dict[str, int]
    categories: AnyOf
    not_categories: dict[str, int]
    keywords: AnyOf
    not_keywords: dict[str, int]
    hot_free: int
    topics: Topics
    segments: AnyOf
    not_segments: dict[str, int]
    audits: dict[str, int]
    light: dict[str, int]
    declared: int
    noticed: int
    labels: dict[int, Labels]
    advertisers: dict[str, int]
    bundles: dict[str, int]
    languages: tuple[tuple[frozenset[str], int], ...]
    anonymous: int
    tags_free: int
    tags: dict[int, tuple[int, ...]]
    not_tags: dict[int, tuple[int, ...]]
    wanted_tags: frozenset[int]
    audiences_free: int
    audiences: dict[int, int]
    not_audiences: dict[int, int]
    caps: dict[int, tuple[tuple[FrequencyCap, ...], int, int]]
    least_cap: int
    uncapped: int
    sizes: dict[tuple[int | None, int | None], int]
    flexible: dict[Fraction, tuple[tuple[int, int], ...]]
    secure: int
    attributes: dict[int, int]
    types: dict[int, int]
    banners: int
    banner_mimes: AnyOf
    apis: dict[int, int]
    fitting: Fitting
    rewarded: int
    unrewarded: int
    metrics: dict[str, tuple[tuple[float, ...], tuple[int, ...]]]
    open: int
    deals: dict[str, int]
