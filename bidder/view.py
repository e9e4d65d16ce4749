"""What a request says, normalised once: targeting and features read the same values."""

from msgspec import Struct

from bidder.config import ExchangeConfig
from bidder.geo import country
from bidder.openrtb import App, Dooh, Imp, Request, Site, is_rewarded
from bidder.openrtb_media import placement_of
from bidder.useragent import families, os_name
from bidder.wording import searched, topics
from dmp.schema import User
from models.context import Context

WEEK_HOURS = 168
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; 0 = Monday


class View(Struct, frozen=True, gc=False):
    """The request-wide facts. "" and -1 mean unknown.

    domain: lower case without "www."; bundle: as sent. categories: of site, section and page. country: ISO
    alpha-3, region "USA-CA", city "USA-new york". utc_slot: quarter hours since Monday 00:00 UTC. local_slot: hours
    since Monday 00:00 of the user's clock, -1 when that is unknown. at: 1 or 2. user: None = nothing may be or
    could be read about the user. counted: whether an impression of this request will count for frequency caps.
    """

    request: Request
    user: User | None
    now_us: int
    exchange: str
    at: int
    domain: str
    bundle: str
    categories: tuple[str, ...]
    device_type: int
    os: str
    browser: str
    country: str
    region: str
    city: str
    lat: float | None
    lon: float | None
    utc_slot: int
    local_slot: int
    counted: bool = True


def view(
    request: Request, user: User | None, now_us: int, exchange: ExchangeConfig, name: str, counted: bool = True
) -> View:
    """Read a request that privacy has already stripped. name: the exchange's, as configured."""
    bundle = ""
    categories: tuple[str, ...] = ()
    domain = domain_of(request)
    page = request.site or request.app
    if page is not None:
        if isinstance(page, App):
            bundle = page.bundle or ""
        categories = (*(page.pagecat or ()), *(page.sectioncat or ()), *(page.cat or ()))
    where = region = city = system = browser = ""
    lat = lon = offset = None
    device_type = 0
    device = request.device
    if device is not None:
        system, browser, device_type = families(device.ua) if device.ua else ("", "", 0)
        if device.devicetype:
            device_type = device.devicetype
        if device.os:
            system = os_name(device.os)
        if device.sua is not None and device.sua.platform is not None and device.sua.platform.brand:
            system = os_name(device.sua.platform.brand)
        geo = device.geo
        if geo is not None:
            where, lat, lon, offset = country(geo.country), geo.lat, geo.lon, geo.utcoffset
            if geo.region:
                region = f"{where}-{geo.region.rpartition('-')[2].upper()}"
            if geo.city:
                city = f"{where}-{geo.city.lower()}"
    now_s = now_us // 1_000_000
    if offset is None:
        offset = exchange.utc_offset_min
    return View(
        request,
        user,
        now_us,
        name,
        exchange.at_when_absent if request.at is None else 2 if request.at == 2 else 1,
        domain,
        bundle,
        categories,
        device_type,
        system,
        browser,
        where,
        region,
        city,
        lat,
        lon,
        (now_s // 900 + _EPOCH_WEEKDAY * 96) % (WEEK_HOURS * 4),
        -1 if offset is None else ((now_s + offset * 60) // 3600 + _EPOCH_WEEKDAY * 24) % WEEK_HOURS,
        counted,
    )


def domain_of(request: Request) -> str:
    """The domain of the site, app or screens, lower case without "www."; "" unknown."""
    place: Site | App | Dooh | None = request.site or request.app or request.dooh
    if place is None:
        return ""
    domain = place.domain or ""
    if not domain and isinstance(place, Site) and place.page:
        domain = host(place.page)
    elif "/" in domain or ":" in domain or domain.endswith("."):  # not as the standard has it, but clear
        domain = host(domain)
    return domain.lower().removeprefix("www.")


def host(url: str) -> str:
    """The host name of a page URL, without a final dot; a bare host is one too.

    >>> host("https://news.example.com:8080/a?b"), host("example.com./x")
    ('news.example.com', 'example.com')
    """
    rest = url.partition("://")[2] or url
    for mark in "/?#":
        rest = rest.partition(mark)[0]
    return rest.rpartition("@")[2].partition(":")[0].rstrip(".")


def viewability(imp: Imp) -> float:
    """The share of impressions here that were viewable, the lowest of what is told; -1 unknown."""
    return min(
        [m.value for m in imp.metric or () if m.type == "viewability" and m.value is not None and 0 <= m.value <= 1],
        default=-1.0,
    )


def context(seen: View, imp: Imp, floor_usd_micros: int, fences: tuple[int, ...] = ()) -> Context:
    """What the models may know about one imp of a request. fences: numbers of the geofences the device is in."""
    request, banner, device = seen.request, imp.banner, seen.request.device
    width, height, position = 0, 0, -1
    if banner is not None:
        width, height = banner.w or 0, banner.h or 0
        if banner.format and not (width and height):
            width, height = banner.format[0].w or 0, banner.format[0].h or 0
        if banner.pos is not None:
            position = banner.pos
    language = ""
    if device is not None:
        language = (device.language or device.langb or "")[:2].lower()
    slot = seen.local_slot
    page = request.site or request.app
    content = page.content if page is not None else None
    return Context(
        seen.exchange,
        seen.domain,
        seen.bundle,
        seen.categories[0] if seen.categories else "",
        imp.tagid or "",
        width,
        height,
        position,
        int(imp.instl or 0),
        seen.device_type,
        seen.os,
        seen.browser,
        (device.connectiontype or 0) if device is not None else 0,
        language,
        seen.country,
        seen.region,
        seen.city,
        floor_usd_micros,
        seen.at,
        slot % 24 if slot >= 0 else -1,
        slot // 24 if slot >= 0 else -1,
        len(request.imp),
        content.cat[0] if content is not None and content.cat else "",
        topics(request),
        searched(request),
        fences,
        viewability(imp) if imp.metric else -1.0,
        int(is_rewarded(imp)),
        placement_of(imp.video) if imp.video is not None else 0,
    )
