"""The bytes of a BidResponse (OpenRTB 2.6, 4.2): fixed parts joined around the few values that change."""

from collections.abc import Sequence

import msgspec

from bidder.markup import Pieces, UrlParts

_encode = msgspec.json.encode


class Sent(msgspec.Struct, frozen=True, gc=False):
    """One bid as it is sent. price_micros: CPM of the response's currency. server, browser: tokens.

    adm, tail: as `bidder.markup.for_imp` gives them; seat: JSON text. exp_s: seconds from now that we wait for the
    impression. deal: id, "" for the open auction.
    """

    bid_id: bytes
    imp_id: str
    price_micros: int
    server: bytes
    browser: bytes
    seat: bytes
    adm: Pieces
    tail: bytes
    exp_s: int
    deal: str = ""


def price_text(micros: int) -> bytes:
    """Micros as a decimal number, exact.

    >>> price_text(1_250_000), price_text(7)
    (b'1.250000', b'0.000007')
    """
    return b"%d.%06d" % divmod(micros, 1_000_000)


def bid(sent: Sent, urls: UrlParts) -> list[bytes]:
    """The pieces of one bid object, 4.2.3."""
    server = sent.server
    parts = [
        b'{"id":"', sent.bid_id, b'","impid":', _encode(sent.imp_id), b',"price":', price_text(sent.price_micros),
        b',"adm":"', sent.browser.join(sent.adm),
        b'"', urls.win, server, urls.billing, server, urls.loss, server, urls.price, sent.tail,
        b',"exp":%d' % sent.exp_s,
    ]  # fmt: skip
    if sent.deal:
        parts += [b',"dealid":', _encode(sent.deal)]
    parts.append(b"}")
    return parts


def no_bid(request_id: str, code: int) -> bytes:
    """A BidResponse that only says why there is no bid (4.2.1).

    >>> no_bid("r1", 8)
    b'{"id":"r1","nbr":8}'
    """
    return b'{"id":%b,"nbr":%d}' % (_encode(request_id), code)


def response(request_id: str, bids: Sequence[Sent], currency: str, urls: UrlParts) -> bytes:
    """A BidResponse of one bid or more, grouped by seat; its `bidid` is the id of the first."""
    seats: dict[bytes, list[bytes]] = {}
    for sent in bids:
        seat = seats.get(sent.seat)
        if seat is None:
            seats[sent.seat] = bid(sent, urls)
        else:
            seat += [b",", *bid(sent, urls)]
    parts = [b'{"id":', _encode(request_id), b',"bidid":"', bids[0].bid_id, b'","cur":"', currency.encode(), b'"']
    between = b',"seatbid":[{"seat":'
    for name, found in seats.items():
        parts += [between, name, b',"bid":[', *found, b"]}"]
        between = b',{"seat":'
    parts.append(b"]}")
    return b"".join(parts)
