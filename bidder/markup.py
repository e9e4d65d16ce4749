"""The creative as markup with our click and impression URLs, and the notice URLs: fixed parts, made once per snapshot.

What changes from bid to bid inside the markup is the token, so the markup is kept as the pieces between its tokens,
already escaped for JSON: a bid's `adm` is `token.join(pieces)`.
"""

import html

import msgspec

from bidder.campaigns import Campaign, Creative

CLICK_MACRO = "${CLICK_URL}"
_TOKEN = "\x00"  # noqa: S105 - no secret: stands for the token while the parts are made; TOML cannot hold it


class AdParts(msgspec.Struct, frozen=True):
    """One ad's fixed bytes. adm: JSON text between tokens. adm_secure: the same for an imp that asks for https.

    tail: the bid object from `adomain` on, without the closing brace. seat: JSON text. fields: campaign and creative
    as token fields.
    """

    adm: tuple[bytes, ...]
    adm_secure: tuple[bytes, ...]
    tail: bytes
    seat: bytes
    campaign: str
    creative: str


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
    tail: dict[str, object] = {"adomain": [campaign.adomain], "crid": creative.id, "cid": campaign.id}
    if campaign.cat:
        tail["cat"] = campaign.cat
    if attr := sorted({*campaign.attr, *creative.attr}):
        tail["attr"] = attr
    tail |= {"w": creative.w, "h": creative.h, "mtype": 1}
    if creative.iurl:
        tail["iurl"] = creative.iurl
    if creative.language:
        tail["language"] = creative.language
    if creative.bundle:
        tail["bundle"] = creative.bundle
    # An impression pixel without https would break the promise of an imp that asks for it; billing still counts there.
    secure_pixel = public_url.startswith("https://")
    return AdParts(
        adm=_pieces(markup(creative, public_url, pixel=True)),
        adm_secure=_pieces(markup(creative, public_url, pixel=secure_pixel)),
        tail=b"," + msgspec.json.encode(tail)[1:-1],
        seat=msgspec.json.encode(campaign.seat),
        campaign=campaign.id,
        creative=creative.id,
    )


def markup(creative: Creative, public_url: str, pixel: bool) -> str:
    """The HTML of a banner with `_TOKEN` wherever its browser token belongs.

    HTML of an advertiser places its link as ${CLICK_URL}; HTML without that macro and without a link of its own
    becomes one link.
    """
    click = f"{public_url}/click?t={_TOKEN}"
    link = f'<a href="{html.escape(click)}" target="_blank" rel="noopener">'
    if creative.html:
        body = creative.html.replace(_TOKEN, "")
        if CLICK_MACRO in body:
            body = body.replace(CLICK_MACRO, click)
        elif "<a" not in body.lower():
            body = f"{link}{body}</a>"
    else:
        image = html.escape(creative.image_url)
        size = f'width="{creative.w}" height="{creative.h}"'
        body = f'{link}<img src="{image}" {size} alt="" style="border:0"></a>'
    if not pixel:
        return body
    url = html.escape(f"{public_url}/imp?t={_TOKEN}&p=") + "${AUCTION_PRICE}"
    return f'{body}<img src="{url}" width="1" height="1" alt="" style="position:absolute;visibility:hidden">'


def _pieces(text: str) -> tuple[bytes, ...]:
    return tuple(msgspec.json.encode(piece)[1:-1] for piece in text.split(_TOKEN))
