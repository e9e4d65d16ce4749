"""Campaigns and creatives as data: one TOML portfolio, validated whole, every problem told at once."""

import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Pixels = Annotated[int, Meta(ge=1, le=10_000)]
Hour = Annotated[int, Meta(ge=0, le=23)]
Weekday = Annotated[int, Meta(ge=0, le=6)]


class FrequencyCap(Struct, frozen=True, forbid_unknown_fields=True):
    """At most `limit` impressions of one campaign per user in any `window_s` seconds."""

    limit: Annotated[int, Meta(ge=1, le=65_535)]
    window_s: Annotated[int, Meta(ge=1, le=400 * 86_400)]


class Radius(Struct, frozen=True, forbid_unknown_fields=True):
    """A circle on the earth, degrees and kilometres."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    km: Annotated[float, Meta(gt=0, le=1_000)]


class Targeting(Struct, frozen=True, forbid_unknown_fields=True):
    """Who and where; an empty rule does not restrict, the rules of a campaign must all hold.

    Lists hold alternatives. Geo (countries ISO alpha-3, regions "USA-CA", cities "USA-New York", radius) is one
    rule: any of them. domains: with their subdomains. categories: IAB content taxonomy 1.0, a parent covers its
    children. keywords: one of the page's own. hours, weekdays (0 = Monday): user-local, else at `utc_offset_min`.
    tags: taxonomy name -> least score (1..100), any one of them. audiences: "<advertiser>/<name>".
    at: auction types. not_*: the opposite; a user who cannot be looked up matches no tag and no audience rule.
    """

    countries: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    cities: tuple[str, ...] = ()
    radius: tuple[Radius, ...] = ()
    not_countries: tuple[str, ...] = ()
    not_regions: tuple[str, ...] = ()
    devices: tuple[Literal["mobile", "phone", "tablet", "desktop", "tv", "connected", "ooh"], ...] = ()
    os: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    not_domains: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    not_apps: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    not_categories: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    not_keywords: tuple[str, ...] = ()
    hours: tuple[Hour, ...] = ()
    weekdays: tuple[Weekday, ...] = ()
    utc_offset_min: Annotated[int, Meta(ge=-720, le=840)] = 0
    tags: dict[str, Annotated[int, Meta(ge=1, le=100)]] = {}
    not_tags: dict[str, Annotated[int, Meta(ge=1, le=100)]] = {}
    audiences: tuple[str, ...] = ()
    not_audiences: tuple[str, ...] = ()
    at: tuple[Literal[1, 2], ...] = ()


class Creative(Struct, frozen=True, forbid_unknown_fields=True):
    """One banner: an image or a piece of HTML, never both.

    landing_url: where a click goes. attr: OpenRTB creative attributes. secure: every asset is https; None works
    it out from the URLs. iurl: sample image. language: ISO 639-1, "xx" for none, "" unknown. bundle: store id
    of an advertised app.
    """

    id: Name
    w: Pixels
    h: Pixels
    landing_url: Annotated[str, Meta(min_length=1, max_length=2048)]
    image_url: Annotated[str, Meta(max_length=2048)] = ""
    html: Annotated[str, Meta(max_length=65_536)] = ""
    attr: tuple[int, ...] = ()
    secure: bool | None = None
    iurl: Annotated[str, Meta(max_length=2048)] = ""
    language: str = ""
    bundle: str = ""


class Campaign(Struct, frozen=True, forbid_unknown_fields=True):
    """What an advertiser pays for, and under which rules.

    adomain: landing-page domain. cat: IAB categories of the advertised thing (taxonomy 1). interest: tag the ad
    speaks to. goal: "cpm" pays price_micros per thousand impressions, "cpc" per click. currency: of all its money.
    daily_budget_micros: hard limit per UTC day. caps: all must hold. cap_without_user: what a campaign with caps
    does when the user's contacts cannot be read. deals: bid only through one of these deal ids.
    """

    id: Name
    advertiser: Name
    adomain: Annotated[str, Meta(min_length=3, max_length=253)]
    goal: Literal["cpm", "cpc"]
    price_micros: Annotated[int, Meta(gt=0, le=10**12)]
    daily_budget_micros: Annotated[int, Meta(ge=0, le=10**15)]
    creatives: Annotated[tuple[Creative, ...], Meta(min_length=1, max_length=1_000)]
    seat: Name = "tagbid"
    cat: tuple[str, ...] = ()
    attr: tuple[int, ...] = ()
    interest: str = ""
    status: Literal["active", "paused"] = "active"
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None
    currency: Literal["USD"] = "USD"
    caps: tuple[FrequencyCap, ...] = ()
    cap_without_user: Literal["skip", "bid"] = "skip"
    deals: tuple[str, ...] = ()
    targeting: Targeting = Targeting()


class Portfolio(Struct, frozen=True):
    """All campaigns of one file, in its order. digest: of its text, names the version."""

    campaigns: tuple[Campaign, ...]
    digest: str = ""
