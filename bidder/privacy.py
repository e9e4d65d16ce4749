"""One privacy decision per request, made before anything else reads the user (P-01).

The decision is the intersection of all regimes that apply, so a further restrictive signal can only take away
(P-03). This file reads COPPA, Limit-Ad-Tracking, Do-Not-Track, GDPR, US privacy, GPC and the presence of GPP; a
GDPR request is contextual while no vendor id is configured (P-13).
"""

import ipaddress
from functools import cache

import msgspec
from msgspec.structs import replace

from bidder.config import BidderConfig
from bidder.geo import GDPR_COUNTRIES, country
from bidder.openrtb import Geo, Regs, RegsExt, Request


class PrivacyDecision(msgspec.Struct, frozen=True, gc=False):
    """What may be done with one request; every field is a permission.

    bid: answer at all. use_ids: build a store key from an id. lookup_tags: read the user's record. personalise:
    let it change the bid. build_profile: write this event into a profile. measure: join notices by user id.
    train: keep user features in training rows. precise_geo: exact latitude and longitude. city: city, and finer
    than country and region. reasons: which signals took permissions away, for metrics and `explain`.
    """

    bid: bool = True
    use_ids: bool = True
    lookup_tags: bool = True
    personalise: bool = True
    build_profile: bool = True
    measure: bool = True
    train: bool = True
    precise_geo: bool = True
    city: bool = True
    reasons: tuple[str, ...] = ()


_SIGNALS = ("coppa", "lmt", "dnt", "zero_ifa", "gdpr", "us_privacy", "gpc", "gpp")
_COPPA, _LMT, _DNT, _ZERO_IFA, _GDPR, _US_PRIVACY, _GPC, _GPP = (1 << i for i in range(len(_SIGNALS)))


def decide(request: Request, settings: BidderConfig) -> PrivacyDecision:
    """The permissions that every signal of the request leaves. Pure; malformed signals count as restrictive (P-04).

    Signals are read from the 2.6 place and the 2.5 `ext` place; when they disagree the stricter one counts (P-02).
    """
    signals = 0
    gdpr: int | None = None
    regs = request.regs
    if regs is not None:
        signals, gdpr = _regs_signals(regs)
    device = request.device
    if device is not None:
        if device.lmt:
            signals |= _LMT
        if device.dnt and settings.dnt_is_lmt:
            signals |= _DNT
        if device.ifa is not None and not device.ifa.strip("0- "):
            signals |= _ZERO_IFA
    if gdpr is None:
        policy = settings.gdpr_when_unknown
        if policy == "by_country":
            where = country(device.geo.country) if device is not None and device.geo is not None else ""
            gdpr = not where or where in GDPR_COUNTRIES
        else:
            gdpr = policy == "always"
    if gdpr:
        signals |= _GDPR
    return _permissions(signals)


def _regs_signals(regs: Regs) -> tuple[int, int | None]:
    """(signals without GDPR, the GDPR flag: 1, 0, or None when not said)."""
    ext = regs.ext or _NO_EXT
    signals = 0
    if regs.coppa or ext.coppa:
        signals |= _COPPA
    if regs.gpp_sid or ext.gpp_sid:
        signals |= _GPP  # sections are named and this release decodes none of them
    if _opted_out(regs.us_privacy) or _opted_out(ext.us_privacy):
        signals |= _US_PRIVACY
    if ext.gpc is not None and ext.gpc not in (0, "0", ""):
        signals |= _GPC
    said = [flag for flag in (regs.gdpr, ext.gdpr) if flag is not None]
    return signals, (int(any(said)) if said else None)


_NO_EXT = RegsExt()


def _opted_out(us_privacy: str | None) -> bool:
    """P-20: the third of four characters is the opt-out of sale; anything malformed is one.

    >>> _opted_out("1YNN"), _opted_out("1YYN"), _opted_out("1---"), _opted_out("2NNN")
    (False, True, False, True)
    """
    if not us_privacy:
        return False
    return not (len(us_privacy) == 4 and us_privacy[0] == "1" and us_privacy[2] in "N-" and set(us_privacy[1:]) <= _YN)


_YN = frozenset("YN-")


@cache
def _permissions(signals: int) -> PrivacyDecision:
    """At most 2^8 different decisions exist, so each is made once."""
    if not signals:
        return PrivacyDecision()
    return PrivacyDecision(
        use_ids=False,
        lookup_tags=False,
        personalise=False,
        build_profile=False,
        measure=False,
        train=False,
        precise_geo=False,
        city=not signals & _COPPA,
        reasons=tuple(name for i, name in enumerate(_SIGNALS) if signals >> i & 1),
    )


def strip(request: Request, decision: PrivacyDecision) -> Request:
    """The request without what the decision does not allow: all that features, targeting and logs may see.

    Without `use_ids`: no user object, no device id, IP shortened (last octet, last 72 bits). Without `precise_geo`:
    latitude and longitude to 2 decimals (about 1 km); without `city` none of them, and no city (P-30, P-31).
    """
    if decision.use_ids and decision.precise_geo and decision.city:
        return request
    device = request.device
    if device is not None:
        geo = device.geo
        if geo is not None and not decision.city:
            geo = Geo(country=geo.country, region=geo.region, utcoffset=geo.utcoffset)
        elif geo is not None and not decision.precise_geo and geo.lat is not None and geo.lon is not None:
            geo = replace(geo, lat=round(geo.lat, 2), lon=round(geo.lon, 2))
        if decision.use_ids:
            device = replace(device, geo=geo)
        else:
            device = replace(device, geo=geo, ifa=None, ip=short_ip(device.ip), ipv6=short_ip(device.ipv6))
    return replace(request, device=device, user=request.user if decision.use_ids else None)


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
