"""Whether an answer to a bid request is one an exchange would accept; knows nothing of how our bidder works.

The checks follow the OpenRTB 2.6 response objects and the usual reasons for which exchanges reject bids.
"""

import re
from typing import Any

import msgspec

from loadtest.auction import images

_JSON = msgspec.json.Decoder()
_PLACE = re.compile(r"imp\[(\d+)\]")


def violations(request: dict[str, Any], status: int, body: bytes) -> list[str]:
    """What is wrong with the answer to a valid request; empty when an exchange would take it.

    204 without a body is a valid no-bid, 200 needs a valid response, everything else is an error.
    """
    if status == 204:
        return ["204 with a body"] if body else []
    if status != 200:
        return [f"status {status}"]
    try:
        answer = _JSON.decode(body)
    except msgspec.DecodeError:
        return ["body is not JSON"]
    if not isinstance(answer, dict):
        return ["body is not an object"]
    found = [] if answer.get("id") == request.get("id") else ["id is not the request's"]
    seats = answer.get("seatbid") or []
    if seats and answer.get("cur", "USD") not in (request.get("cur") or ["USD"]):
        found.append(f"cur {answer.get('cur', 'USD')} was not offered")
    # Some exchanges send numbers for ids; a bid names them as text.
    imps = {str(imp.get("id")): imp for imp in request.get("imp") or [] if isinstance(imp, dict)}
    for seat in seats:
        if request.get("wseat") and seat.get("seat") not in request["wseat"]:
            found.append(f"seat {seat.get('seat')} is not in wseat")
        if not seat.get("bid"):
            found.append("seatbid without bids")
        for bid in seat.get("bid") or []:
            imp = imps.get(bid.get("impid"))
            if imp is None:
                found.append(f"impid {bid.get('impid')} is not in the request")
            else:
                found += _offer(imp, bid) + _blocks(request, imp, bid)
    return found


def _offer(imp: dict[str, Any], bid: dict[str, Any]) -> list[str]:
    """Does the bid stand on its own and fit the impression: required fields, price, deal, size."""
    found = [f"bid without {name}" for name in ("id", "price", "crid", "adm", "adomain") if not bid.get(name)]
    price, floor = bid.get("price"), imp.get("bidfloor")
    if isinstance(price, bool) or not isinstance(price, int | float) or price <= 0:
        found.append(f"price {price!r}")
    elif isinstance(floor, int | float) and imp.get("bidfloorcur", "USD") == "USD" and not bid.get("dealid"):
        found += [f"price {price} below the floor {floor}"] if price < floor else []
    pmp = imp.get("pmp") if isinstance(imp.get("pmp"), dict) else {}
    deals = [deal.get("id") for deal in (pmp or {}).get("deals") or [] if isinstance(deal, dict)]
    if bid.get("dealid") and bid["dealid"] not in deals:
        found.append(f"deal {bid['dealid']} was not offered")
    if (pmp or {}).get("private_auction") == 1 and not bid.get("dealid"):
        found.append("open bid in a private auction")
    banner = imp.get("banner")
    if not isinstance(banner, dict):
        return [*found, "banner for an impression without one"]
    sizes = [_size(part) for part in [banner, *(banner.get("format") or [])] if isinstance(part, dict)]
    if _size(bid) not in sizes:
        found.append(f"size {bid.get('w')}x{bid.get('h')} was not offered")
    return found


def _size(part: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(_number(part.get(side)) for side in ("w", "h"))


def _number(value: Any) -> Any:
    """A number sent as text is that number.

    >>> _number("728") == _number(728.0) == 728
    True
    """
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _blocks(request: dict[str, Any], imp: dict[str, Any], bid: dict[str, Any]) -> list[str]:
    """Does the bid break a publisher's restriction: advertisers, categories, attributes, secure pages."""
    blocked = [str(name).lower() for name in request.get("badv") or []]
    found = [
        f"advertiser {domain} is blocked"
        for domain in bid.get("adomain") or []
        if any(domain.lower() == name or domain.lower().endswith("." + name) for name in blocked)
    ]
    if request.get("cattax", 1) == 1:
        categories = {str(category) for category in request.get("bcat") or []}
        found += [
            f"category {category} is blocked"
            for category in bid.get("cat") or []
            if category in categories or category.partition("-")[0] in categories
        ]
    banner = imp.get("banner")
    if isinstance(banner, dict) and set(bid.get("attr") or ()) & set(banner.get("battr") or ()):
        found.append("blocked creative attribute")
    if imp.get("secure") == 1 and any(url.startswith("http://") for url in images(str(bid.get("adm") or ""))):
        found.append("http asset on a secure page")
    return found


def expectation_met(expect: str, reason: str, sent: bytes, status: int, answer: bytes) -> bool:
    """Whether the answer to a broken body is what its `expect` asks for (texts of the corpus of invalid requests).

    Every kind rules out 5xx and silence (status 0); a refusal is 4xx, 204, or a 200 that carries no bid.
    reason: what is broken; tells which impression must not be bid on.
    """
    if not 100 <= status < 500:
        return False
    bids = bid_imps(status, answer)
    if expect.startswith("HTTP 400 with no body ("):
        return not bids and (status != 400 or not answer)
    if expect.startswith("HTTP 400"):
        return status == 400 and not answer
    if expect.startswith("no bid on the affected imp"):
        return status in (200, 204) and not set(bids) & affected(reason, sent)
    return status in (200, 204) or 400 <= status < 500


def bid_imps(status: int, answer: bytes) -> list[str]:
    """Ids of the impressions an answer bids on; ["?"] for a 200 nobody can read."""
    if status != 200:
        return []
    try:
        found = _JSON.decode(answer)
    except msgspec.DecodeError:
        return ["?"]
    if not isinstance(found, dict):
        return ["?"]
    return [str(bid.get("impid")) for seat in found.get("seatbid") or [] for bid in seat.get("bid") or []]


def affected(reason: str, sent: bytes) -> set[str]:
    """Ids of the impressions a fault makes unusable: the one it names, else all of them."""
    imps = _JSON.decode(sent).get("imp") or []
    ids = [str(imp.get("id")) if isinstance(imp, dict) else "?" for imp in imps]
    named = _PLACE.search(reason)
    return {ids[int(named.group(1))]} if named and int(named.group(1)) < len(ids) else set(ids)
