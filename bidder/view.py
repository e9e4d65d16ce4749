"""What a request says, normalised once: targeting and features read the same values."""

from msgspec import Struct

from bidder.config import ExchangeConfig
from bidder.openrtb import Imp, Request, is_rewarded
from bidder.openrtb_media import placement_of
from bidder.pages import Page, page_of
from bidder.readers import reader_of
from bidder.wording import searched, topics
from dmp.schema import User
from models.context import Context, Reader

WEEK_HOURS = 168
_EPOCH_HOUR = 3 * 24  # 1970-01-01 was a Thursday; 0 = Monday 00:00


class View(Struct, frozen=True, gc=False):
    """The request-wide facts. page, reader: where its ads would show and who would see them. at: 1 or 2. hour: of the
    week on the user's clock, 0 = Monday 00:00, -1 unknown. user: None = nothing may be or could be read about the user.
    counted: whether an impression of this request will count for frequency caps.
    """

    request: Request
    user: User | None
    now_us: int
    exchange: str
    at: int
    page: Page
    reader: Reader
    lat: float | None
    lon: float | None
    hour: int
    counted: bool = True


def view(
    request: Request, user: User | None, now_us: int, exchange: ExchangeConfig, name: str, counted: bool = True
) -> View:
    """Read a request that privacy has already stripped. name: the exchange's, as configured."""
    device = request.device
    geo = device.geo if device is not None else None
    if geo is None:
        lat = lon = offset = None
    else:
        lat, lon, offset = geo.lat, geo.lon, geo.utcoffset
    if offset is None:
        offset = exchange.utc_offset_min
    hour = -1 if offset is None else ((now_us // 60_000_000 + offset) // 60 + _EPOCH_HOUR) % WEEK_HOURS
    at = request.at
    return View(
        request,
        user,
        now_us,
        name,
        exchange.at_when_absent if at is None else 2 if at == 2 else 1,
        page_of(request),
        reader_of(device, hour),
        lat,
        lon,
        hour,
        counted,
    )


def utc_quarter(now_us: int) -> int:
    """Quarter hours since Monday 00:00 UTC."""
    return (now_us // 900_000_000 + _EPOCH_HOUR * 4) % (WEEK_HOURS * 4)


def viewability(imp: Imp) -> float:
    """The share of impressions here that were viewable, the lowest of what is told; -1 unknown."""
    return min(
        [m.value for m in imp.metric or () if m.type == "viewability" and m.value is not None and 0 <= m.value <= 1],
        default=-1.0,
    )


def context(seen: View, imp: Imp, floor_usd_micros: int, fences: tuple[int, ...] = ()) -> Context:
    """What the models may know about one imp of a request. fences: numbers of the geofences the device is in."""
    request, banner, page = seen.request, imp.banner, seen.page
    site = request.site
    width, height, position = 0, 0, -1
    if banner is not None:
        width, height = banner.w or 0, banner.h or 0
        if banner.format and not (width and height):
            width, height = banner.format[0].w or 0, banner.format[0].h or 0
        if banner.pos is not None:
            position = banner.pos
    device_type, system, browser, connection, language, country, region, city, hour, weekday = seen.reader
    return Context(
        seen.exchange,
        page.domain,
        page.bundle,
        page.category,
        imp.tagid or "",
        width,
        height,
        position,
        int(imp.instl or 0),
        device_type,
        system,
        browser,
        connection,
        language,
        country,
        region,
        city,
        floor_usd_micros,
        seen.at,
        hour,
        weekday,
        len(request.imp),
        page.content_category,
        topics(request),
        searched(request) if site is not None and site.search else (),
        fences,
        viewability(imp) if imp.metric else -1.0,
        int(is_rewarded(imp)),
        placement_of(imp.video) if imp.video is not None else 0,
    )
