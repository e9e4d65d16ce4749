"""The part of OpenRTB 2.5 and 2.6 that decides a bid, as Structs.

The Structs are the wire format: one typed decode, unknown fields skipped, nothing copied. A field that appears in
2.5 under `ext` and in 2.6 as a first-class field is held in both places; `bidder.privacy` reads both.
A request that breaks these types is read again field by field (`bidder.lenient`): a wrong type in an optional
field means unknown, in a restriction (marked `Strict` below) that nothing can be bid on what it restricts.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from bidder import lenient
from bidder.openrtb_media import Audio, Banner, DurFloor, Native, Qty, Video
from bidder.openrtb_types import (
    MAX_CHARS,
    MAX_DEALS,
    MAX_IMPS,
    STRICT,
    Flag,
    Int,
    Money,
    Str,
    StrictFlag,
    StrictInts,
    StrictStrs,
    Strs,
)


class BadRequest(Exception):
    """The body cannot be read as a bid request: HTTP 400 with an empty body. `reason` is for metrics only."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Deal(Struct, frozen=True, gc=False):
    """bidfloor falls back to USD whatever `imp.bidfloorcur` says. at: 1, 2, or 3 = bidfloor is the agreed price.

    guar: 1 = guaranteed: who has an ad for it must bid.
    """

    id: Annotated[Str, Meta(min_length=1, extra=STRICT)]
    bidfloor: Money | None = None
    bidfloorcur: Annotated[Str, Meta(extra=STRICT)] | None = None
    at: Int | None = None
    wseat: StrictStrs | None = None
    wadomain: StrictStrs | None = None
    mincpmpersec: Money | None = None
    durfloors: Annotated[tuple[DurFloor, ...], Meta(max_length=100, extra=STRICT)] | None = None
    guar: Flag | None = None


class Pmp(Struct, frozen=True, gc=False):
    private_auction: StrictFlag | None = None
    deals: Annotated[list[Deal], Meta(max_length=MAX_DEALS)] | None = None


class Metric(Struct, frozen=True, gc=False):
    """What was measured of a placement (3.2.5). value: of a probability 0 to 1."""

    type: Str | None = None
    value: float | None = None
    vendor: Str | None = None


class PrebidImp(Struct, frozen=True, gc=False):
    is_rewarded_inventory: Flag | None = None


class ImpExt(Struct, frozen=True, gc=False):
    """Where senders of 2.5 say that an impression is rewarded."""

    prebid: PrebidImp | None = None


class Imp(Struct, frozen=True, gc=False):
    """One impression. bidfloor: CPM in bidfloorcur (USD when absent). unusable: why nothing can be bid on it."""

    id: Annotated[Str, Meta(extra=STRICT)]
    banner: Banner | None = None
    video: Video | None = None
    audio: Audio | None = None
    native: Native | None = None
    pmp: Annotated[Pmp, Meta(extra=STRICT)] | None = None
    instl: Flag | None = None
    tagid: Str | None = None
    bidfloor: Money | None = None
    bidfloorcur: Annotated[Str, Meta(extra=STRICT)] | None = None
    secure: StrictFlag | None = None
    exp: Int | None = None
    qty: Annotated[Qty, Meta(extra=STRICT)] | None = None
    rwdd: Flag | None = None
    metric: list[Metric] | None = None
    ext: ImpExt | None = None
    unusable: str | None = field(default=None, name="tagbid:unusable")


def is_rewarded(imp: Imp) -> bool:
    """Whether the user gets something for watching, by the field of 2.6 or by its place before."""
    if imp.rwdd is not None:
        return bool(imp.rwdd)
    told = imp.ext.prebid if imp.ext is not None else None
    return told is not None and bool(told.is_rewarded_inventory)


class Publisher(Struct, frozen=True, gc=False):
    id: Str | None = None
    domain: Str | None = None


class Content(Struct, frozen=True, gc=False):
    cat: Strs | None = None
    keywords: Str | None = None
    kwarray: Strs | None = None
    title: Str | None = None
    series: Str | None = None
    genre: Str | None = None
    language: Str | None = None


class Site(Struct, frozen=True, gc=False):
    """The web page. cat, sectioncat, pagecat: categories of site, section and page, widest first."""

    id: Str | None = None
    domain: Str | None = None
    page: Str | None = None
    cat: Strs | None = None
    sectioncat: Strs | None = None
    pagecat: Strs | None = None
    keywords: Str | None = None
    kwarray: Strs | None = None
    search: Str | None = None
    publisher: Publisher | None = None
    content: Content | None = None


class App(Struct, frozen=True, gc=False):
    id: Str | None = None
    bundle: Str | None = None
    domain: Str | None = None
    cat: Strs | None = None
    sectioncat: Strs | None = None
    pagecat: Strs | None = None
    keywords: Str | None = None
    kwarray: Strs | None = None
    publisher: Publisher | None = None
    content: Content | None = None


class Dooh(Struct, frozen=True, gc=False):
    """Screens in public places."""

    id: Str | None = None
    domain: Str | None = None
    keywords: Str | None = None
    publisher: Publisher | None = None


class Geo(Struct, frozen=True, gc=False):
    """country: ISO alpha-3 by the standard, alpha-2 in practice too. utcoffset: minutes."""

    lat: Annotated[float, Meta(ge=-90, le=90)] | None = None
    lon: Annotated[float, Meta(ge=-180, le=180)] | None = None
    country: Str | None = None
    region: Str | None = None
    city: Str | None = None
    utcoffset: Annotated[int, Meta(ge=-720, le=840)] | None = None


class Brand(Struct, frozen=True, gc=False):
    brand: Str | None = None
    version: Strs | None = None


class UserAgent(Struct, frozen=True, gc=False):
    """Client hints (3.2.29); they beat `ua` where both are there."""

    browsers: list[Brand] | None = None
    platform: Brand | None = None
    mobile: Flag | None = None


class Device(Struct, frozen=True, gc=False):
    ua: Str | None = None
    sua: UserAgent | None = None
    ip: Str | None = None
    ipv6: Str | None = None
    geo: Geo | None = None
    devicetype: Int | None = None
    os: Str | None = None
    language: Str | None = None
    langb: Str | None = None
    connectiontype: Int | None = None
    ifa: Str | None = None
    lmt: StrictFlag | None = None
    dnt: StrictFlag | None = None


class Segment(Struct, frozen=True, gc=False):
    id: Str | None = None


class Data(Struct, frozen=True, gc=False):
    """What somebody else says of the user: segments of one provider."""

    id: Str | None = None
    name: Str | None = None
    segment: list[Segment] | None = None


class ExtendedUid(Struct, frozen=True, gc=False):
    id: Str | None = None


class Eid(Struct, frozen=True, gc=False):
    """Ids of the user in one source, such as a login alliance (3.2.27)."""

    source: Str | None = None
    uids: list[ExtendedUid] | None = None


class UserExt(Struct, frozen=True, gc=False):
    consent: str | None = None
    eids: list[Eid] | None = None


class User(Struct, frozen=True, gc=False):
    """buyeruid: our own id as the exchange stored it. id: the exchange's. consent: a TCF string, any length."""

    id: Str | None = None
    buyeruid: Str | None = None
    keywords: Str | None = None
    consent: str | None = None
    geo: Geo | None = None
    data: list[Data] | None = None
    eids: list[Eid] | None = None
    ext: UserExt | None = None


class Dsa(Struct, frozen=True, gc=False):
    """What the Digital Services Act has the publisher ask for; see `bidder.transparency`."""

    dsarequired: Annotated[Int, Meta(extra=STRICT)] | None = None
    pubrender: Annotated[Int, Meta(extra=STRICT)] | None = None
    datatopub: Int | None = None


class RegsExt(Struct, frozen=True, gc=False):
    gdpr: StrictFlag | None = None
    us_privacy: Annotated[str, Meta(extra=STRICT)] | None = None
    gpp: Annotated[str, Meta(extra=STRICT)] | None = None
    gpp_sid: StrictInts | None = None
    gpc: Annotated[Int | bool | str, Meta(extra=STRICT)] | None = None
    coppa: StrictFlag | None = None
    dsa: Annotated[Dsa, Meta(extra=STRICT)] | None = None


class Regs(Struct, frozen=True, gc=False):
    coppa: StrictFlag | None = None
    gdpr: StrictFlag | None = None
    us_privacy: Annotated[str, Meta(extra=STRICT)] | None = None
    gpp: Annotated[str, Meta(extra=STRICT)] | None = None
    gpp_sid: StrictInts | None = None
    ext: Annotated[RegsExt, Meta(extra=STRICT)] | None = None


class Node(Struct, frozen=True, gc=False):
    asi: Str | None = None
    sid: Str | None = None


class SupplyChain(Struct, frozen=True, gc=False):
    """Who sold the impression to whom, owner first; complete: 1 = all of them are there."""

    complete: Flag | None = None
    nodes: list[Node] | None = None


class ChainExt(Struct, frozen=True, gc=False):
    schain: SupplyChain | None = None


class Source(Struct, frozen=True, gc=False):
    """tid: common to every exchange that sells this impression. fd: 1 = somebody upstream decides what is shown.

    pchain: who is paid, as "system:payment id" pairs (TAG Payment ID).
    """

    tid: Str | None = None
    fd: Flag | None = None
    pchain: Str | None = None
    schain: SupplyChain | None = None
    ext: ChainExt | None = None


class Request(Struct, frozen=True, gc=False):
    """A bid request. Absent means unknown, except where the standard gives a default.

    at: 1 first price, 2 second price, others first price to us. cur: currencies a bid may use. tmax: ms, at the
    exchange. test: not billable. refuse: the restriction that could not be read; such a request gets no bid.
    """

    id: Annotated[Str, Meta(extra=STRICT)]
    imp: Annotated[list[Imp], Meta(min_length=1, max_length=MAX_IMPS)]
    site: Site | None = None
    app: App | None = None
    dooh: Dooh | None = None
    device: Device | None = None
    user: User | None = None
    regs: Annotated[Regs, Meta(extra=STRICT)] | None = None
    source: Source | None = None
    at: Int | None = None
    cur: Strs | None = None
    tmax: float | None = None
    test: StrictFlag | None = None
    wseat: StrictStrs | None = None
    bseat: StrictStrs | None = None
    bcat: StrictStrs | None = None
    acat: StrictStrs | None = None
    cattax: Annotated[Int, Meta(extra=STRICT)] | None = None
    badv: StrictStrs | None = None
    bapp: StrictStrs | None = None
    wlang: StrictStrs | None = None
    wlangb: StrictStrs | None = None
    ext: ChainExt | None = None
    refuse: str | None = field(default=None, name="tagbid:refuse")


_decoder = msgspec.json.Decoder(Request)
_any_decoder = msgspec.json.Decoder()
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError)


def decode(body: bytes) -> Request:
    """The request in a body, also when it breaks the standard's types (see `bidder.lenient`).

    Raises BadRequest when it is no JSON object, has no id or no imp, or is beyond the limits (S-04).
    """
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError:
        return _decode_leniently(body)
    except _MALFORMED as error:
        raise BadRequest("malformed") from error
    return request if request.id else _decode_leniently(body)


def _decode_leniently(body: bytes) -> Request:
    try:
        raw = _any_decoder.decode(body)
    except _MALFORMED as error:
        raise BadRequest("malformed") from error
    if not isinstance(raw, dict):
        raise BadRequest("not an object")
    name, imps = raw.get("id"), raw.get("imp")
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "" or len(str(name)) > MAX_CHARS:
        raise BadRequest("no id")
    if not isinstance(imps, list) or not any(isinstance(imp, dict) for imp in imps):
        raise BadRequest("no imp")
    if len(imps) > MAX_IMPS:
        raise BadRequest("too many imps")
    return lenient.read(Request, raw)
