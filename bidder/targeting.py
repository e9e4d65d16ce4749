"""Which ads may be shown: bit sets over the ads of a snapshot, one mask per rule and value.

An ad is one creative of one campaign and bit i of every mask. A rule turns what a request says into the mask of
the ads that pass it; ads that do not have the rule are in every mask it returns. The answer is the AND of the rules,
cheap and selective ones first, and stops at the first that leaves nothing: that rule is the reason. `explain`
asks the very same rules without stopping. Rules that no campaign of a portfolio uses are not asked
(`bidder.indexing`). Measured idea: one AND of 1,000-bit integers costs 40 ns, a Python loop over campaigns 400 us.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import floor

import msgspec

from bidder.campaigns import FrequencyCap
from bidder.contact import over_cap
from bidder.fitting import RULES, Fitting
from bidder.geo import km_between
from bidder.openrtb import Deal, Imp, Reason
from bidder.topics import Topics
from bidder.view import View, host, keywords
from dmp.realtime import current_tags

MEDIA_RULES = (*RULES, Reason.CREATIVE_TYPE)


class AnyOf(msgspec.Struct, frozen=True):
    """free: ads without the rule. masks: value -> ads that accept it."""

    free: int
    masks: dict[str, int]


class Circle(msgspec.Struct, frozen=True):
    """Ads that accept a place within `km` of a point."""

    lat: float
    lon: float
    km: float
    mask: int


class Area(msgspec.Struct, frozen=True):
    """Ads that accept a place inside a polygon; corners: (lat, lon)."""

    corners: tuple[tuple[float, float], ...]
    mask: int


class Labels(msgspec.Struct, frozen=True):
    """Ads by the categories they advertise, in one taxonomy. owners: code -> ads under it or under a child of it, "" ->
    ads without a label; exact: code -> ads with exactly it.
    """

    owners: dict[str, int]
    exact: dict[str, int]


class Index(msgspec.Struct, frozen=True):
    """Every mask of a snapshot; made by `bidder.indexing.build`.

    rules, imp_rules: the rules in use, in the order they are asked; imp_rules are those of an imp that offers nothing
    but a banner, banner_rules those of them about the banner, shared_rules the others. changes, running: from
    changes[i] µs on, running[i] are the ads within their dates. local, by_utc: ads by hour of the week of the user's
    clock (168), by UTC quarter hour of the week where that clock is unknown (672). anonymous: ads that need no user.
    tags: tag id -> mask by score (101); wanted_tags: those in use. caps: contact scope -> (caps, their least limit,
    ads). uncapped: ads that may be shown uncounted. hot_free: ads that do not ask for hot topics; topics: those, which
    change under a snapshot. open: ads that need no deal. labels: by taxonomy. banner_mimes: by what an image's address
    says it is. apis: framework -> ads that need it.
    """

    everything: int
    rules: "tuple[tuple[Reason, Callable[[Index, View], int]], ...]"
    imp_rules: "tuple[tuple[Reason, Callable[[Index, View, Imp], int]], ...]"
    banner_rules: "tuple[tuple[Reason, Callable[[Index, View, Imp], int]], ...]"
    shared_rules: "tuple[tuple[Reason, Callable[[Index, View, Imp], int]], ...]"
    changes: tuple[int, ...]
    running: tuple[int, ...]
    seats: dict[str, int]
    at: dict[int, int]
    devices: dict[int, int]
    devices_free: int
    os: AnyOf
    local: tuple[int, ...]
    by_utc: tuple[int, ...]
    geo_free: int
    countries: dict[str, int]
    regions: dict[str, int]
    cities: dict[str, int]
    circles: dict[tuple[int, int], tuple[Circle, ...]]
    polygons: dict[tuple[int, int], tuple[Area, ...]]
    not_countries: dict[str, int]
    not_regions: dict[str, int]
    inventory_free: int
    domains: dict[str, int]
    apps: dict[str, int]
    not_domains: dict[str, int]
    not_apps: dict[str, int]
    categories: AnyOf
    not_categories: dict[str, int]
    keywords: AnyOf
    not_keywords: dict[str, int]
    hot_free: int
    topics: Topics
    segments: AnyOf
    not_segments: dict[str, int]
    audits: dict[str, int]
    labels: dict[int, Labels]
    advertisers: dict[str, int]
    bundles: dict[str, int]
    languages: dict[str, int]
    anonymous: int
    tags_free: int
    tags: dict[int, tuple[int, ...]]
    not_tags: dict[int, tuple[int, ...]]
    wanted_tags: frozenset[int]
    audiences_free: int
    audiences: dict[int, int]
    not_audiences: dict[int, int]
    caps: dict[int, tuple[tuple[FrequencyCap, ...], int, int]]
    uncapped: int
    sizes: dict[tuple[int | None, int | None], int]
    secure: int
    attributes: dict[int, int]
    types: dict[int, int]
    banners: int
    banner_mimes: AnyOf
    apis: dict[int, int]
    fitting: Fitting
    open: int
    deals: dict[str, int]


def running(index: Index, seen: View) -> int:
    return index.running[bisect_right(index.changes, seen.now_us) - 1]


def seat(index: Index, seen: View) -> int:
    """`wseat` and `bseat` filter the seat we would answer under."""
    allowed, blocked = seen.request.wseat, seen.request.bseat
    mask = index.everything if not allowed else 0
    for name in allowed or ():
        mask |= index.seats.get(name, 0)
    for name in blocked or ():
        mask &= ~index.seats.get(name, 0)
    return mask


def auction_type(index: Index, seen: View) -> int:
    return index.at[seen.at]


def device(index: Index, seen: View) -> int:
    return index.devices.get(seen.device_type, index.devices_free)


def system(index: Index, seen: View) -> int:
    return index.os.free | index.os.masks.get(seen.os, 0)


def schedule(index: Index, seen: View) -> int:
    return index.local[seen.local_slot] if seen.local_slot >= 0 else index.by_utc[seen.utc_slot]


def geo(index: Index, seen: View) -> int:
    mask = index.geo_free | index.countries.get(seen.country, 0)
    if index.regions:
        mask |= index.regions.get(seen.region, 0)
    if index.cities:
        mask |= index.cities.get(seen.city, 0)
    if index.circles and seen.lat is not None and seen.lon is not None:
        for circle in index.circles.get(cell(seen.lat, seen.lon), ()):
            if km_between(seen.lat, seen.lon, circle.lat, circle.lon) <= circle.km:
                mask |= circle.mask
    if index.polygons and seen.lat is not None and seen.lon is not None:
        for area in index.polygons.get(cell(seen.lat, seen.lon), ()):
            if inside(seen.lat, seen.lon, area.corners):
                mask |= area.mask
    return mask & ~(index.not_countries.get(seen.country, 0) | index.not_regions.get(seen.region, 0))


def cell(lat: float, lon: float) -> tuple[int, int]:
    """The one-degree cell of a point; 180 degrees east is 180 degrees west."""
    return floor(lat), (floor(lon) + 180) % 360 - 180


def inside(lat: float, lon: float, corners: tuple[tuple[float, float], ...]) -> bool:
    """Whether a point lies in a polygon, by the edges a line from it to the east crosses.

    >>> inside(1, 1, ((0, 0), (0, 3), (3, 3), (3, 0))), inside(1, 4, ((0, 0), (0, 3), (3, 3), (3, 0)))
    (True, False)
    """
    odd = False
    south, west = corners[-1]
    for north, east in corners:
        if (north > lat) != (south > lat) and lon < west + (lat - south) / (north - south) * (east - west):
            odd = not odd
        south, west = north, east
    return odd


def audit(index: Index, seen: View) -> int:
    """Creatives this exchange has not refused; of an exchange that approves creatives, those it has approved."""
    return index.audits.get(seen.exchange, index.everything)


def segment(index: Index, seen: View) -> int:
    """`user.data`: segments of a provider, known by its id or its name. Gone when privacy does not allow them."""
    user = seen.request.user
    mask, blocked = index.segments.free, 0
    for data in (user.data or ()) if user is not None else ():
        for part in data.segment or ():
            for provider in {data.id, data.name}:
                if provider and part.id:
                    mask |= index.segments.masks.get(f"{provider}/{part.id}", 0)
                    blocked |= index.not_segments.get(f"{provider}/{part.id}", 0)
    return mask & ~blocked


def inventory(index: Index, seen: View) -> int:
    """Domain lists cover subdomains; an unknown domain or app is on no list."""
    mask, blocked = index.inventory_free, 0
    domain = seen.domain
    while domain:
        mask |= index.domains.get(domain, 0)
        blocked |= index.not_domains.get(domain, 0)
        domain = domain.partition(".")[2]
    if seen.bundle:
        mask |= index.apps.get(seen.bundle, 0)
        blocked |= index.not_apps.get(seen.bundle, 0)
    return mask & ~blocked


def category(index: Index, seen: View) -> int:
    """Page categories against campaign rules; a rule for a parent holds for its children."""
    wanted, unwanted = index.categories.masks, index.not_categories
    mask, blocked = index.categories.free, 0
    for code in seen.categories:
        mask |= wanted.get(code, 0)
        blocked |= unwanted.get(code, 0)
        parent, dash, _ = code.partition("-")
        if dash:
            mask |= wanted.get(parent, 0)
            blocked |= unwanted.get(parent, 0)
    return mask & ~blocked


def keyword(index: Index, seen: View) -> int:
    mask, blocked = index.keywords.free, 0
    for word in keywords(seen.request):
        mask |= index.keywords.masks.get(word, 0)
        blocked |= index.not_keywords.get(word, 0)
    return mask & ~blocked


def hot(index: Index, seen: View) -> int:
    """All ads on a page about something hot, else those that do not ask for that."""
    topics = index.topics
    if not topics.of:
        return index.hot_free
    categories = {part for code in seen.categories for part in (code, code.partition("-")[0])}
    found = topics.meet(categories, seen.now_us) or topics.meet(keywords(seen.request), seen.now_us)
    return index.everything if found else index.hot_free


def blocked_category(index: Index, seen: View) -> int:
    """`bcat` and `acat` against what is advertised; blocking a parent blocks its children.

    Codes are compared within one taxonomy (`cattax`, 1 when absent). An ad without labels in that taxonomy passes
    neither list, because nobody can tell what it is about.
    """
    request = seen.request
    if not request.bcat and not request.acat:
        return index.everything
    labels = index.labels.get(request.cattax or 1)
    if labels is None:
        return 0
    blocked = labels.owners.get("", 0)
    if request.bcat:
        for code in labels.owners.keys() & codes(request.bcat):
            blocked |= labels.owners[code]
    if request.acat:
        allowed = set(codes(request.acat))
        for code, mask in labels.exact.items():
            if code not in allowed and code.partition("-")[0] not in allowed:
                blocked |= mask
    return index.everything & ~blocked


def codes(listed: Sequence[str]) -> list[str]:
    """Categories of a list in the spelling of the index: many at once, because such lists are long.

    >>> codes(["IAB7-39", " iab20"])
    ['IAB7-39', 'IAB20']
    """
    return "\n".join(listed).upper().replace(" ", "").split("\n")


def blocked_advertiser(index: Index, seen: View) -> int:
    """`badv` against adomain and the domains above it, whatever the case."""
    if not seen.request.badv:
        return index.everything
    blocked = 0
    for domain in index.advertisers.keys() & domains(seen.request.badv):
        blocked |= index.advertisers[domain]
    return index.everything & ~blocked


def domains(listed: Sequence[str]) -> list[str]:
    """Domains of a block list in lower case; some are written as addresses, and then their domain is meant.

    >>> domains(["Acme.example", "https://www.shop.example/shoes/*"])
    ['acme.example', 'shop.example']
    """
    text = "\n".join(listed).lower()
    found = text.split("\n")
    if any(mark in text for mark in ("/", "www.", " ")):  # seldom, and a look at all of them costs less than at each
        found = [host(name.strip()).removeprefix("www.") for name in found]
    return found


def blocked_app(index: Index, seen: View) -> int:
    blocked = 0
    for bundle in seen.request.bapp or ():
        blocked |= index.bundles.get(bundle, 0)
    return index.everything & ~blocked


def language(index: Index, seen: View) -> int:
    """With `wlang` or `wlangb`, only creatives known to be in a listed language, or in none ("xx")."""
    wanted = seen.request.wlang or seen.request.wlangb
    if not wanted:
        return index.everything
    mask = index.languages.get("xx", 0)
    for name in wanted:
        mask |= index.languages.get(name.lower(), 0) | index.languages.get(name.lower().partition("-")[0], 0)
    return mask


def known_user(index: Index, seen: View) -> int:
    return index.anonymous if seen.user is None else index.everything


def tags(index: Index, seen: View) -> int:
    """Any wanted tag at its score or above, no unwanted one. Without a user `known_user` has answered."""
    if seen.user is None:
        return index.everything
    held: Mapping[int, int] = seen.user.tags
    if index.wanted_tags:
        held = current_tags(held, seen.user.realtime, seen.now_us, index.wanted_tags)
    mask, blocked = index.tags_free, 0
    for tag in index.tags.keys() & held.keys():
        mask |= index.tags[tag][held[tag]]
    for tag in index.not_tags.keys() & held.keys():
        blocked |= index.not_tags[tag][held[tag]]
    return mask & ~blocked


def audience(index: Index, seen: View) -> int:
    if seen.user is None:
        return index.everything
    mask, blocked = index.audiences_free, 0
    for number in seen.user.audiences:
        mask |= index.audiences.get(number, 0)
        blocked |= index.not_audiences.get(number, 0)
    return mask & ~blocked


def frequency_cap(index: Index, seen: View) -> int:
    """Looks only at campaigns the user has met: a record has at most 64 entries."""
    if seen.user is None:
        return index.everything
    if not seen.counted:
        return index.uncapped
    if not seen.user.contacts:
        return index.everything
    contacts = seen.user.contacts
    met: dict[int, int] = {}
    for contact in contacts:
        if contact.scope in index.caps:
            met[contact.scope] = met.get(contact.scope, 0) + contact.count
    capped = 0
    for scope, shown in met.items():
        caps, least, ads = index.caps[scope]
        # Hardly anyone was shown a campaign so often, in whatever time, that a window has to be looked at.
        if shown >= least and over_cap(caps, [contact for contact in contacts if contact.scope == scope], seen.now_us):
            capped |= ads
    return index.everything & ~capped


def deal(index: Index, seen: View, imp: Imp) -> int:
    """Open auction unless private; and the ads of each offered deal whose own lists let them in."""
    pmp = imp.pmp
    if pmp is None:
        return index.open
    mask = 0 if pmp.private_auction else index.open
    for offered in pmp.deals or ():
        mask |= deal_ads(index, offered)
    return mask


def deal_ads(index: Index, offered: Deal) -> int:
    """The ads that may answer one deal: their campaign names it, `wseat` and `wadomain` let them."""
    ads = index.deals.get(offered.id, 0)
    if ads and offered.wseat:
        seats = 0
        for name in offered.wseat:
            seats |= index.seats.get(name, 0)
        ads &= seats
    if ads and offered.wadomain:
        domains = 0
        for name in offered.wadomain:
            domains |= index.advertisers.get(name.lower(), 0)
        ads &= domains
    return ads


def size(index: Index, seen: View, imp: Imp) -> int:
    banner = imp.banner
    if banner is None:
        return 0
    mask = index.sizes.get((banner.w, banner.h), 0)
    for permitted in banner.format or ():
        mask |= index.sizes.get((permitted.w, permitted.h), 0)
    return mask


def secure(index: Index, seen: View, imp: Imp) -> int:
    return index.secure if imp.secure else index.everything


def attribute(index: Index, seen: View, imp: Imp) -> int:
    blocked = 0
    for number in (imp.banner.battr or ()) if imp.banner is not None else ():
        blocked |= index.attributes.get(number, 0)
    return index.everything & ~blocked


def creative_type(index: Index, seen: View, imp: Imp) -> int:
    """`btype`: 2 an image with a link, 1, 3 and 4 what HTML of an advertiser may hold."""
    blocked = 0
    for number in (imp.banner.btype or ()) if imp.banner is not None else ():
        blocked |= index.types.get(number, 0)
    return index.everything & ~blocked


def mime(index: Index, seen: View, imp: Imp) -> int:
    """`banner.mimes` names what images may be; HTML and images of no known type are not held against it."""
    wanted = imp.banner.mimes if imp.banner is not None else None
    if not wanted or not any(name.startswith("image/") for name in wanted):
        return index.everything
    mask = index.banner_mimes.free
    for name in wanted:
        mask |= index.banner_mimes.masks.get(name.lower(), 0)
    return mask


def api(index: Index, seen: View, imp: Imp) -> int:
    """Only the frameworks a banner lists are there; none when it lists none."""
    supported = (imp.banner.api or ()) if imp.banner is not None else ()
    missing = 0
    for framework, ads in index.apis.items():
        if framework not in supported:
            missing |= ads
    return index.everything & ~missing


def media(index: Index, seen: View, imp: Imp) -> list[tuple[Reason, int]]:
    """The rules of an imp that offers more or other than a banner: an ad need only fit what is there for its kind."""
    parts: list[tuple[int, dict[Reason, int]]] = []
    if imp.banner is not None:
        parts.append((index.banners, {reason: rule(index, seen, imp) for reason, rule in index.banner_rules}))
    fitting = index.fitting
    if imp.video is not None:
        parts.append((fitting.video_ads, fitting.video(imp.video)))
    if imp.audio is not None:
        parts.append((fitting.audio_ads, fitting.audio(imp.audio)))
    if imp.native is not None:
        parts.append((fitting.native_ads, fitting.native(imp.native)))
    offered = 0
    for ads, _ in parts:
        offered |= ads
    found = [(Reason.NO_MEDIA_FIT, offered)]
    for reason in MEDIA_RULES:
        mask = 0
        for ads, masks in parts:
            mask |= ads & masks.get(reason, ads)
        found.append((reason, mask))
    return found


def eligible(index: Index, seen: View) -> tuple[int, Reason]:
    """(ads that pass every request-wide rule, the rule that left nothing or BID)."""
    mask = index.everything
    for reason, rule in index.rules:
        mask &= rule(index, seen)
        if not mask:
            return 0, reason
    return mask, Reason.BID


def eligible_for(index: Index, seen: View, imp: Imp, mask: int) -> tuple[int, Reason]:
    """(ads of `mask` that pass every rule of one imp, the rule that left nothing or BID)."""
    rules = index.imp_rules
    if imp.video is not None or imp.audio is not None or imp.native is not None:
        for reason, passing in media(index, seen, imp):
            mask &= passing
            if not mask:
                return 0, reason
        rules = index.shared_rules
    for reason, rule in rules:
        mask &= rule(index, seen, imp)
        if not mask:
            return 0, reason
    return mask, Reason.BID


def answers(index: Index, seen: View, imp: Imp) -> list[tuple[Reason, int]]:
    """Every rule's mask for one imp, none skipped: what `explain` prints."""
    return [
        *((reason, rule(index, seen)) for reason, rule in index.rules),
        *media(index, seen, imp),
        *((reason, rule(index, seen, imp)) for reason, rule in index.shared_rules),
    ]


def members(mask: int, limit: int) -> list[int]:
    """Positions of the lowest `limit` set bits, ascending.

    Finding the ones in the number's text has no bad case: 0.7 us for 5 of 100, 2.7 for 19 of 1,000, 5 for the first
    50 of 254 in 1,000, where a byte table took 0.4, 3.0, 2.5 (but 24 at 10,000 bits) and `m & -m` 0.5, 2.4, 6.0.

    >>> members(0b1011_0000_0001, 3)
    [0, 8, 9]
    """
    text = bin(mask)[:1:-1]
    find = text.find
    found: list[int] = []
    at = find("1")
    while at >= 0 and len(found) < limit:
        found.append(at)
        at = find("1", at + 1)
    return found
