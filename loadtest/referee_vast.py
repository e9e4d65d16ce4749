"""Whether a VAST document is built as the schema of its version has it: elements, their order, what must be there.

Written from the IAB's schemas 2.0.1, 3.0, 4.0, 4.1 and 4.2 (4.3 orders the same elements alike); knows nothing of the
code that makes documents. Covers what an ad with one linear creative may hold; what else is found is told.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.referee_read import number

NAMESPACE = "http://www.iab.com/VAST"
_EARLY_INLINE = "AdSystem! AdTitle! Description Advertiser Pricing Survey Error Impression!+ Creatives! Extensions"
_EARLY_WRAPPER = "AdSystem! VASTAdTagURI! Error Impression!+ Creatives! Extensions"
_BASE = "AdSystem! Error+ Extensions Impression!+ Pricing ViewableImpression"
_INLINE_4_1 = "AdServingId! AdTitle! AdVerifications Advertiser Category+ Creatives! Description Expires Survey"
ORDERS: Mapping[str, str] = {
    "2 InLine": _EARLY_INLINE.replace(" Advertiser Pricing", ""),
    "2 Wrapper": _EARLY_WRAPPER,
    "3 InLine": _EARLY_INLINE,
    "3 Wrapper": _EARLY_WRAPPER,
    "4.0 InLine": f"{_BASE} AdTitle! AdVerifications Advertiser Category+ Creatives! Description Survey",
    "4.0 Wrapper": f"{_BASE} AdVerifications Creatives VASTAdTagURI!",
    "4.1 InLine": f"{_BASE} {_INLINE_4_1}",
    "4.1 Wrapper": f"{_BASE} AdVerifications BlockedAdCategories+ Creatives VASTAdTagURI!",
}
"""By version and kind: the children in order; `!` must be there, `+` may be there more than once."""

LINEAR: Mapping[str, str] = {
    "early InLine": "Icons CreativeExtensions Duration! TrackingEvents AdParameters VideoClicks MediaFiles",
    "early Wrapper": "Icons CreativeExtensions TrackingEvents VideoClicks",
    "4 InLine": "Icons TrackingEvents AdParameters Duration! MediaFiles! VideoClicks",
    "4 Wrapper": "Icons TrackingEvents InteractiveCreativeFile VideoClicks",
}
CREATIVE = "CompanionAds CreativeExtensions Linear NonLinearAds UniversalAdId+"
CLICKS = "ClickThrough ClickTracking+ CustomClick+"
EVENTS = frozenset({
    "mute", "unmute", "pause", "resume", "rewind", "skip", "creativeView", "start", "firstQuartile", "midpoint",
    "thirdQuartile", "complete", "fullscreen", "exitFullscreen", "expand", "collapse", "acceptInvitation", "close",
    "progress", "playerExpand", "playerCollapse", "loaded", "closeLinear", "otherAdInteraction",
})  # fmt: skip
_CLOCK = re.compile(r"\d{2}:[0-5]\d:[0-5]\d(\.\d{3})?")


def faults(root: Any) -> Iterator[str]:
    """What the schema of a VAST document's own version does not allow. root: an lxml element, VAST."""
    version, four = str(root.get("version")), str(root.get("version")).startswith("4")
    if root.nsmap.get(None) != (NAMESPACE if four else None):
        yield f"VAST {version} in the namespace {root.nsmap.get(None)}"
    ads = list(root)
    if [_name(ad) for ad in ads] != ["Ad"] or len(ads[0]) != 1 or _name(ads[0][0]) not in ("InLine", "Wrapper"):
        yield "VAST without one ad, in line or wrapped"
        return
    if ads[0].get("adType") is not None and version in ("2.0", "3.0", "4.0"):
        yield f"adType in VAST {version}"
    body = ads[0][0]
    kind = _name(body)
    schema = version[0] if not four else "4.0" if version == "4.0" else "4.1"
    if f"{schema} {kind}" not in ORDERS:
        yield f"VAST {version} has no schema"
        return
    yield from _ordered(body, ORDERS[f"{schema} {kind}"])
    for creative in body.iterfind("{*}Creatives/{*}Creative"):
        yield from _creative(creative, version, kind)
    for tracker in root.iter("{*}Tracking"):
        if tracker.get("event") not in EVENTS:
            yield f"Tracking of the event {tracker.get('event')}"
    for element in root.iter("{*}Impression", "{*}Error", "{*}ClickThrough", "{*}ClickTracking", "{*}VASTAdTagURI"):
        if not (element.text or "").strip():
            yield f"{_name(element)} without an address"


def _creative(creative: Any, version: str, kind: str) -> Iterator[str]:
    four = version.startswith("4")
    yield from _ordered(creative, CREATIVE, loose=True)
    names = [_name(child) for child in creative]
    if four and kind == "InLine" and "UniversalAdId" not in names:
        yield "Creative without UniversalAdId"
    if not four and "UniversalAdId" in names:
        yield f"UniversalAdId in VAST {version}"
    for registry in creative.iterfind("{*}UniversalAdId"):
        if not registry.get("idRegistry") or (version == "4.0" and not registry.get("idValue")):
            yield "UniversalAdId without its attributes"
    for linear in creative.iterfind("{*}Linear"):
        yield from _ordered(linear, LINEAR[f"{'4' if four else 'early'} {kind}"])
        for clicks in linear.iterfind("{*}VideoClicks"):
            yield from _ordered(clicks, CLICKS, loose=True)
            if kind == "Wrapper" and not four and clicks.find("{*}ClickThrough") is not None:
                yield "ClickThrough in a wrapper"
        for length in linear.iterfind("{*}Duration"):
            if not _CLOCK.fullmatch((length.text or "").strip()):
                yield f"Duration {length.text}"
        files = linear.find("{*}MediaFiles")
        if files is not None and files.find("{*}MediaFile") is None:
            yield "MediaFiles without a file"
        for file in linear.iterfind("{*}MediaFiles/{*}MediaFile"):
            missing = [name for name in ("delivery", "type", "width", "height") if not file.get(name)]
            if missing:
                yield f"MediaFile without {' and '.join(missing)}"
            if file.get("delivery") not in ("progressive", "streaming"):
                yield f"MediaFile delivered {file.get('delivery')}"
            if any(number(file.get(name)) is None for name in ("width", "height")):
                yield "MediaFile whose size is no number"


def _ordered(element: Any, order: str, loose: bool = False) -> Iterator[str]:
    """Children that are unknown, missing, there too often or, unless `loose`, out of order."""
    known = {name.rstrip("!+"): name for name in order.split()}
    places = {name: place for place, name in enumerate(known)}
    found = [_name(child) for child in element]
    for name in found:
        if name not in known:
            yield f"{name} in {_name(element)}"
    for name, told in known.items():
        if "!" in told and name not in found:
            yield f"{_name(element)} without {name}"
        if "+" not in told and found.count(name) > 1:
            yield f"{name} twice in {_name(element)}"
    at = [places[name] for name in found if name in places]
    if not loose and at != sorted(at):
        yield f"{_name(element)} out of order: {' '.join(found)}"


def _name(element: Any) -> str:
    """The name without its namespace."""
    return str(element.tag).rpartition("}")[2]
