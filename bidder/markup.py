"""The creative as markup with our click and impression URLs, and the notice URLs: fixed parts, made once per snapshot.

What changes from bid to bid inside the markup is the token, so the markup is kept as the pieces between its tokens,
already escaped for JSON: a bid's `adm` is `token.join(pieces)`. A clip is kept in every VAST version it may be asked
for in; a native ad is put together for each placement's wishes.
"""

import html
from fractions import Fraction

import msgspec

from bidder import clips, native, transparency, vast
from bidder.banners import ratio
from bidder.campaigns import Campaign
from bidder.creatives import DAAST, INLINE, MEDIA, WRAPPED, Creative
from bidder.openrtb import Imp
from bidder.openrtb_media import Timed, Video, native_text
from bidder.pages import host
from bidder.vast import TOKEN, Urls

CLICK_MACRO = "${CLICK_URL}"
Pieces = tuple[bytes, ...]


class AdParts(msgspec.Struct, frozen=True):
    """One ad's fixed bytes.

    documents: VAST code -> markup of a clip as JSON text between tokens; that of a banner is under 0; a native ad has
    none. tail: the bid object from `adomain` on, without the closing
    brace; tails: the same by taxonomy of `cat`, where the campaign has labels in several. seat: JSON text. shape,
    sound: of a clip. flexible: (w, h) of a banner whose tails leave its size out. native, public_url: for what is put
    together per bid. notice_bytes: most that is said for the Digital Services Act.
    """

    documents: dict[int, Pieces]
    tail: bytes
    tails: dict[int, bytes]
    seat: bytes
    campaign: str
    creative: str
    shape: clips.ClipShape | None = None
    sound: bool = False
    flexible: tuple[int, int] | None = None
    native: Creative | None = None
    public_url: str = ""
    notice_bytes: int = 0


class UrlParts(msgspec.Struct, frozen=True):
    """What stands before and after the server token in the three notice URLs, as JSON text."""

    win: bytes
    billing: bytes
    loss: bytes
    price: bytes


def url_parts(public_url: str) -> UrlParts:
    """Notice URLs end in their macros (OpenRTB 2.6, section 4.4: substitution is textual, so no encoding of `${`)."""

    def inside(text: str) -> bytes:
        return msgspec.json.encode(text)[1:-1]

    return UrlParts(
        win=b',"nurl":"' + inside(f"{public_url}/win?t="),
        billing=inside("&p=${AUCTION_PRICE}") + b'","burl":"' + inside(f"{public_url}/bill?t="),
        loss=inside("&p=${AUCTION_PRICE}") + b'","lurl":"' + inside(f"{public_url}/loss?t="),
        price=inside("&l=${AUCTION_LOSS}&p=${AUCTION_MIN_TO_WIN}") + b'"',
    )


def ad_parts(campaign: Campaign, creative: Creative, public_url: str) -> AdParts:
    """All fixed bytes of a creative's bids. public_url: where exchanges and browsers reach us, without final slash."""
    clip = creative.clip
    documents: dict[int, Pieces] = {}
    if clip is not None:
        for version in vast.versions(clip, sound=creative.audio is not None):
            code = DAAST if version == "daast" else (WRAPPED if clip.tag_url else INLINE)[version]
            documents[code] = _pieces(vast.document(clip, creative.id, version, Urls(public_url)))
    elif creative.native is None:
        documents[0] = _pieces(markup(creative, public_url))
    labels = {1: creative.cat or campaign.cat} | {int(name): cat for name, cat in campaign.cat_in.items()}
    tails = {tax: _tail(campaign, creative, tax, cat) for tax, cat in labels.items()}
    return AdParts(
        documents=documents,
        tail=tails[1],
        tails=tails,
        seat=msgspec.json.encode(campaign.seat),
        campaign=campaign.id,
        creative=creative.id,
        shape=None if clip is None else clips.clip_shape(clip, (), ()),
        sound=creative.audio is not None,
        flexible=(creative.w, creative.h) if creative.flexible else None,
        native=creative if creative.native is not None else None,
        public_url=public_url,
        notice_bytes=transparency.most_bytes(campaign.dsa, host(public_url)),
    )


def _tail(campaign: Campaign, creative: Creative, cattax: int, cat: tuple[str, ...]) -> bytes:
    """Everything about a bid that is the same for all bids of an ad."""
    tail: dict[str, object] = {"adomain": [campaign.adomain], "crid": creative.id, "cid": campaign.id}
    if cat:
        tail |= {"cat": cat, "cattax": cattax}
    if attr := sorted({*campaign.attr, *creative.attr}):
        tail["attr"] = attr
    if creative.apis:
        tail |= {"apis": creative.apis, "api": creative.apis[0]}
    tail["mtype"] = MEDIA[creative.media]
    if creative.media == "banner" and not creative.flexible:
        tail |= {"w": creative.w, "h": creative.h}
    if creative.clip is not None:
        seconds = creative.clip.duration_s
        tail["dur"] = int(seconds) if seconds.is_integer() else seconds
    if creative.iurl:
        tail["iurl"] = creative.iurl
    if creative.languages:
        name = creative.languages[0]
        tail["langb" if "-" in name else "language"] = name
    if creative.bundle:
        tail["bundle"] = creative.bundle
    return b"," + msgspec.json.encode(tail)[1:-1]


def markup(creative: Creative, public_url: str) -> str:
    """The HTML of a banner with `TOKEN` wherever its browser token belongs.

    HTML of an advertiser places its link as ${CLICK_URL}; HTML without that macro and without a link of its own
    becomes one link.
    """
    click = f"{public_url}/click?t={TOKEN}"
    link = f'<a href="{html.escape(click)}" target="_blank" rel="noopener">'
    if creative.html:
        body = creative.html.replace(TOKEN, "")
        if CLICK_MACRO in body:
            body = body.replace(CLICK_MACRO, click)
        elif "<a" not in body.lower():
            body = f"{link}{body}</a>"
    else:
        image = html.escape(creative.image_url)
        size = f'width="{creative.w}" height="{creative.h}"'
        style = "border:0;width:100%;height:auto" if creative.flexible else "border:0"
        body = f'{link}<img src="{image}" {size} alt="" style="{style}"></a>'
    url = html.escape(f"{public_url}/imp?t={TOKEN}&p=") + "${AUCTION_PRICE}"
    return f'{body}<img src="{url}" width="1" height="1" alt="" style="position:absolute;visibility:hidden">'


MAX_FIELDS_BYTES = 1_000
"""Of a bid around its markup and its tokens: ids of the exchange, price, the rest of the notice URLs."""

MAX_TOKEN_BYTES = 400
"""Of a token with names of usual length."""


VAST_LINKS = 11  # in a document of ours


def most_bytes(ad: AdParts) -> int:
    """What an answer with one bid of an ad takes at most, if ids and names in it are of usual length."""
    found = [sum(map(len, pieces)) + MAX_TOKEN_BYTES * (len(pieces) - 1) for pieces in ad.documents.values()]
    if ad.native is not None and ad.native.native is not None:
        texts = msgspec.json.encode(ad.native.native)  # more than any answer picks out of it
        links = 4 if ad.native.native.video is None else 4 + VAST_LINKS
        found.append(len(texts) + links * (MAX_TOKEN_BYTES + len(ad.public_url) + 80))
    said = max(map(len, ad.tails.values())) + ad.notice_bytes
    return max(found) + 3 * MAX_TOKEN_BYTES + said + 3 * len(ad.public_url) + MAX_FIELDS_BYTES


def for_imp(ad: AdParts, imp: Imp, cattax: int | None = None) -> tuple[Pieces, bytes]:
    """(the markup one imp gets, the bid object from `adomain` on); the ad is known to fit it.

    cattax: the taxonomy the request's block lists are in; labels in it are sent where the campaign has some.
    """
    tail = ad.tail if cattax is None else ad.tails.get(cattax, ad.tail)
    if ad.shape is not None:
        adm, extra = _clip_for(ad, ad.shape, imp)
        return adm, tail + extra
    if ad.native is not None:
        return _native_for(ad, ad.native, imp), tail
    return ad.documents[0], tail + _size_for(ad.flexible, imp) if ad.flexible is not None else tail


def _size_for(size: tuple[int, int], imp: Imp) -> bytes:
    """What a bid says of the size of a flexible banner: its own where that is permitted, else the ratio it fills."""
    banner = imp.banner
    assert banner is not None  # noqa: S101 - only ads that fit come here
    permitted = banner.format or ()
    if size != (banner.w, banner.h) and size not in [(one.w, one.h) for one in permitted]:
        for one in permitted:
            if ratio(one) == Fraction(*size):
                return b',"wratio":%d,"hratio":%d' % (one.wratio or 0, one.hratio or 0)
    return b',"w":%d,"h":%d' % size


def _clip_for(ad: AdParts, of: clips.ClipShape, imp: Imp) -> tuple[Pieces, bytes]:
    offered: Timed | None = imp.audio if ad.sound else imp.video
    assert offered is not None  # noqa: S101 - only ads that fit come here
    found = clips.protocol(of.wrapper, offered, ad.sound)
    assert found is not None  # noqa: S101 - as above
    extra = b',"protocol":%d' % found[1]
    if isinstance(offered, Video):
        size = (of.w, of.h) if of.wrapper else clips.picture(of.files, offered)
        if size and size[0] and size[1]:
            extra += b',"w":%d,"h":%d' % size
    if offered.poddur is not None and offered.slotinpod in (1, -1, 2):
        extra += b',"slotinpod":%d' % offered.slotinpod
    return ad.documents[found[1]], extra


def _native_for(ad: AdParts, creative: Creative, imp: Imp) -> Pieces:
    assert imp.native is not None and creative.native is not None  # noqa: S101, PT018 - only ads that fit come here
    request = native.read(native_text(imp.native))
    assert request is not None  # noqa: S101 - as above
    request = msgspec.structs.replace(request, ver=request.ver or imp.native.ver)
    urls = Urls(ad.public_url)
    clip = creative.native.video
    made = native.answer(
        creative.native,
        request,
        urls.click,
        urls.impression,
        urls.viewable,
        lambda version: "" if clip is None else vast.document(clip, creative.id, version, urls),
    )
    return _pieces(msgspec.json.encode(made).decode())


def _pieces(text: str) -> Pieces:
    return tuple(msgspec.json.encode(piece)[1:-1] for piece in text.split(TOKEN))
