"""Does the markup of a bid suit the impression: banner sizes, VAST and DAAST, native assets."""

import json
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

from lxml import etree

from loadtest import referee_vast
from loadtest.auction import images
from loadtest.referee_read import Raw, dict_of, flag, number, numbers, objects, texts

BANNER, VIDEO, AUDIO, NATIVE = 1, 2, 3, 4  # bid.mtype
MEDIA = {BANNER: "banner", VIDEO: "video", AUDIO: "audio", NATIVE: "native"}
PROTOCOLS = {
    ("VAST", "1.0", False): 1, ("VAST", "2.0", False): 2, ("VAST", "3.0", False): 3,
    ("VAST", "1.0", True): 4, ("VAST", "2.0", True): 5, ("VAST", "3.0", True): 6,
    ("VAST", "4.0", False): 7, ("VAST", "4.0", True): 8, ("DAAST", "1.0", False): 9, ("DAAST", "1.0", True): 10,
    ("VAST", "4.1", False): 11, ("VAST", "4.1", True): 12, ("VAST", "4.2", False): 13, ("VAST", "4.2", True): 14,
    ("VAST", "4.3", False): 15, ("VAST", "4.3", True): 16,
}  # fmt: skip
"""(root, version, wrapper) -> code of AdCOM, List: Creative Subtypes - Audio/Video."""
_PLAIN = re.compile(
    r"""\b(?:src|srcset|data|poster|background)\s*=\s*["']?\s*http://|url\(\s*["']?http://""", re.IGNORECASE
)
_DELIVERY = {"streaming": 1.0, "progressive": 2.0}  # AdCOM, List: Delivery Methods
SKIPPABLE = 16  # creative attribute: the ad brings its own skip button


def media_of(imp: Raw, bid: Raw) -> int:
    """What the bid says it is, else the one thing the imp offers; 0 when nobody can tell."""
    if bid.get("mtype") in MEDIA:
        return int(bid["mtype"])
    offered = [kind for kind, name in MEDIA.items() if isinstance(imp.get(name), dict)]
    return offered[0] if len(offered) == 1 else 0


def misfits(imp: Raw, bid: Raw) -> list[str]:
    """What of a bid does not suit its impression's media object."""
    kind = media_of(imp, bid)
    if not kind:
        return ["mtype is missing: nobody can tell which part of the impression is answered"]
    name = MEDIA[kind]
    offered = imp.get(name)
    if not isinstance(offered, dict):
        return [f"{name} for an impression without one"]
    found = _attributes(offered, bid)
    if kind == BANNER:
        found += _banner(offered, bid)
    elif kind == NATIVE:
        found += _native(offered, bid, bool(flag(imp.get("secure"))))
    else:
        found += _timed(offered, bid, name, bool(flag(imp.get("secure"))))
    if kind == BANNER and flag(imp.get("secure")) and _PLAIN.search(unescape(str(bid.get("adm") or ""))):
        found.append("http asset on a secure page")
    return found


def _attributes(offered: Raw, bid: Raw) -> list[str]:
    """`battr` and `api`: absent `api` supports no framework at all."""
    found = [
        f"blocked creative attribute {n:.0f}" for n in sorted(numbers(bid.get("attr")) & numbers(offered.get("battr")))
    ]
    needed = numbers(bid.get("apis")) | numbers(bid.get("api"))
    found += [f"api {n:.0f} is not supported" for n in sorted(needed - numbers(offered.get("api")))]
    return found


def sizes(banner: Raw) -> set[tuple[float | None, float | None]]:
    """Permitted (w, h) of a banner, those of `format` and its own."""
    return {(number(part.get("w")), number(part.get("h"))) for part in [banner, *objects(banner.get("format"))]}


def _permitted(banner: Raw, bid: Raw) -> bool:
    """Whether the size, or else the ratio of a flexible ad, is one the banner offers."""
    size = (number(bid.get("w")), number(bid.get("h")))
    shape = (number(bid.get("wratio")), number(bid.get("hratio")))
    ratios = {(number(one.get("wratio")), number(one.get("hratio"))) for one in objects(banner.get("format"))}
    return (None not in size and size in sizes(banner)) or (None not in shape and shape in ratios)


def _banner(banner: Raw, bid: Raw) -> list[str]:
    found = [] if _permitted(banner, bid) else [f"size {bid.get('w')}x{bid.get('h')} was not offered"]
    markup = str(bid.get("adm") or "")
    wanted = {mime.lower() for mime in texts(banner.get("mimes"))}
    for tag, number_, name in (("<script", 3, "JavaScript"), ("<iframe", 4, "iframes")):
        if tag in markup.lower() and number_ in numbers(banner.get("btype")):
            found.append(f"btype blocks {name}")
    if any(mime.startswith("image/") for mime in wanted):
        for url in images(markup)[:1]:
            kind = image_mimes(url)
            if kind and not kind & wanted:
                found.append(f"image {sorted(kind)} is not in banner.mimes")
    return found


def image_mimes(url: str) -> set[str]:
    """The types an image's address suggests; empty when it suggests none.

    >>> sorted(image_mimes("https://c.example/a.jpg?x=1"))
    ['image/jpeg', 'image/jpg']
    """
    ending = url.partition("?")[0].rpartition(".")[2].lower()
    if ending in ("jpg", "jpeg"):
        return {"image/jpeg", "image/jpg"}
    return {f"image/{ending}"} if ending in ("png", "gif", "webp") else set()


def _timed(offered: Raw, bid: Raw, name: str, secure: bool) -> list[str]:
    """Video and audio: the document and what it says against what the player takes."""
    try:
        root = etree.fromstring(str(bid.get("adm") or "").encode(), etree.XMLParser(resolve_entities=False))
    except etree.XMLSyntaxError as error:
        return [f"adm is not XML: {error}"]
    if root.tag in ("VAST", f"{{{referee_vast.NAMESPACE}}}VAST"):
        if structure := list(referee_vast.faults(root)):
            return structure
        for element in root.iter():
            element.tag = etree.QName(element).localname
    wrapper = root.find(".//Wrapper") is not None
    code = PROTOCOLS.get((str(root.tag), str(root.get("version")), wrapper))
    found = []
    if code is None:
        return [f"{root.tag} {root.get('version')} is no ad document"]
    if bid.get("protocol") != code:
        found.append(f"protocol {bid.get('protocol')} but the markup is {code}")
    accepted = numbers(offered.get("protocols"))
    if accepted and code not in accepted:
        found.append(f"protocol {code} is not accepted")
    if not any((element.text or "").strip() for element in root.iter("Impression")):
        found.append("VAST without an impression URL")
    found += _clip(offered, bid, root, wrapper)
    if secure and (plain := [url for url in _urls(root) if url.startswith("http://")]):
        found.append(f"http on a secure page: {plain[0]}")
    if name == "video":
        if number(offered.get("linearity")) == 2:
            found.append("linear ad for a non-linear slot")
        if flag(offered.get("skip")) and SKIPPABLE in numbers(bid.get("attr")):
            found.append("the player skips already: attr 16 is not to be set")
        for side in ("w", "h"):
            room, taken = number(offered.get(side)), number(bid.get(side))
            if room and taken and taken > room:
                found.append(f"{side} {taken:.0f} is larger than the player's {room:.0f}")
    return found


def _clip(offered: Raw, bid: Raw, root: Any, wrapper: bool) -> list[str]:
    """Duration and files. A wrapper's are in the document it points at, so only `dur` can be judged."""
    found = []
    length = number(bid.get("dur"))
    if length is None:
        return ["dur is missing"]
    if not wrapper:
        told = [_seconds(element.text or "") for element in root.iter("Duration")]
        if told != [length]:
            found.append(f"dur {length} but the markup says {told}")
        wanted = {mime.lower() for mime in texts(offered.get("mimes"))}
        files = list(root.iter("MediaFile"))
        if (ways := numbers(offered.get("delivery"))) and not ways & {_DELIVERY.get(f.get("delivery")) for f in files}:
            found.append("no file is delivered the way that was asked for")
        kinds = {str(element.get("type")).lower() for element in files}
        if not kinds & wanted:
            found.append(f"none of {sorted(kinds)} is in mimes")
    if exact := numbers(offered.get("rqddurs")):
        if length not in exact:
            found.append(f"dur {length} is not one of rqddurs")
    else:
        least, most = number(offered.get("minduration")) or 0, longest(offered)
        if length < least or (most is not None and length > most):
            found.append(f"dur {length} is outside {least} to {most}")
    room = number(offered.get("poddur"))
    if room is not None and length > room:
        found.append(f"dur {length} is longer than the pod")
    return found


def longest(offered: Raw) -> float | None:
    """The longest an ad may be: `maxduration` and what it may be extended by; None for no limit.

    >>> longest({"maxduration": 30, "maxextended": 5}), longest({"maxduration": 30, "maxextended": -1})
    (35.0, None)
    """
    most, extended = number(offered.get("maxduration")), number(offered.get("maxextended")) or 0.0
    return None if most is None or extended == -1 else most + max(0.0, extended)


def _seconds(text: str) -> float:
    """HH:MM:SS[.mmm] in seconds.

    >>> _seconds("00:01:30"), _seconds("00:00:15.500")
    (90.0, 15.5)
    """
    total = 0.0
    for part in text.strip().split(":"):
        total = total * 60 + float(part)
    return total


def _urls(root: Any) -> Iterator[str]:
    for element in root.iter():
        text = (element.text or "").strip()
        if text.startswith(("http://", "https://")) and element.tag != "ClickThrough":
            yield text


def native_request(native: Raw) -> tuple[dict[str, Any], bool]:
    """(the native request object, whether it came wrapped in "native"); {} when nobody can read it."""
    raw = native.get("request")
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError:
            return {}, False
    raw = dict_of(raw)
    return (dict_of(raw["native"]), True) if isinstance(raw.get("native"), dict) else (raw, False)


def _native(native: Raw, bid: Raw, secure: bool) -> list[str]:
    request, _ = native_request(native)
    old = str(first_version(native, request)) in ("1", "1.0")
    adm = bid.get("adm")
    if not isinstance(adm, str):
        return ["native adm is not text"]
    try:
        answer = json.loads(adm)
    except ValueError:
        return ["native adm is not JSON"]
    if not isinstance(answer, dict):
        return ["native adm is not an object: encoded twice?"]
    if ("native" in answer) is not old:
        return ["native answer is wrapped" if "native" in answer else "a 1.0 answer is to be wrapped in native"]
    answer = dict_of(answer.get("native")) if old else answer
    found = [] if str(dict_of(answer.get("link")).get("url", "")).startswith("http") else ["native link is missing"]
    if not objects(answer.get("assets")):
        found.append("native answer without assets")
    asked = {str(asset.get("id")): asset for asset in objects(request.get("assets"))}
    given: dict[str, dict[str, Any]] = {}
    for asset in objects(answer.get("assets")):
        name = str(asset.get("id"))
        if name in given:
            found.append(f"asset {name} twice")
        given[name] = asset
        found += _asset(asked[name], asset, secure) if name in asked else [f"asset {name} was not asked for"]
    found += [
        f"required asset {name} is missing"
        for name, asset in asked.items()
        if flag(asset.get("required")) and name not in given
    ]
    offered = {
        (number(tracker.get("event")), method)
        for tracker in objects(request.get("eventtrackers"))
        for method in numbers(tracker.get("methods"))
    }
    found += [
        f"event {tracker.get('event')} by method {tracker.get('method')} was not offered"
        for tracker in objects(answer.get("eventtrackers"))
        if (number(tracker.get("event")), number(tracker.get("method"))) not in offered
    ]
    trackers = [str(t.get("url")) for t in objects(answer.get("eventtrackers"))] + texts(answer.get("imptrackers"))
    if secure and any(url.startswith("http://") for url in trackers):
        found.append("http tracker on a secure page")
    return found


def first_version(native: Raw, request: Raw) -> Any:
    """The version the request is written in: its own word before that of the imp; 1.1 by default."""
    return request.get("ver") or native.get("ver") or "1.1"


def _asset(asked: Raw, given: Raw, secure: bool) -> list[str]:
    """One asset of an answer against the one it answers."""
    kind = next((kind for kind in ("title", "img", "video", "data") if isinstance(asked.get(kind), dict)), "")
    wanted, value = dict_of(asked.get(kind)), given.get(kind)
    if not kind or not isinstance(value, dict):
        return [f"asset {asked.get('id')} is no {kind or 'known kind'}"]
    room = number(wanted.get("len"))
    text = value.get("text") if kind == "title" else value.get("value")
    if kind in ("title", "data"):
        if not isinstance(text, str) or not text:
            return [f"asset {asked.get('id')} is empty"]
        return [f"{kind} of {len(text)} characters where {room:.0f} fit"] if room and len(text) > room else []
    if kind == "video":
        try:
            root = etree.fromstring(str(value.get("vasttag", "")).encode(), etree.XMLParser(resolve_entities=False))
        except etree.XMLSyntaxError:
            return ["video asset without VAST"]
        return list(referee_vast.faults(root))
    found = []
    size = {side: number(value.get(side)) for side in ("w", "h")}
    for side, length in size.items():
        exact, least = number(wanted.get(side)), number(wanted.get(side + "min"))
        if exact and not least and length != exact:
            found.append(f"image {side} {length} where {exact:.0f} was asked for")
        if least and (length is None or length < least):
            found.append(f"image {side} {length} is below {least:.0f}")
    if not str(value.get("url", "")).startswith("https://" if secure else "http"):
        found.append("image without an address that may be loaded")
    mimes = {mime.lower() for mime in texts(wanted.get("mimes"))}
    kinds = image_mimes(str(value.get("url", "")))
    if mimes and kinds and not kinds & mimes:
        found.append("image type was not asked for")
    return found
