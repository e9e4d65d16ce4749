"""Whether an answer to a bid request is one an exchange would accept; knows nothing of how our bidder works.

The checks follow the OpenRTB 2.6 response objects and the usual reasons for which exchanges reject bids. It reads
plain JSON with its own eyes and imports nothing of the bidder.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loadtest.referee_media import media_of, misfits
from loadtest.referee_read import Raw, dict_of, domains, first, flag, number, numbers, objects, texts

_JSON = msgspec.json.Decoder()
_PLACE = re.compile(r"imp\[(\d+)\]")
_HIDDEN = re.compile(r"%7BAUCTION_|\{AUCTION_[A-Z_]+%7D", re.IGNORECASE)
_OURS = re.compile(r"\$\{(?!AUCTION_)\w+\}")
_DOMAIN = re.compile(r"[\w-]+(\.[\w-]+)+")
USD_ONLY: Mapping[str, float] = {"USD": 1.0}
MAX_ANSWER_BYTES = 256 * 1024
REQUIRED = ("id", "price", "crid", "adm", "adomain")
NOTICES = ("nurl", "burl", "lurl")


def violations(
    request: dict[str, Any],
    status: int,
    body: bytes,
    rates: Mapping[str, float] = USD_ONLY,
    elapsed_ms: float = 0.0,
) -> list[str]:
    """What is wrong with the answer to a valid request; empty when an exchange would take it.

    204 without a body is a valid no-bid, 200 needs a valid response, everything else is an error. rates: US dollars
    for one unit of a currency, to compare floors. elapsed_ms: how long the answer took.
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
    wanted = request.get("id")
    found = (
        [] if answer.get("id") == (wanted if isinstance(wanted, str) else str(wanted)) else ["id is not the request's"]
    )
    seats = answer.get("seatbid") or []
    if seats and answer.get("cur", "USD") not in (texts(request.get("cur")) or ["USD"]):
        found.append(f"cur {answer.get('cur', 'USD')} was not offered")
    if len(body) > MAX_ANSWER_BYTES:
        found.append(f"answer of {len(body)} bytes")
    tmax = number(request.get("tmax"))
    if seats and tmax is not None and tmax > 0 and elapsed_ms > tmax:
        found.append(f"answered after {elapsed_ms:.0f} ms where tmax is {tmax:.0f}")
    # Some exchanges send numbers for ids; a bid names them as text.
    imps = {str(imp.get("id")): imp for imp in objects(request.get("imp"))}
    bids: list[tuple[Raw, Raw]] = []
    for seat in seats:
        name = seat.get("seat")
        if texts(request.get("wseat")) and name not in texts(request.get("wseat")):
            found.append(f"seat {name} is not in wseat")
        if name in texts(request.get("bseat")):
            found.append(f"seat {name} is in bseat")
        if not seat.get("bid"):
            found.append("seatbid without bids")
        for bid in seat.get("bid") or []:
            imp = imps.get(bid.get("impid"))
            if imp is None:
                found.append(f"impid {bid.get('impid')} is not in the request")
                continue
            bids.append((imp, bid))
            rate = rates.get(answer.get("cur", "USD"))
            found += _sound(bid) + _money(imp, bid, rate, rates) + _deal(imp, bid, name, rate, rates)
            found += misfits(imp, bid) + _blocks(request, bid) + _transparency(request, bid)
    return found + _together(bids)


def _sound(bid: Raw) -> list[str]:
    """Required fields, and URLs whose macros an exchange will find."""
    found = [f"bid without {name}" for name in REQUIRED if not bid.get(name)]
    found += [f"{name} is no address" for name in NOTICES if not str(bid.get(name, "http")).startswith("http")]
    found += [f"{name} hides its macros" for name in (*NOTICES, "adm") if _HIDDEN.search(str(bid.get(name, "")))]
    found += [f"adomain {name} is no domain" for name in texts(bid.get("adomain")) if not _DOMAIN.fullmatch(name)]
    if _OURS.search(str(bid.get("adm", ""))):
        found.append("adm with a macro that no exchange replaces")
    if len(str(bid.get("crid", "")).encode()) > 128:
        found.append("crid of more than 128 bytes")
    return found


def floor_of(imp: Raw, bid: Raw) -> tuple[float, str]:
    """(least CPM, its currency): the deal's guidance, else the media's, else the imp's (implementation guide, 7.11)."""
    currency = str(imp.get("bidfloorcur") or "USD")
    deal = next((deal for deal in _deals(imp) if str(deal.get("id")) == bid.get("dealid")), None)
    media: Raw = {}
    if deal is not None and bid.get("dealid"):
        currency, media = str(deal.get("bidfloorcur") or "USD"), deal
        fallback = number(deal.get("bidfloor"))
    else:
        media = dict_of(imp.get({2: "video", 3: "audio"}.get(media_of(imp, bid), "")))
        fallback = number(imp.get("bidfloor"))
    length = number(bid.get("dur"))
    if length is not None:
        per_second = number(media.get("mincpmpersec"))
        if per_second:
            return per_second * length, currency
        ranges = [
            number(part.get("bidfloor")) or 0.0
            for part in objects(media.get("durfloors"))
            if (number(part.get("mindur")) or 0) <= length <= (number(part.get("maxdur")) or float("inf"))
        ]
        if ranges:
            return max(ranges), currency
    return fallback or 0.0, currency


def _money(imp: Raw, bid: Raw, rate: float | None, rates: Mapping[str, float]) -> list[str]:
    price = bid.get("price")
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 < price < float("inf"):
        return [f"price {price!r}"]
    floor, currency = floor_of(imp, bid)
    if floor <= 0:
        return []
    theirs = rates.get(currency)
    if theirs is None or rate is None:
        return [f"a floor in {currency} that cannot be compared"]
    return [f"price {price} below the floor {floor} {currency}"] if price * rate < floor * theirs * (1 - 1e-9) else []


def _deals(imp: Raw) -> list[dict[str, Any]]:
    return objects(dict_of(imp.get("pmp")).get("deals"))


def _deal(imp: Raw, bid: Raw, seat: Any, rate: float | None, rates: Mapping[str, float]) -> list[str]:
    private = flag(dict_of(imp.get("pmp")).get("private_auction"))
    name = bid.get("dealid")
    if not name:
        return ["open bid in a private auction"] if private else []
    deal = next((deal for deal in _deals(imp) if str(deal.get("id")) == name), None)
    if deal is None:
        return [f"deal {name} was not offered"]
    found = []
    if texts(deal.get("wseat")) and seat not in texts(deal.get("wseat")):
        found.append(f"seat {seat} is not in the deal's wseat")
    allowed = {domain.lower() for domain in texts(deal.get("wadomain"))}
    if allowed and not all(_below(domain, allowed) for domain in texts(bid.get("adomain"))):
        found.append("advertiser is not in the deal's wadomain")
    theirs, price = rates.get(str(deal.get("bidfloorcur") or "USD")), number(bid.get("price"))
    fixed, _ = floor_of(imp, bid)
    if number(deal.get("at")) != 3 or not theirs or not rate or price is None:
        return found
    if abs(price * rate - fixed * theirs) > 1e-6 * (1 + rate):  # a micro of each currency
        found.append(f"price {price} is not the deal's fixed price {fixed}")
    return found


def _below(domain: str, names: set[str]) -> bool:
    """Whether a domain is one of `names` or a subdomain of one.

    >>> _below("shop.acme.example", {"acme.example"}), _below("notacme.example", {"acme.example"})
    (True, False)
    """
    return any(domain.lower() == name or domain.lower().endswith("." + name) for name in names)


def _blocks(request: dict[str, Any], bid: Raw) -> list[str]:
    """Does the bid break a publisher's restriction: advertisers, categories, apps, languages."""
    blocked = domains(request.get("badv"))
    found = [f"advertiser {domain} is blocked" for domain in texts(bid.get("adomain")) if _below(domain, blocked)]
    cattax = number(request.get("cattax")) or 1
    categories, allowed = ({code.upper() for code in texts(request.get(name))} for name in ("bcat", "acat"))
    if (categories or allowed) and cattax != (number(bid.get("cattax")) or 1):
        found.append(f"cattax {bid.get('cattax', 1)} cannot be compared with the request's {cattax:.0f}")
    for category in map(str.upper, texts(bid.get("cat"))):
        if category in categories or category.partition("-")[0] in categories:
            found.append(f"category {category} is blocked")
        if allowed and category not in allowed and category.partition("-")[0] not in allowed:
            found.append(f"category {category} is not in acat")
    if bid.get("bundle") and bid["bundle"] in texts(request.get("bapp")):
        found.append(f"app {bid['bundle']} is blocked")
    language = str(first(bid.get("language"), bid.get("langb")) or "").lower()
    lists = (texts(request.get("wlang")), texts(request.get("wlangb")))
    found += [f"language {language or 'unknown'} is not wanted" for one in lists if one and not spoken(language, one)]
    return found


def _transparency(request: dict[str, Any], bid: Raw) -> list[str]:
    """The Digital Services Act: a required notice is there, and shown by the publisher or by the ad, not by both."""
    asked = dict_of(dict_of(dict_of(request.get("regs")).get("ext")).get("dsa"))
    told = dict_of(dict_of(bid.get("ext")).get("dsa"))
    if not told:
        return ["no ext.dsa where it is required"] if number(asked.get("dsarequired")) in (2, 3) else []
    found = [f"ext.dsa without {name}" for name in ("behalf", "paid") if not 0 < len(str(told.get(name) or "")) <= 100]
    by = (number(asked.get("pubrender")), number(told.get("adrender")))
    if by in ((0, 0), (0, None), (2, 1)):
        found.append(f"a notice of pubrender {asked.get('pubrender')} and adrender {told.get('adrender')}")
    return found


def spoken(language: str, wanted: Sequence[str]) -> bool:
    """Whether a language is one of a list, or a special form of one (RFC 4647, basic filtering); no words always fit.

    >>> spoken("en-us", ["en"]), spoken("en", ["en-US"]), spoken("xx", ["de"])
    (True, False, True)
    """
    return language == "xx" or any(f"{language}-".startswith(f"{name.lower()}-") for name in wanted)


def _together(bids: list[tuple[Raw, Raw]]) -> list[str]:
    """What only shows when all bids of an answer are seen: ids used twice, pods that are too full, ads of one pod that
    the seller would drop beside each other.
    """
    names = Counter(str(bid.get("id")) for _, bid in bids)
    found = [f"bid id {name} is used twice" for name, n in names.items() if n > 1]
    pods: dict[str, list[Raw]] = {}
    for imp, bid in bids:
        if number(dict_of(imp.get("video")).get("poddur")) or number(dict_of(imp.get("audio")).get("poddur")):
            pods.setdefault(str(imp.get("id")), []).append(bid)
            offered = dict_of(imp.get("video") or imp.get("audio"))
            room, most = number(offered.get("poddur")), number(offered.get("maxseq"))
            so_far = pods[str(imp.get("id"))]
            if most and len(so_far) > most:
                found.append(f"{len(so_far)} ads in a pod of {most:.0f}")
            if room and sum(number(one.get("dur")) or 0 for one in so_far) > room:
                found.append(f"a pod longer than {room:.0f} s")
        elif bid.get("slotinpod") is not None:
            found.append("slotinpod outside a dynamic pod")
    return found + _dropped(bids)


def _dropped(bids: list[tuple[Raw, Raw]]) -> list[str]:
    """Bids for one pod that `poddedupe` lets only one of through. Several for the same slot compete; they may."""
    seen: dict[tuple[str, str], str] = {}
    found = []
    for imp, bid in bids:
        offered = dict_of(imp.get({2: "video", 3: "audio"}.get(media_of(imp, bid), "")))
        dynamic = bool(number(offered.get("poddur")))
        pod = str(offered.get("podid") or (imp.get("id") if dynamic else ""))
        slot = str(bid.get("id") if dynamic else imp.get("id"))
        settings = numbers(offered.get("poddedupe"))
        marks = [f"adomain {domain}" for domain in texts(bid.get("adomain")) if 1 in settings]
        marks += [f"cat {code}" for code in texts(bid.get("cat")) if 2 in settings]
        marks += [f"crid {bid.get('crid')}"] if 3 in settings else []
        found += [f"{m} twice in pod {pod}" for m in marks if pod and seen.setdefault((pod, m), slot) != slot]
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
