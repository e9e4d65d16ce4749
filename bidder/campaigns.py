"""Campaigns and creatives as data: one TOML portfolio, validated whole, every problem told at once."""

import datetime
import difflib
import hashlib
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from bidder import creatives
from bidder.creatives import Creative, Name
from bidder.geo import COUNTRIES
from bidder.pricing import Goal
from dmp import keys
from dmp.errors import ConfigError
from dmp.taxonomy import UnknownTag, tag_id

CatTax = Annotated[str, Meta(pattern=r"^[2-9]\Z|^[1-9][0-9]{1,3}\Z")]
MAX_NAME_BYTES = 128  # of `cid` and `crid`; more than 255 would not fit into a token either
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


Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Polygon = Annotated[tuple[tuple[Latitude, Longitude], ...], Meta(min_length=3, max_length=1_000)]
"""The corners of an area as (lat, lon), in order, not crossing the 180th meridian."""


# fmt: off
Placement = Literal[
    "instream", "accompanying", "interstitial", "standalone", "pause", "screensaver", "overlay", "squeezeback",
    "inscene",
]
# fmt: on
"""AdCOM, List: Plcmt Subtypes - Video, from 1 on."""


class Targeting(Struct, frozen=True, forbid_unknown_fields=True):
    """Who and where; an empty rule does not restrict, the rules of a campaign must all hold.

    Lists hold alternatives. Geo (countries ISO alpha-3, regions "USA-CA", cities "USA-New York", radius, polygons) is
    one rule: any of them. domains: with their subdomains. categories: IAB content taxonomy 1.0, a parent covers its
    children. keywords: one of what the page is about, or a word the taxonomy knows for the same. hot: only pages about
    something that is a hot topic now (`tagbid dmp hot`). segments: of the
    request's `user.data`, "<provider>/<id>". hours, weekdays (0 = Monday): user-local, else at `utc_offset_min`.
    tags: taxonomy name -> least score (1..100), any one of them. audiences: "<advertiser>/<name>".
    rewarded: whether the user may or must get something for watching. placements: where a video player stands. metrics:
    what was measured of the placement (`imp.metric`) -> least value, all of them; one that is not told is not reached.
    at: auction types. not_*: the opposite; a user who cannot be looked up matches no tag and no audience rule.
    """

    countries: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    cities: tuple[str, ...] = ()
    radius: tuple[Radius, ...] = ()
    polygons: Annotated[tuple[Polygon, ...], Meta(max_length=100)] = ()
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
    hot: bool = False
    segments: tuple[str, ...] = ()
    not_segments: tuple[str, ...] = ()
    hours: tuple[Hour, ...] = ()
    weekdays: tuple[Weekday, ...] = ()
    utc_offset_min: Annotated[int, Meta(ge=-720, le=840)] = 0
    tags: dict[str, Annotated[int, Meta(ge=1, le=100)]] = {}
    not_tags: dict[str, Annotated[int, Meta(ge=1, le=100)]] = {}
    audiences: tuple[str, ...] = ()
    not_audiences: tuple[str, ...] = ()
    at: tuple[Literal[1, 2], ...] = ()
    rewarded: Literal["any", "only", "never"] = "any"
    placements: tuple[Placement, ...] = ()
    metrics: dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[float, Meta(gt=0, le=1e6)]] = {}


MAX_PIXEL_VALUE_MICROS = 1_000_000_000
"""1,000 dollars: a click's conversions tell at most 20 times that, whoever makes them up."""


class Transparency(Struct, frozen=True, forbid_unknown_fields=True):
    """What people may know of an ad (Digital Services Act). behalf: on whose behalf it is shown. paid: who paid, when
    that is somebody else. rendered: whether the creatives show it themselves.
    """

    behalf: Annotated[str, Meta(min_length=1, max_length=100)]
    paid: Annotated[str, Meta(max_length=100)] = ""
    rendered: bool = False


class Campaign(Struct, frozen=True, forbid_unknown_fields=True):
    """What an advertiser pays for, and under which rules.

    adomain: landing-page domain. cat: IAB categories of the advertised thing (taxonomy 1). cat_in: the
    same in other taxonomies, by OpenRTB `cattax`, for requests that block by one of those. interest: tag the ad
    speaks to. goal: "cpm" pays price_micros per thousand impressions, "cpc" per click, "cpa"
    per conversion; "roas" wants price_micros of revenue for a million micros spent (4_000_000: four times the spend).
    currency: of all its money.
    daily_budget_micros: hard limit per UTC day. caps: all must hold. cap_without_user: what a campaign with caps
    does when the user's contacts cannot be read. deals: bid only through one of these deal ids. agreed_cpm_micros: the
    most a guaranteed one of them may cost, whatever it is worth; 0 = nothing was agreed: it is bid on as any deal.
    max_pixel_value_micros: most that a conversion told by a browser is believed to be worth; more is cut to it.
    pacing: how the budget is spread over the day: evenly, twice as fast at its start as at its end, or not at all.
    dsa: without it there are no bids where the Digital Services Act requires it.
    """

    id: Name
    advertiser: Name
    adomain: Annotated[str, Meta(min_length=3, max_length=253)]
    goal: Goal
    price_micros: Annotated[int, Meta(gt=0, le=10**12)]
    daily_budget_micros: Annotated[int, Meta(ge=0, le=10**15)]
    creatives: Annotated[tuple[Creative, ...], Meta(min_length=1, max_length=1_000)]
    seat: Name = "tagbid"
    cat: tuple[str, ...] = ()
    cat_in: dict[CatTax, tuple[str, ...]] = {}
    attr: tuple[int, ...] = ()
    interest: str = ""
    status: Literal["active", "paused"] = "active"
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None
    currency: Literal["USD"] = "USD"
    caps: tuple[FrequencyCap, ...] = ()
    cap_without_user: Literal["skip", "bid"] = "skip"
    deals: tuple[str, ...] = ()
    agreed_cpm_micros: Annotated[int, Meta(ge=0, le=10**12)] = 0
    max_pixel_value_micros: Annotated[int, Meta(ge=0, le=10**15)] = MAX_PIXEL_VALUE_MICROS
    targeting: Targeting = Targeting()
    pacing: Literal["even", "front", "asap"] = "even"
    dsa: Transparency | None = None


class Portfolio(Struct, frozen=True):
    """All campaigns of one file, in its order. digest: of its text, names the version."""

    campaigns: tuple[Campaign, ...]
    digest: str = ""


_IAB = re.compile(r"IAB\d{1,2}(-\d{1,2})?")
_DOMAIN = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]", re.IGNORECASE)
_REGION = re.compile(r"[A-Z]{3}-[A-Z0-9]{1,3}")
_CITY = re.compile(r"[A-Z]{3}-.+")
_AUDIENCE = re.compile(r"[^/\s]+/[^/]+")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,8})*", re.IGNORECASE)
MISSING = (
    "there is no such file: write one with [[campaign]] tables, or name another with --campaigns or `campaigns` of "
    "[bidder]; loadtest/campaigns.toml of the source shows every kind"
)
_UNSAFE = re.compile(r"[\x00-\x20\x7f<>\"]")


def load(path: Path) -> Portfolio:
    """The campaigns of a TOML file (`[[campaign]]` tables). Raises ConfigError with every problem in it."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(str(path), [MISSING]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [str(error)]) from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Portfolio:
    """As `load`, from the text itself; source: how to name it in an error."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [str(error)]) from None
    problems = [f"unknown key {key!r}; campaigns are [[campaign]] tables" for key in tables if key != "campaign"]
    raws = tables.get("campaign", [])
    if not isinstance(raws, list) or not raws:
        problems.append("no [[campaign]] table")
        raws = []
    found = [_campaign(raw, i, problems) for i, raw in enumerate(raws)]
    campaigns = [campaign for campaign in found if campaign is not None]
    problems += check(campaigns)
    if problems:
        raise ConfigError(source, problems)
    return Portfolio(tuple(campaigns), hashlib.blake2b(text.encode(), digest_size=8).hexdigest())


def check(campaigns: Sequence[Campaign]) -> list[str]:
    """What is wrong with campaigns that are well typed: names, addresses, dates, and what must be unique."""
    problems = _collisions("campaign", (campaign.id for campaign in campaigns))
    problems += _collisions("creative", (creative.id for campaign in campaigns for creative in campaign.creatives))
    for campaign in campaigns:
        where = f"campaign {campaign.id}"
        problems += [
            f"{where}: id {name!r} is longer than {MAX_NAME_BYTES} bytes in UTF-8, more than exchanges take"
            for name in (campaign.id, *(creative.id for creative in campaign.creatives))
            if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES
        ]
        problems += [f"{where}: {problem}" for problem in _campaign_problems(campaign)]
        for creative in campaign.creatives:
            problems += [f"{where}, creative {creative.id}: {problem}" for problem in _creative_problems(creative)]
    return problems


def _name(raw: object, position: int) -> str:
    name = raw.get("id") if isinstance(raw, Mapping) else None
    return name if isinstance(name, str) and name else f"#{position + 1}"


def _campaign(raw: object, position: int, problems: list[str]) -> Campaign | None:
    """A campaign at once; field by field, which takes twenty times as long, only to say all that is wrong with it."""
    try:
        return msgspec.convert(raw, Campaign)
    except msgspec.ValidationError:
        found: Campaign | None = _read(Campaign, raw, f"campaign {_name(raw, position)}", problems)
        return found


def _read(struct: type[Any], raw: object, where: str, problems: list[str]) -> Any:
    """One Struct of a table, or None with every wrong key and value added to `problems`."""
    if not isinstance(raw, Mapping):
        problems.append(f"{where}: must be a table")
        return None
    before = len(problems)
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    hints = typing.get_type_hints(struct, include_extras=True)
    good: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), list(fields), n=1)
            problems.append(f"{where}: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
            continue
        nested, many = _nested(hints[key])
        if nested is None:
            try:
                good[key] = msgspec.convert(value, hints[key])
            except msgspec.ValidationError as error:
                problems.append(f"{where}: {key}: {error}")
        elif not many:
            good[key] = _read(nested, value, f"{where}, {key}", problems)
        elif isinstance(value, list):
            good[key] = [
                _read(nested, item, f"{where}, {key} {_name(item, i)}", problems) for i, item in enumerate(value)
            ]
        else:
            problems.append(f"{where}: {key} must be a list of tables")
    problems += [f"{where}: {key} is missing" for key, field in fields.items() if field.required and key not in raw]
    if len(problems) > before:
        return None
    try:
        return msgspec.convert(good, struct, from_attributes=True)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {error}")
        return None


def _nested(annotation: Any) -> tuple[type[Any] | None, bool]:
    """(Struct inside an annotation, whether it is a tuple of them), (None, False) for anything else."""
    many = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin is tuple:
            annotation, many = typing.get_args(annotation)[0], True
        elif origin in (types.UnionType, typing.Union):
            return None, False
        else:
            return (
                (annotation, many) if isinstance(annotation, type) and issubclass(annotation, Struct) else (None, False)
            )


def _collisions(what: str, names: Iterable[str]) -> list[str]:
    """Names used twice, and names whose 32-bit numbers are the same."""
    owners: dict[int, str] = {}
    problems = []
    for name in names:
        other = owners.setdefault(keys.number(name), name)
        if other is not name:
            same = other == name
            problems.append(
                f"{what} id {name!r} is used twice"
                if same
                else f"{what} ids {other!r} and {name!r} share a number; rename one"
            )
    return problems


def _campaign_problems(campaign: Campaign) -> list[str]:
    t = campaign.targeting
    problems = [] if _DOMAIN.fullmatch(campaign.adomain) else [f"adomain {campaign.adomain!r} is no domain"]
    for name, start in (("start", campaign.start), ("end", campaign.end)):
        if start is not None and start.tzinfo is None:
            problems.append(f"{name} needs a time zone, as in 2030-01-31T00:00:00Z")
    if (
        campaign.start is not None
        and campaign.end is not None
        and campaign.start.tzinfo is not None
        and campaign.end.tzinfo is not None
        and campaign.end <= campaign.start
    ):
        problems.append("end is not after start")
    if t.utc_offset_min % 15:
        problems.append("utc_offset_min must be a multiple of 15")
    for name, values, fits, form in (
        ("cat", campaign.cat, _IAB.fullmatch, "an IAB category such as IAB20-3"),
        ("categories", t.categories, _IAB.fullmatch, "an IAB category such as IAB20-3"),
        ("not_categories", t.not_categories, _IAB.fullmatch, "an IAB category such as IAB20-3"),
        ("countries", t.countries, COUNTRIES.__contains__, "an ISO alpha-3 country such as USA"),
        ("not_countries", t.not_countries, COUNTRIES.__contains__, "an ISO alpha-3 country such as USA"),
        ("regions", t.regions, _REGION.fullmatch, "a region such as USA-CA"),
        ("not_regions", t.not_regions, _REGION.fullmatch, "a region such as USA-CA"),
        ("cities", t.cities, _CITY.fullmatch, "a city such as USA-New York"),
        ("domains", t.domains, _DOMAIN.fullmatch, "a domain"),
        ("not_domains", t.not_domains, _DOMAIN.fullmatch, "a domain"),
        ("audiences", t.audiences, _AUDIENCE.fullmatch, "an audience such as acme/buyers"),
        ("not_audiences", t.not_audiences, _AUDIENCE.fullmatch, "an audience such as acme/buyers"),
    ):
        problems += _misfits(name, values, fits, form)
    for tag in (*([campaign.interest] if campaign.interest else []), *t.tags, *t.not_tags):
        try:
            tag_id(tag)
        except UnknownTag as error:
            problems.append(str(error))
    return problems


def _misfits(name: str, values: Sequence[str], fits: Callable[[str], object], form: str) -> list[str]:
    return [f"{name}: {value!r} is not {form}" for value in values if not fits(value)]


def _creative_problems(creative: Creative) -> list[str]:
    problems = creatives.problems_of(creative)
    addresses = [("landing_url", creative.landing_url.replace(creatives.CLICK_ID, ""))]
    addresses += [("an asset", url) for url in creatives.assets(creative) if url != creative.html]
    if creative.secure and any(url.lower().startswith("http://") for _, url in addresses[1:]):
        problems.append("secure = true, and an asset is plain http: leave `secure` out")
    problems += _misfits("language", creative.languages, _LANGUAGE.fullmatch, "a language such as en, en-US, or xx")
    problems += _misfits("cat", creative.cat, _IAB.fullmatch, "an IAB category such as IAB20-3")
    for name, url in addresses:
        if url and not is_web_address(url):
            problems.append(
                f"{name} {url!r} is not an http or https address without user name, blanks or control characters"
            )
    return problems


def is_web_address(url: str) -> bool:
    """S-15: http or https, a host, no user-info, nothing a header or a browser could read as more than an address.

    >>> is_web_address("https://shop.example/a?b=1"), is_web_address("javascript:alert(1)")
    (True, False)
    >>> is_web_address("https://bank.example@evil.example/"), is_web_address("https://a.example/%0d%0a")
    (False, True)
    """
    if _UNSAFE.search(url) or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it raises on a port that is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
