"""VAST 2.0 to 4.3 and DAAST 1.0 documents for a clip, inline or as a wrapper, with our tracking.

Built once per snapshot: `TOKEN` stands wherever a bid's browser token belongs. URLs stand in CDATA, where a macro's
`${` and an `&` need no escaping (VAST 3.0, 2.2). The order of elements is that of the XSD of each version.
"""

from collections.abc import Sequence

from lxml import etree
from lxml.etree import SubElement

from bidder.creatives import Clip

TOKEN = "\ue000"  # noqa: S105 - stands for the token while documents are made; taken out of every creative's text
PRICE = "${AUCTION_PRICE}"
EVENTS = ("start", "firstQuartile", "midpoint", "thirdQuartile", "complete")
"""Linear events we ask for, in the order a player reaches them."""


NAMES_SOUND = ("4.1", "4.2", "4.3")
"""Versions that tell an audio ad from a video, and name the serving of one."""

NAMESPACE = "http://www.iab.com/VAST"  # of the schemas from 4.0 on


class Urls:
    """Where a document of one bid points. public_url: how players reach us."""

    def __init__(self, public_url: str) -> None:
        self.click = f"{public_url}/click?t={TOKEN}"
        self.impression = f"{public_url}/imp?t={TOKEN}&p={PRICE}"
        self.viewable = f"{public_url}/view?t={TOKEN}"
        self.event = f"{public_url}/vast?t={TOKEN}&e="


def clock(seconds: float) -> str:
    """HH:MM:SS, with milliseconds where there are some.

    >>> clock(30), clock(3661.5)
    ('00:00:30', '01:01:01.500')
    """
    whole, ms = divmod(round(seconds * 1000), 1000)
    text = f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{text}.{ms:03d}" if ms else text


def document(clip: Clip, name: str, version: str, urls: Urls) -> str:
    """The document of a clip. name: of the creative. version: "2.0" ... "4.3", or "daast"."""
    daast, four = version == "daast", version.startswith("4")
    root = etree.Element("DAAST" if daast else "VAST", version="1.0" if daast else version)
    if four:
        root.set("xmlns", NAMESPACE)
    ad = SubElement(root, "Ad", id=name)
    if version in NAMES_SOUND and clip.files and not any(file.w for file in clip.files):
        ad.set("adType", "audio")
    body = SubElement(ad, "Wrapper" if clip.tag_url else "InLine")
    _text(body, "AdSystem", "tagbid")
    if four:
        _tracking(body, urls)
        _cdata(SubElement(body, "ViewableImpression"), "Viewable", urls.viewable)
    if clip.tag_url and not four:
        _cdata(body, "VASTAdTagURI", clip.tag_url)
    elif not clip.tag_url:
        if version in NAMES_SOUND:
            _text(body, "AdServingId", TOKEN)
        _text(body, "AdTitle", name)
    if not four:
        _tracking(body, urls)
    creative = SubElement(SubElement(body, "Creatives"), "Creative", id=name)
    _linear(creative, clip, version, urls)
    if four and clip.tag_url:
        _cdata(body, "VASTAdTagURI", clip.tag_url)
    elif four:
        registry = SubElement(creative, "UniversalAdId", idRegistry="unknown")
        registry.text = "unknown" if version == "4.0" else name
        if version == "4.0":
            registry.set("idValue", name)
    return str(etree.tostring(root, encoding="unicode"))


def _tracking(body: etree._Element, urls: Urls) -> None:
    _cdata(body, "Error", urls.event + "error&c=[ERRORCODE]")
    _cdata(body, "Impression", urls.impression)


def _linear(creative: etree._Element, clip: Clip, version: str, urls: Urls) -> None:
    linear = SubElement(creative, "Linear")
    inline = not clip.tag_url
    if inline and not version.startswith("4"):
        _text(linear, "Duration", clock(clip.duration_s))
    events = SubElement(linear, "TrackingEvents")
    for event in EVENTS:
        _cdata(events, "Tracking", urls.event + event).set("event", event)
    if inline and version.startswith("4"):
        _text(linear, "Duration", clock(clip.duration_s))
        _files(linear, clip)
    clicks = SubElement(linear, "AdInteractions" if version == "daast" else "VideoClicks")
    _cdata(clicks, "ClickThrough" if inline else "ClickTracking", urls.click)
    if inline and not version.startswith("4"):
        _files(linear, clip)


def _files(linear: etree._Element, clip: Clip) -> None:
    files = SubElement(linear, "MediaFiles")
    for file in clip.files:
        made = _cdata(files, "MediaFile", file.url)
        made.set("delivery", "streaming" if file.streaming else "progressive")
        made.set("type", file.mime)
        made.set("width", str(file.w))
        made.set("height", str(file.h))
        if file.kbps:
            made.set("bitrate", str(file.kbps))


def _text(parent: etree._Element, tag: str, text: str) -> etree._Element:
    child = SubElement(parent, tag)
    child.text = text
    return child


def _cdata(parent: etree._Element, tag: str, url: str) -> etree._Element:
    child = SubElement(parent, tag)
    child.text = etree.CDATA(url)
    return child


def versions(clip: Clip, sound: bool) -> Sequence[str]:
    """Every version a clip can be asked for in."""
    if clip.tag_url:
        return (clip.tag_version,)
    return ("2.0", "3.0", "4.0", "4.1", "4.2", "4.3", *(("daast",) if sound else ()))
