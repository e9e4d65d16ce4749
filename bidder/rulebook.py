"""Which rules a portfolio has, the order in which they are asked, and which of them are remembered."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from bidder import banners, blocking, people, places, targeting
from bidder.index import BannerRule, ImpRule, Index, PageRule, ReaderRule, RequestRule
from bidder.reasons import Reason
from bidder.remembered import Remembered
from bidder.view import View

REMEMBERED_BYTES = 4 * 1024**2  # of masks by page, by reader and by banner each: 3,500 of a thousand ads
Subject = TypeVar("Subject", bound=Hashable)


def with_rules(index: Index) -> Index:
    """Ask only the rules that can take an ad away, cheap ones first, those that need a loop last."""
    everything = index.everything
    local = index.geo_free != everything or bool(index.not_countries or index.not_regions)
    listed = index.inventory_free != everything or bool(index.not_domains or index.not_apps)
    request_rules: list[tuple[bool, Reason, RequestRule | _AboutPage | _AboutReader]] = [
        (index.running != (everything,), Reason.NOT_RUNNING, targeting.running),
        (True, Reason.SEAT, blocking.seat),
        (bool(index.audits), Reason.AUDIT, blocking.audit),
        (bool(index.light), Reason.ANSWER_SIZE, blocking.answer_size),
        (index.at != {1: everything, 2: everything}, Reason.AUCTION_TYPE, targeting.auction_type),
        (index.devices_free != everything, Reason.DEVICE, _AboutReader(targeting.device)),
        (bool(index.os.masks), Reason.OS, _AboutReader(targeting.system)),
        (any(mask != everything for mask in index.local), Reason.SCHEDULE, targeting.schedule),
        (local, Reason.GEO, places.geo if index.fences else _AboutReader(places.region)),
        (listed, Reason.INVENTORY, _AboutPage(places.inventory)),
        (index.anonymous != everything, Reason.NO_USER, people.known_user),
        (bool(index.categories.masks or index.not_categories), Reason.CATEGORY, _AboutPage(places.category)),
        (True, Reason.BLOCKED_CATEGORY, blocking.blocked_category),
        (True, Reason.BLOCKED_ADVERTISER, blocking.blocked_advertiser),
        (bool(index.bundles), Reason.BLOCKED_APP, blocking.blocked_app),
        (True, Reason.LANGUAGE, blocking.language),
        (True, Reason.TRANSPARENCY, blocking.transparency),
        (bool(index.audiences or index.not_audiences), Reason.AUDIENCE, people.audience),
        (bool(index.tags or index.not_tags), Reason.TAGS, people.tags),
        (bool(index.keywords.masks or index.not_keywords), Reason.KEYWORD, places.keyword),
        (index.hot_free != everything, Reason.HOT, places.hot),
        (bool(index.segments.masks or index.not_segments), Reason.SEGMENT, people.segment),
        (bool(index.caps), Reason.FREQUENCY_CAP, people.frequency_cap),
    ]
    banner_rules: list[tuple[bool, Reason, BannerRule]] = [
        (True, Reason.SIZE, banners.size),
        (bool(index.attributes), Reason.CREATIVE_ATTRIBUTE, banners.attribute),
        (True, Reason.CREATIVE_TYPE, banners.creative_type),
        (bool(index.banner_mimes.masks), Reason.MIME, banners.mime),
        (bool(index.apis), Reason.API, banners.api),
    ]
    shared_rules: list[tuple[bool, Reason, ImpRule]] = [
        (True, Reason.DEAL, targeting.deal),
        (index.secure != everything, Reason.SECURE, targeting.secure),
        (index.rewarded & index.unrewarded != everything, Reason.REWARDED, targeting.rewarded),
        (bool(index.metrics), Reason.METRIC, targeting.metric),
    ]
    rules = [(reason, rule) for used, reason, rule in request_rules if used]
    asked = tuple((reason, rule) for reason, rule in rules if not isinstance(rule, _AboutPage | _AboutReader))
    of_banner = tuple((reason, rule) for used, reason, rule in banner_rules if used)
    shared = tuple((reason, rule) for used, reason, rule in shared_rules if used)
    first, *others = ((reason, _about_banner(rule)) for reason, rule in of_banner)
    return remembering(
        replace(
            index,
            rules=tuple(rules),
            page_rules=tuple((reason, rule.rule) for reason, rule in rules if isinstance(rule, _AboutPage)),
            reader_rules=tuple((reason, rule.rule) for reason, rule in rules if isinstance(rule, _AboutReader)),
            asked=tuple((reason, rule) for reason, rule in asked if rule not in blocking.of_lists),
            asked_of_lists=asked,
            imp_rules=(first, *shared, *others),
            banner_rules=of_banner,
            shared_rules=shared,
        )
    )


def remembering(index: Index) -> Index:
    """The same index with memories of what its own rules say, empty."""
    size = 500 + index.everything.bit_length() // 8
    return replace(
        index,
        by_page=Remembered(_all_of(index, index.page_rules), size, REMEMBERED_BYTES),
        by_reader=Remembered(_all_of(index, index.reader_rules), size, REMEMBERED_BYTES),
        by_banner=Remembered(_all_of(index, index.banner_rules), size, REMEMBERED_BYTES),
    )


def _all_of(index: Index, rules: Iterable[tuple[Reason, Callable[[Index, Subject], int]]]) -> Callable[[Subject], int]:
    def passing(subject: Subject) -> int:
        mask = index.everything
        for _, rule in rules:
            mask &= rule(index, subject)
        return mask

    return passing


class _AboutPage(Struct, frozen=True):
    """A rule of requests that looks at nothing but the page."""

    rule: PageRule

    def __call__(self, index: Index, seen: View) -> int:
        return self.rule(index, seen.page)


class _AboutReader(Struct, frozen=True):
    """A rule of requests that looks at nothing but the reader."""

    rule: ReaderRule

    def __call__(self, index: Index, seen: View) -> int:
        return self.rule(index, seen.reader)


def _about_banner(rule: BannerRule) -> ImpRule:
    return lambda index, _, imp: rule(index, imp.banner)
