"""Which field of a request forbids every ad of a portfolio on one impression: the referee's account of a no-bid.

It reads the request and the portfolio's TOML with its own eyes and imports nothing of the bidder. An ad stands for
one creative of one campaign; the field named is the one that stopped the ads that got furthest.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from loadtest.referee import floor_of, spoken
from loadtest.referee_media import image_mimes, longest, native_request, sizes
from loadtest.referee_read import Raw, dict_of, domains, first, flag, number, numbers, objects, texts

NAMES = ("banner", "video", "audio", "native")
DATA = {
    "sponsored": 1, "desc": 2, "rating": 3, "likes": 4, "downloads": 5, "price": 6, "saleprice": 7, "phone": 8,
    "address": 9, "desc2": 10, "displayurl": 11, "ctatext": 12,
}  # fmt: skip
INLINE = {2.0, 3.0, 7.0, 11.0, 13.0, 15.0}
KEEP = 0.999  # of a campaign's price must be above the floor


def forbids(request: Raw, imp: Raw, portfolio: Raw, rates: Mapping[str, float]) -> str | None:
    """The field that stops every ad, or None when some ad could have been bid. portfolio: the parsed TOML."""
    stopped: Counter[tuple[int, str]] = Counter()
    for campaign in objects(portfolio.get("campaign")):
        if dict_of(campaign.get("targeting")).get("tags") or dict_of(campaign.get("targeting")).get("audiences"):
            continue  # for known users only
        for creative in objects(campaign.get("creatives")):
            stop = next(_stops(request, imp, campaign, creative, rates), None)
            if stop is None:
                return None
            stopped[stop] += 1
    return max(stopped)[1] if stopped else "no campaign is open to everybody"


def _stops(
    request: Raw, imp: Raw, campaign: Raw, creative: Raw, rates: Mapping[str, float]
) -> Iterator[tuple[int, str]]:
    """(how far the ad got, field) of every field that stops it, in a fixed order."""
    checks = [*_request(request, campaign, creative, rates), *_imp(request, imp, campaign, creative, rates)]
    for far, (name, stops) in enumerate(checks):
        if stops:
            yield far, name


def _request(request: Raw, campaign: Raw, creative: Raw, rates: Mapping[str, float]) -> Iterator[tuple[str, bool]]:
    seat = campaign.get("seat", "tagbid")
    yield "cur", bool(texts(request.get("cur"))) and not set(texts(request.get("cur"))) & set(rates)
    tmax = number(request.get("tmax"))
    yield "tmax", tmax is not None and 0 < tmax <= 20
    for name in ("wseat", "bseat", "bcat", "acat", "badv", "bapp", "wlang"):
        raw = request.get(name)
        yield (
            f"{name} (unreadable)",
            isinstance(raw, dict | bool)
            or (isinstance(raw, list) and any(not isinstance(item, str | None) for item in raw)),
        )
    yield "regs (unreadable)", _unreadable_regs(request)
    yield "wseat", bool(texts(request.get("wseat"))) and seat not in texts(request.get("wseat"))
    yield "bseat", seat in texts(request.get("bseat"))
    blocked = domains(request.get("badv"))
    domain = str(campaign.get("adomain", "")).lower()
    yield "badv", any(domain == name or domain.endswith("." + name) for name in blocked)
    listed = bool(texts(request.get("bcat")) or texts(request.get("acat")))
    taxonomy = f"{number(request.get('cattax')) or 1:.0f}"
    own = (
        (creative.get("cat") or campaign.get("cat"))
        if taxonomy == "1"
        else dict_of(campaign.get("cat_in")).get(taxonomy)
    )
    cat = texts(own)
    yield "bcat" if taxonomy == "1" else "cattax", listed and not cat
    yield "bcat", any(_under(code, texts(request.get("bcat"))) for code in cat)
    yield "acat", bool(texts(request.get("acat"))) and not all(_under(code, texts(request.get("acat"))) for code in cat)
    languages = [name.lower() for name in texts(creative.get("language"))]
    for name in ("wlang", "wlangb"):
        wanted = texts(request.get(name))
        yield name, bool(wanted) and not (languages and all(spoken(language, wanted) for language in languages))
    dsa = dict_of(dict_of(dict_of(request.get("regs")).get("ext")).get("dsa"))
    behind = dict_of(campaign.get("dsa"))
    notice = (number(dsa.get("pubrender")), bool(behind.get("rendered")))
    required = number(dsa.get("dsarequired")) in (2, 3)
    yield "regs.ext.dsa", required and (not behind or notice in ((0, False), (2, True)))
    yield "bapp", bool(creative.get("bundle")) and creative.get("bundle") in texts(request.get("bapp"))
    targeting = dict_of(campaign.get("targeting"))
    page = dict_of(request.get("site")) or dict_of(request.get("app"))
    about = [*texts(page.get("pagecat")), *texts(page.get("sectioncat")), *texts(page.get("cat"))]
    yield "site.cat", bool(targeting.get("categories")) and not any(_under(c, targeting["categories"]) for c in about)
    for name in ("countries", "devices", "os", "domains", "apps", "keywords", "hours", "weekdays", "radius", "regions"):
        yield f"targeting by {name}", bool(targeting.get(name))
    yield "campaign is paused", campaign.get("status") == "paused"


def _unreadable_regs(request: Raw) -> bool:
    regs = request.get("regs")
    if regs not in (None, "", []) and not isinstance(regs, dict):
        return True
    told = dict_of(regs)
    return any(
        value not in (None, "", []) and number(value) is None and not isinstance(value, bool)
        for part in (told, dict_of(told.get("ext")))
        for value in (part.get("gdpr"), part.get("coppa"))
    )


def _under(code: str, listed: list[str]) -> bool:
    """Whether a category or its parent is in a list."""
    listed = [name.upper() for name in listed]
    return code.upper() in listed or code.upper().partition("-")[0] in listed


def _imp(
    request: Raw, imp: Raw, campaign: Raw, creative: Raw, rates: Mapping[str, float]
) -> Iterator[tuple[str, bool]]:
    name = next((kind for kind in NAMES[1:] if kind in creative), "banner")
    offered = [kind for kind in NAMES if isinstance(imp.get(kind), dict)]
    ids = Counter(str(one.get("id")) for one in objects(request.get("imp")))
    yield "imp.id", imp.get("id") in (None, "") or ids[str(imp.get("id"))] > 1 or isinstance(imp.get("id"), dict | list)
    yield f"imp offers {' or '.join(offered) or 'nothing'} only", name not in offered
    part = dict_of(imp.get(name))
    if name == "banner":
        yield from _banner(part, creative)
    elif name == "native":
        yield from _native(part, dict_of(creative.get("native")))
    else:
        yield from _clip(name, part, dict_of(creative.get(name)))
    attr = numbers(creative.get("attr")) | numbers(campaign.get("attr"))
    yield f"{name}.battr", bool(attr & numbers(part.get("battr")))
    targeting = dict_of(campaign.get("targeting"))
    yield "video.plcmt", name == "video" and bool(targeting.get("placements"))
    yield f"{name}.api", bool(numbers(creative.get("apis")) - numbers(part.get("api")))
    yield "imp.secure", flag(imp.get("secure")) and "http://" in str(creative)
    wish = targeting.get("rewarded", "any")
    before = dict_of(dict_of(imp.get("ext")).get("prebid")).get("is_rewarded_inventory")
    yield "imp.rwdd", wish == ("never" if flag(first(imp.get("rwdd"), before)) else "only")
    told = [(str(one.get("type")), number(one.get("value")) or 0.0) for one in objects(imp.get("metric"))]
    for kind, least in dict_of(targeting.get("metrics")).items():
        yield "imp.metric", min([value for name, value in told if name == kind], default=-1.0) < least
    pmp = imp.get("pmp")
    yield "imp.pmp (unreadable)", pmp not in (None, "", []) and not isinstance(pmp, dict)
    ours = set(texts(campaign.get("deals")))
    deals = [deal for deal in objects(dict_of(pmp).get("deals")) if deal.get("id") in ours]
    private = flag(dict_of(pmp).get("private_auction"))
    yield "imp.pmp", private if not ours else not deals
    seat = campaign.get("seat", "tagbid")
    if ours:
        deals = [deal for deal in deals if not texts(deal.get("wseat")) or seat in texts(deal.get("wseat"))]
        yield "deal.wseat", not deals
    yield from _floor(imp, name, campaign, creative, [deal["id"] for deal in deals], rates)


def _floor(
    imp: Raw, name: str, campaign: Raw, creative: Raw, deals: list[str], rates: Mapping[str, float]
) -> Iterator[tuple[str, bool]]:
    raw = imp.get("bidfloor")
    yield "imp.bidfloor (unreadable)", raw not in (None, "", []) and (number(raw) is None or isinstance(raw, bool))
    worth = campaign.get("price_micros", 0) / 1e6 * (1 if campaign.get("goal") == "cpm" else 0)
    length = dict_of(creative.get(name)).get("duration_s")
    for deal in deals or [""]:
        bid = {"mtype": NAMES.index(name) + 1, "dur": length, "dealid": deal}
        floor, currency = floor_of(imp, bid)
        if floor > 0 and currency not in rates:
            yield "imp.bidfloorcur", True
        yield "imp.bidfloor", floor * rates.get(currency, 1.0) > worth * KEEP


def _banner(part: Raw, creative: Raw) -> Iterator[tuple[str, bool]]:
    yield "banner.w, h and format", (number(creative.get("w")), number(creative.get("h"))) not in sizes(part)
    kinds = {1.0, 3.0, 4.0} if creative.get("html") else {2.0}
    yield "banner.btype", bool(kinds & numbers(part.get("btype")))
    wanted = {mime.lower() for mime in texts(part.get("mimes")) if mime.startswith("image/")}
    own = image_mimes(str(creative.get("image_url", "")))
    yield "banner.mimes", bool(wanted and own) and not own & wanted


def _clip(name: str, part: Raw, clip: Raw) -> Iterator[tuple[str, bool]]:
    wanted = {mime.lower() for mime in texts(part.get("mimes"))}
    files = [file for file in objects(clip.get("files")) if file.get("mime") in wanted]
    tagged = bool(clip.get("tag_url")) and bool(wanted & set(texts(clip.get("mimes"))))
    yield f"{name}.mimes", not files and not tagged
    delivery = numbers(part.get("delivery"))
    yield f"{name}.delivery", bool(delivery) and 2 not in delivery
    least, most = number(part.get("minbitrate")) or 0, number(part.get("maxbitrate")) or float("inf")
    files = [file for file in files if not file.get("kbps") or least <= file["kbps"] <= most]
    yield f"{name}.minbitrate, maxbitrate", not files and not tagged
    accepted = numbers(part.get("protocols"))
    ours = INLINE if name == "video" else INLINE | {9.0}
    yield f"{name}.protocols", bool(accepted) and not accepted & ours
    length = clip["duration_s"]
    exact = numbers(part.get("rqddurs"))
    yield f"{name}.rqddurs", bool(exact) and length not in exact
    shortest, last = number(part.get("minduration")) or 0, longest(part)
    yield f"{name}.minduration", not exact and length < shortest
    yield f"{name}.maxduration", not exact and last is not None and length > last
    room = number(part.get("poddur"))
    yield f"{name}.poddur", room is not None and length > room
    yield f"{name}.linearity", number(part.get("linearity")) == 2
    if name == "video":
        w, h = number(part.get("w")) or float("inf"), number(part.get("h")) or float("inf")
        yield "video.w, h", not any(file.get("w", 0) <= w and file.get("h", 0) <= h for file in files)


def _native(part: Raw, ad: Raw) -> Iterator[tuple[str, bool]]:
    request, _ = native_request(part)
    assets = objects(request.get("assets"))
    names = [str(asset.get("id")) for asset in assets]
    yield "native.request", not assets
    yield "native.request.assets.id", "None" in names or len(set(names)) < len(names)
    fits = [_asset(asset, ad) for asset in assets]
    missing = [asset for asset, there in zip(assets, fits, strict=True) if flag(asset.get("required")) and not there]
    yield f"native.request.assets {missing[:1]}", bool(missing)
    yield "native.request.assets", bool(assets) and not any(fits)


def _asset(asset: Raw, ad: Raw) -> bool:
    """Whether a native ad has something for an asset."""
    if isinstance(asset.get("title"), dict):
        return _shorter(ad.get("titles") or [], number(asset["title"].get("len")))
    if isinstance(asset.get("data"), dict):
        name = next((name for name, kind in DATA.items() if kind == number(asset["data"].get("type"))), "")
        return _shorter(dict_of(ad.get("data")).get(name) or [], number(asset["data"].get("len")))
    if isinstance(asset.get("img"), dict):
        kind = number(asset["img"].get("type"))
        pictures = (
            objects(ad.get("icons"))
            if kind in (1, 2)
            else objects(ad.get("images"))
            if kind == 3
            else (objects(ad.get("icons")) + objects(ad.get("images")))
        )
        return any(_picture(asset["img"], picture) for picture in pictures)
    return False


def _shorter(found: list[str], room: float | None) -> bool:
    return any(not room or len(text) <= room for text in found)


def _picture(wanted: Raw, picture: Raw) -> bool:
    for side in ("w", "h"):
        exact, least = number(wanted.get(side)), number(wanted.get(side + "min"))
        if (least and picture[side] < least) or (exact and not least and picture[side] != exact):
            return False
    mimes = {mime.lower() for mime in texts(wanted.get("mimes"))}
    return not mimes or bool(image_mimes(picture["url"]) & mimes)
