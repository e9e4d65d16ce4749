"""The bit sets against the plainest evaluation of the same rules, campaign by campaign."""

import datetime
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import blocking, targeting
from bidder.campaigns import Campaign
from bidder.creatives import Creative, is_secure
from bidder.geo import km_between
from bidder.indexing import DEVICES
from bidder.openrtb import Imp, Request
from bidder.view import View, view
from bidder.wording import keywords
from dmp import keys
from dmp.schema import Contact, User
from dmp.taxonomy import tag_id
from dmp.trends import stated
from models.lookups import ones
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request, a_snapshot

HOUR_US = 3_600_000_000


def under(domain: str, names: tuple[str, ...]) -> bool:
    return any(domain == name.lower() or domain.endswith("." + name.lower()) for name in names)


def covered(code: str, rules: Any) -> bool:
    return any(code == rule or code.startswith(rule + "-") for rule in rules)


def naive(campaign: Campaign, creative: Creative, seen: View, imp: Imp) -> bool:
    """Every rule of one campaign and creative, in words."""
    t, request, user = campaign.targeting, seen.request, seen.user
    banner = imp.banner
    if banner is None or campaign.status != "active":
        return False
    now = datetime.datetime.fromtimestamp(seen.now_us / 1e6, datetime.UTC)
    if (campaign.start and now < campaign.start) or (campaign.end and now >= campaign.end):
        return False
    if (request.wseat and campaign.seat not in request.wseat) or campaign.seat in (request.bseat or ()):
        return False
    if t.at and seen.at not in t.at:
        return False
    if t.devices and not any(seen.reader.device_type in DEVICES[name] for name in t.devices):
        return False
    if t.os and seen.reader.os not in [name.lower() for name in t.os]:
        return False
    offset = request.device.geo.utcoffset if request.device and request.device.geo else None
    local = now + datetime.timedelta(minutes=t.utc_offset_min if offset is None else offset)
    if (t.hours and local.hour not in t.hours) or (t.weekdays and local.weekday() not in t.weekdays):
        return False
    if t.countries or t.regions or t.cities or t.radius:
        near = (
            seen.lat is not None
            and seen.lon is not None
            and any(km_between(seen.lat, seen.lon, r.lat, r.lon) <= r.km for r in t.radius)
        )
        city = any(seen.reader.city == f"{c[:3]}-{c[4:].lower()}" for c in t.cities)
        if not (seen.reader.country in t.countries or seen.reader.region in t.regions or city or near):
            return False
    if seen.reader.country in t.not_countries or seen.reader.region in t.not_regions:
        return False
    if (t.domains or t.apps) and not (under(seen.page.domain, t.domains) or seen.page.bundle in t.apps):
        return False
    if under(seen.page.domain, t.not_domains) or (seen.page.bundle and seen.page.bundle in t.not_apps):
        return False
    if t.categories and not any(covered(code, t.categories) for code in seen.page.categories):
        return False
    if any(covered(code, t.not_categories) for code in seen.page.categories):
        return False
    words = keywords(request)
    if (t.keywords and not words & {w.lower() for w in t.keywords}) or words & {w.lower() for w in t.not_keywords}:
        return False
    if t.hot and not ("sea" in words or any(code.partition("-")[0] == "IAB2" for code in seen.page.categories)):
        return False
    return (
        naive_blocks(campaign, creative, request)
        and naive_user(campaign, user, seen.now_us)
        and naive_imp(campaign, creative, imp)
    )


def naive_blocks(campaign: Campaign, creative: Creative, request: Request) -> bool:
    if request.bcat and (not campaign.cat or any(covered(code, request.bcat) for code in campaign.cat)):
        return False
    if (request.bcat or request.acat) and request.cattax not in (None, 1):
        return False
    if request.acat and not (campaign.cat and all(covered(code, request.acat) for code in campaign.cat)):
        return False
    if any(under(campaign.adomain, (blocked,)) for blocked in request.badv or ()):
        return False
    if creative.bundle and creative.bundle in (request.bapp or ()):
        return False
    for wanted in (request.wlang, request.wlangb):
        told = [name.lower() for name in creative.languages]
        ranges = [name.lower() for name in wanted or ()]
        if ranges and not (told and all(name == "xx" or covered(name, ranges) for name in told)):
            return False
    return True


def naive_user(campaign: Campaign, user: User | None, now_us: int) -> bool:
    t = campaign.targeting
    if user is None:
        wants = t.tags or t.not_tags or t.audiences or t.not_audiences
        return not wants and (not campaign.caps or campaign.cap_without_user == "bid")
    if t.tags and not any(user.tags.get(tag_id(name), 0) >= least for name, least in t.tags.items()):
        return False
    if any(user.tags.get(tag_id(name), 0) >= least for name, least in t.not_tags.items()):
        return False
    if t.audiences and not user.audiences & {keys.number(name) for name in t.audiences}:
        return False
    if user.audiences & {keys.number(name) for name in t.not_audiences}:
        return False
    for cap in campaign.caps:
        since = (now_us - cap.window_s * 1_000_000) // HOUR_US
        shown = sum(c.count for c in user.contacts if c.scope == keys.number(campaign.id) and c.hour >= since)
        if shown >= cap.limit:
            return False
    return True


def naive_imp(campaign: Campaign, creative: Creative, imp: Imp) -> bool:
    banner = imp.banner
    assert banner is not None
    sizes = {(banner.w, banner.h)} | {(f.w, f.h) for f in banner.format or ()}
    stretched = creative.flexible and any(
        f.wratio and f.hratio and creative.w * f.hratio == creative.h * f.wratio and creative.w >= (f.wmin or 0)
        for f in banner.format or ()
    )
    if (creative.w, creative.h) not in sizes and not stretched:
        return False
    t = campaign.targeting
    if t.rewarded == ("never" if imp.rwdd else "only"):
        return False
    for kind, least in t.metrics.items():
        told = [m.value for m in imp.metric or () if m.type == kind and m.value is not None]
        if not told or min(told) < least:
            return False
    if imp.secure and not is_secure(creative):
        return False
    if set(banner.battr or ()) & (set(campaign.attr) | set(creative.attr)):
        return False
    if set(banner.btype or ()) & ({1, 3, 4} if creative.html else {2}):
        return False
    offered = (imp.pmp.deals if imp.pmp else None) or []
    clear = [d for d in offered if all(d == other for other in offered if other.id == d.id)]
    deals = [d for d in clear if d.id in campaign.deals]
    if not campaign.deals:
        return not (imp.pmp and imp.pmp.private_auction)
    return any(
        (not d.wseat or campaign.seat in d.wseat)
        and (not d.wadomain or any(under(campaign.adomain, (w,)) for w in d.wadomain))
        for d in deals
    )


def some(values: Any, limit: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.just([]) | st.lists(st.sampled_from(values), min_size=1, max_size=limit, unique=True)


def sometimes(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A dict with a few of these keys: most rules are absent from most campaigns."""
    return st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )


COUNTRIES, REGIONS, CITIES = ["USA", "DEU"], ["USA-CA", "USA-NY", "DEU-BE"], ["USA-Los Angeles", "DEU-Berlin"]
DOMAINS, APPS = ["news.example", "sport.news.example", "blog.example"], ["app.one", "app.two"]
CATS, WORDS = ["IAB1", "IAB2", "IAB2-3", "IAB25"], ["sun", "sea"]
TAGS, AUDIENCES = ["interest.travel", "interest.food"], ["acme/buyers", "zeta/fans"]
SIZES = [(300, 250), (728, 90)]
scores = st.dictionaries(st.sampled_from(TAGS), st.integers(1, 100), min_size=1, max_size=2)
circle = st.fixed_dictionaries(
    {
        "lat": st.sampled_from([34.0, 52.5, 89.5, -0.2]),
        "lon": st.sampled_from([-118.2, 13.4, 179.9]),
        "km": st.sampled_from([5, 90, 900]),
    }
)

rules = sometimes(
    countries=some(COUNTRIES),
    regions=some(REGIONS),
    cities=some(CITIES),
    radius=st.lists(circle, max_size=2),
    not_countries=some(COUNTRIES),
    not_regions=some(REGIONS),
    devices=some(sorted(DEVICES)),
    os=some(["iOS", "android"]),
    domains=some(DOMAINS),
    not_domains=some(DOMAINS),
    apps=some(APPS),
    not_apps=some(APPS),
    categories=some(CATS),
    not_categories=some(CATS),
    keywords=some(WORDS),
    not_keywords=some(WORDS),
    hot=st.just(True),
    hours=some(range(24), 12),
    weekdays=some(range(7), 4),
    utc_offset_min=st.sampled_from([-480, 0, 345]),
    tags=scores,
    not_tags=scores,
    audiences=some(AUDIENCES),
    not_audiences=some(AUDIENCES),
    at=some([1, 2]),
    rewarded=st.sampled_from(["any", "only", "never"]),
    metrics=st.dictionaries(st.sampled_from(["viewability", "ctr"]), st.sampled_from([0.1, 0.5, 0.7]), max_size=2),
)
creative_fields = sometimes(
    html=st.sampled_from(["<b>x</b>", "<img src='http://a.example/x.png'>"]),
    attr=some([1, 2, 13]),
    language=st.sampled_from(["en", "de", "xx", "en-US", ["en", "de"], ["de", "xx"]]),
    flexible=st.booleans(),
    bundle=st.sampled_from(APPS),
    secure=st.booleans(),
    size=st.sampled_from(SIZES),
)
campaign_fields = sometimes(
    seat=st.sampled_from(["tagbid", "other"]),
    cat=some(CATS),
    attr=some([3, 13]),
    status=st.sampled_from(["active", "paused"]),
    start=st.sampled_from(["2025-11-24T00:00:00Z", "2025-11-25T00:00:00Z"]),
    end=st.sampled_from(["2025-11-24T12:00:00Z", "2025-11-30T00:00:00Z"]),
    cap_without_user=st.sampled_from(["skip", "bid"]),
    caps=st.lists(
        st.fixed_dictionaries({"limit": st.integers(1, 3), "window_s": st.sampled_from([3_600, 90_000])}), max_size=2
    ),
    deals=some(["d1", "d2"]),
    adomain=st.sampled_from(["acme.example", "shop.acme.example"]),
)


@st.composite
def portfolios(draw: st.DrawFn) -> list[Campaign]:
    made = []
    for i in range(draw(st.integers(1, 5))):
        creatives = []
        for fields in draw(st.lists(creative_fields, min_size=1, max_size=2)):
            w, h = fields.pop("size", (300, 250))
            image = {"image_url": ""} if "html" in fields else {}
            creatives.append(fields | image | {"w": w, "h": h})
        made.append(a_campaign(id=f"c{i}", targeting=draw(rules), creatives=creatives, **draw(campaign_fields)))
    return made


geo = sometimes(
    country=st.sampled_from(["US", "USA", "deu", "??"]),
    region=st.sampled_from(["CA", "US-NY", "be"]),
    city=st.sampled_from(["Los Angeles", "BERLIN"]),
    lat=st.sampled_from([34.05, 52.52, -89.0]),
    lon=st.sampled_from([-118.24, 13.4, -179.95]),
    utcoffset=st.sampled_from([-480, 0, 345]),
)
deal = st.fixed_dictionaries(
    {"id": st.sampled_from(["d1", "d2", "d3"])},
    optional={"wseat": some(["tagbid"]), "wadomain": some(["acme.example", "shop.acme.example"])},
)
imps = sometimes(
    secure=st.sampled_from([0, 1, True]),
    rwdd=st.sampled_from([0, 1]),
    metric=st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["viewability", "ctr", "other"]), "value": st.sampled_from([0.1, 0.5, 0.6, None])}
        ),
        max_size=3,
    ),
    pmp=st.fixed_dictionaries(
        {}, optional={"private_auction": st.sampled_from([0, 1]), "deals": st.lists(deal, max_size=2)}
    ),
)
RATIOS = [
    {"wratio": 1},
    {"wratio": 6, "hratio": 5},
    {"wratio": 6, "hratio": 5, "wmin": 301},
    {"wratio": 0, "hratio": 1},
]
banners = st.fixed_dictionaries(
    {"w": st.sampled_from([300, 728, None]), "h": st.sampled_from([250, 90])},
    optional={
        "format": st.lists(st.sampled_from([{"w": 300, "h": 250}, {"w": 728, "h": 90}, *RATIOS]), max_size=2),
        "battr": some([1, 3, 13]),
        "btype": some([1, 2, 3, 4]),
    },
)
page = sometimes(cat=some(CATS), sectioncat=some(CATS), keywords=st.sampled_from(["Sun, sea", "sea", ""]))
tops = sometimes(
    at=st.sampled_from([1, 2, 3, 501]),
    wseat=some(["tagbid", "x"]),
    bseat=some(["tagbid", "x"]),
    bcat=some(CATS),
    acat=some(CATS),
    cattax=st.sampled_from([1, 2]),
    badv=some(["ACME.example", "example", "shop.acme.example"]),
    bapp=some(APPS),
    wlang=some(["en", "de"]),
    wlangb=some(["EN", "en-us", "de-AT"]),
)
users = st.none() | st.builds(
    User,
    tags=st.dictionaries(st.sampled_from([tag_id(name) for name in TAGS]), st.integers(0, 100)),
    audiences=st.frozensets(st.sampled_from([keys.number(name) for name in AUDIENCES])),
    contacts=st.lists(
        st.builds(
            Contact,
            st.sampled_from([keys.number(f"c{i}") for i in range(4)]),
            st.integers(NOW_US // HOUR_US - 30, NOW_US // HOUR_US),
            st.integers(1, 3),
        ),
        max_size=6,
    ).map(tuple),
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    where = draw(st.sampled_from(["site", "app", "neither"]))
    inventory: dict[str, Any] = {"site": None}
    if where == "site":
        names = ("News.example", "www.sport.news.example", "blog.example")
        inventory = {"site": {"domain": draw(st.sampled_from(names))} | draw(page)}
    elif where == "app":
        inventory |= {"app": {"bundle": draw(st.sampled_from(APPS))} | draw(page)}
    device = draw(sometimes(devicetype=st.integers(1, 8), os=st.sampled_from(["iOS", "Android", "x"]), geo=geo))
    return a_request(imp=draw(imps) | {"banner": draw(banners)}, device=device, **inventory, **draw(tops))


@given(portfolios(), requests(), users, st.integers(0, 7 * 24 * 4))
def test_bit_sets_and_a_plain_loop_over_campaigns_agree(
    campaigns: list[Campaign], request: Request, user: User | None, quarters: int
) -> None:
    snapshot = a_snapshot(*campaigns)
    later_us = NOW_US + quarters * 900_000_000
    snapshot.index.topics.take([stated("sea", later_us), stated("Cars", later_us)])
    seen = view(request, user, later_us, EXCHANGE, "x")
    mask, _ = targeting.eligible(snapshot.index, seen)
    if mask:
        mask, _ = targeting.eligible_for(snapshot.index, seen, request.imp[0], mask)
    found = {snapshot.creatives[i].id for i in ones(mask, 1_000)}
    expected = {
        creative.id
        for campaign in campaigns
        for creative in campaign.creatives
        if naive(campaign, creative, seen, request.imp[0])
    }
    assert found == expected


@given(portfolios(), requests(), users)
def test_explaining_asks_the_rules_that_bidding_asks(
    campaigns: list[Campaign], request: Request, user: User | None
) -> None:
    snapshot = a_snapshot(*campaigns)
    seen = view(request, user, NOW_US, EXCHANGE, "x")
    together = snapshot.index.everything
    for _, mask in targeting.answers(snapshot.index, seen, request.imp[0]):
        together &= mask
    mask, _ = targeting.eligible(snapshot.index, seen)
    if mask:
        mask, _ = targeting.eligible_for(snapshot.index, seen, request.imp[0], mask)
    assert mask == together


@pytest.mark.parametrize(
    ("lat", "lon", "near"),
    [(52.52, 13.405, True), (52.40, 13.05, True), (48.137, 11.575, False), (52.52, -166.6, False)],
)
def test_a_radius_reaches_as_far_as_it_says(lat: float, lon: float, near: bool) -> None:
    """Potsdam lies 27 km from the middle of Berlin, Munich 504 km."""
    snapshot = a_snapshot(a_campaign(targeting={"radius": [{"lat": 52.52, "lon": 13.405, "km": 30}]}))
    request = a_request(device={"geo": {"lat": lat, "lon": lon}})
    assert bool(targeting.eligible(snapshot.index, view(request, None, NOW_US, EXCHANGE, "x"))[0]) is near


def test_a_circle_across_the_date_line_holds_on_both_sides() -> None:
    snapshot = a_snapshot(a_campaign(targeting={"radius": [{"lat": -17.0, "lon": 179.9, "km": 60}]}))
    for lon in (179.5, 180, -180, -179.8):
        request = a_request(device={"geo": {"lat": -17.0, "lon": lon}})
        assert targeting.eligible(snapshot.index, view(request, None, NOW_US, EXCHANGE, "x"))[0], lon


def test_rules_nobody_uses_are_not_asked() -> None:
    index = a_snapshot(a_campaign()).index
    asked = {reason for reason, _ in index.rules}
    assert asked == {"seat", "transparency", "blocked_category", "blocked_advertiser", "language"}
    assert index.asked == ()


@pytest.mark.parametrize("one", [
    {}, {"wseat": ["s2"]}, {"bseat": ["s1"]}, {"bcat": ["IAB1"]}, {"acat": ["IAB2"]}, {"badv": ["acme.example"]},
    {"bapp": ["com.acme"]}, {"wlang": ["de"]}, {"wlangb": ["de"]}, {"regs": {"ext": {"dsa": {"dsarequired": 3}}}},
])  # fmt: skip
def test_one_list_of_a_request_is_enough_for_its_rule_to_be_asked(one: dict[str, Any]) -> None:
    creative = {"id": "a", "w": 300, "h": 250, "image_url": "https://c.example/a.png", "bundle": "com.acme"}
    snapshot = a_snapshot(a_campaign(seat="s1", adomain="acme.example", cat=["IAB1"], creatives=[creative]))
    seen = view(a_request(**one), None, NOW_US, EXCHANGE, "x")
    assert bool(targeting.eligible(snapshot.index, seen)[0]) is not bool(one)
    assert blocking.asks(seen) is bool(one)


class Silent:
    """A request that says nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> None:
        self.asked.add(name)


@pytest.mark.parametrize("rule", blocking.of_lists)
def test_a_rule_of_lists_looks_at_nothing_that_would_not_have_it_asked(rule: Callable[..., int]) -> None:
    index = a_snapshot(a_campaign(seat="s1", cat=["IAB1"])).index
    known, looked = Silent(), Silent()
    assert not blocking.asks(SimpleNamespace(request=known))  # type: ignore[arg-type]
    assert rule(index, SimpleNamespace(request=looked)) == index.everything
    assert looked.asked
    assert looked.asked <= known.asked
