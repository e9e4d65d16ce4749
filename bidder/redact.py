"""A privacy decision carried out: what it does not allow is gone before anything else reads the request or the user."""

import ipaddress

from msgspec.structs import replace

from bidder.openrtb import Geo, Request
from bidder.privacy import PrivacyDecision
from dmp.schema import User
from dmp.taxonomy import TAGS

SENSITIVE_TAGS: frozenset[int] = frozenset(tag.id for tag in TAGS if tag.sensitive)
"""Ids of the tags marked sensitive (P-21)."""


def strip(request: Request, decision: PrivacyDecision) -> Request:
    """The request without what the decision does not allow: all that features, targeting and logs may see.

    Without `use_ids`: no user object, no device id, IP shortened (last octet, last 72 bits). Without `precise_geo`:
    latitude and longitude to 2 decimals (about 1 km); without `city` none of them, and no city (P-30, P-31).
    """
    if decision.use_ids and decision.precise_geo and decision.city:
        return request
    device, user = request.device, request.user
    if device is not None:
        device = replace(device, geo=_place(device.geo, decision))
        if not decision.use_ids:
            device = replace(device, ifa=None, ip=short_ip(device.ip), ipv6=short_ip(device.ipv6))
    if user is not None:
        user = replace(user, geo=_place(user.geo, decision)) if decision.use_ids else None
    return replace(request, device=device, user=user)


def permitted(user: User | None, decision: PrivacyDecision) -> User | None:
    """As much of a user's record as the decision allows to be used; None = nothing."""
    if user is None or not decision.personalise:
        return None
    if decision.sensitive or SENSITIVE_TAGS.isdisjoint(user.tags):
        return user
    return replace(user, tags={tag: score for tag, score in user.tags.items() if tag not in SENSITIVE_TAGS})


def _place(geo: Geo | None, decision: PrivacyDecision) -> Geo | None:
    if geo is None:
        return None
    if not decision.city:
        return Geo(country=geo.country, region=geo.region, utcoffset=geo.utcoffset)
    if decision.precise_geo:
        return geo
    return replace(
        geo,
        lat=None if geo.lat is None else round(geo.lat, 2),
        lon=None if geo.lon is None else round(geo.lon, 2),
    )


def short_ip(text: str | None) -> str | None:
    """An address that names a neighbourhood, not a line; None for what is no address.

    >>> short_ip("203.0.113.77"), short_ip("2001:db8:85a3:8d3:1319:8a2e:370:7348")
    ('203.0.113.0', '2001:db8:85a3:800::')
    """
    if not text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    host_bits = 8 if address.version == 4 else 72
    return str(type(address)(int(address) >> host_bits << host_bits))
