"""What a request says of who would see an ad, without a person in it: device, place on earth and the clock there.

Put into one spelling once for each device, place and hour, then remembered.
"""

from bidder.geo import country
from bidder.openrtb import Device
from bidder.remembered import Remembered
from bidder.useragent import families, os_name
from models.context import Reader

REMEMBERED_BYTES = 8 * 1024**2  # 5,000 readers with User-Agent headers of 150 characters

_Text = str | None
Told = tuple[_Text, _Text, _Text, int | None, int | None, _Text, _Text, _Text, _Text, int]
"""User-Agent, system by client hints, system, type, connection, language, country, region and city as sent; the hour of
the week on the user's clock.
"""


def reader_of(device: Device | None, hour: int) -> Reader:
    """hour: of the week on the user's clock, 0 = Monday 00:00, -1 unknown."""
    if device is None:
        return _known[None, None, None, None, None, None, None, None, None, hour]
    hints, geo = device.sua, device.geo
    hinted = hints.platform.brand if hints is not None and hints.platform is not None else None
    if geo is None:
        where = region = city = None
    else:
        where, region, city = geo.country, geo.region, geo.city
    return _known[
        device.ua, hinted, device.os, device.devicetype, device.connectiontype, device.language or device.langb,
        where, region, city, hour,
    ]  # fmt: skip


def _read(told: Told) -> Reader:
    ua, hinted, named, kind, connection, language, where, region, city, hour = told
    system, browser, device_type = families(ua) if ua else ("", "", 0)
    if named:
        system = os_name(named)
    if hinted:
        system = os_name(hinted)
    where = country(where)
    return Reader(
        device_type=kind or device_type,
        os=system,
        browser=browser,
        connection=connection or 0,
        language=(language or "")[:2].lower(),
        country=where,
        region=f"{where}-{region.rpartition('-')[2].upper()}" if region else "",
        city=f"{where}-{city.lower()}" if city else "",
        hour=hour % 24 if hour >= 0 else -1,
        weekday=hour // 24 if hour >= 0 else -1,
    )


_known: Remembered[Told, Reader] = Remembered(_read, 700, REMEMBERED_BYTES)
