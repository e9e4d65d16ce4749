"""A small world with known truth: people with hidden interests, sites, prices of rivals, and who would click what.

Everything is a function of the seed. The tags never see an interest, only what people did (`loadtest.behaviour`);
the bidder never sees a click probability, only clicks. Rival bids and the draw behind every click depend on the
seed and the names involved alone, never on what our bidder does (common random numbers), so two bidders that
played the same requests differ by their decisions and by nothing else.

Names: U users, S sites, K verticals, n requests.
"""

import hashlib
import uuid
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from dmp.schema import IdType

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VERTICALS: tuple[tuple[str, str], ...] = (
    ("travel", "IAB20"),
    ("automotive", "IAB2"),
    ("fashion", "IAB18"),
    ("finance", "IAB13"),
    ("food", "IAB8"),
    ("gaming", "IAB9-30"),
    ("beauty", "IAB18-1"),
    ("home", "IAB10"),
    ("parenting", "IAB6"),
    ("pets", "IAB16"),
    ("sports", "IAB17"),
    ("technology", "IAB19"),
    ("real_estate", "IAB21"),
    ("education", "IAB5"),
    ("entertainment", "IAB1"),
    ("news", "IAB12"),
    ("careers", "IAB4"),
    ("business", "IAB3"),
    ("science", "IAB15"),
    ("shopping", "IAB22"),
)
"""(name in the tag taxonomy, IAB content category): what people care about, sites are about and ads are for."""

AGES: tuple[str, ...] = ("18_24", "25_34", "35_44", "45_54", "55_64", "65_plus")
SIZES: tuple[tuple[int, int, float, float], ...] = (
    (300, 250, 0.45, 0.15),
    (728, 90, 0.25, -0.15),
    (320, 50, 0.17, -0.25),
    (300, 600, 0.06, 0.35),
    (970, 250, 0.04, 0.25),
    (160, 600, 0.03, -0.1),
)
"""(width, height, share of requests, effect on the log-odds of a click)."""
_PLACES: tuple[tuple[str, str, int, float], ...] = (
    ("NY", "New York", -300, 0.35),
    ("IL", "Chicago", -360, 0.2),
    ("CO", "Denver", -420, 0.15),
    ("CA", "Los Angeles", -480, 0.3),
)
WEARY = 5  # times shown; further ones tire nobody more
_BROWSER = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0"
_DESKTOP = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_BROWSER} Safari/537.36"
_PHONE = f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {_BROWSER} Mobile Safari/537.36"


class WorldConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The laws of the world.

    sparsity: Dirichlet concentration of interests; 0.08 leaves most people two or three. base_logit: log-odds of
    a click by somebody who does not care. interest_logit: added for somebody who cares about nothing else.
    site_logit: added when the page is about the ad's vertical. site_interest: share of visits that follow
    interests instead of popularity, which is what a page alone gives away. second_price: share of auctions.
    market_cpm: median best rival bid, dollars; market_spread: its log standard deviation; rival_insight: how much
    rivals, too, pay for people who click. app_share: users seen in apps (device id) instead of a browser (cookie).
    no_id: share of requests without any id; lmt: share of users who limit ad tracking. wishers: share of people who
    want something today, often what their interests do not tell; wish_logit: added for an ad for that.

    The rest are laws that do not add up, each the effect of two things together; 0 leaves it out. taste_logit: spread
    of what each gender and age makes of each vertical. device_logit: spread of how each size does on phone or desktop.
    rhythm_logit: how much phones do better at night and desktops by day. page_interest_logit: added on a page about the
    ad's vertical for somebody who cares about nothing else. weariness_logit: taken off for each time the campaign was
    shown to the user in 24 hours, up to `WEARY` of them (`loadtest.contacts` keeps that count).
    """

    seed: int = 1
    users: int = 20_000
    sites: int = 200
    sparsity: float = 0.08
    base_logit: float = -4.5
    interest_logit: float = 3.0
    site_logit: float = 0.8
    site_interest: float = 0.25
    second_price: float = 0.88
    market_cpm: float = 6.0
    market_spread: float = 0.4
    rival_insight: float = 0.3
    app_share: float = 0.35
    no_id: float = 0.05
    lmt: float = 0.03
    tmax_ms: int = 250
    wishers: float = 0.0
    wish_logit: float = 2.2
    taste_logit: float = 0.0
    device_logit: float = 0.0
    rhythm_logit: float = 0.0
    page_interest_logit: float = 0.0
    weariness_logit: float = 0.0


class People(msgspec.Struct, frozen=True):
    """interests: (U, K), rows sum to 1. response: (U,) log-odds of clicking anything. activity: (U,) shares of
    all traffic. age: index into AGES. place: index into the places. app, lmt: (U,). wish: (U,) index into VERTICALS of
    what the user wants today, -1 for nothing.
    """

    interests: Floats
    response: Floats
    activity: Floats
    male: Bools
    age: Ints
    place: Ints
    app: Bools
    lmt: Bools
    wish: Ints


class Sites(msgspec.Struct, frozen=True):
    """vertical: (S,) index into VERTICALS. popularity: (S,) shares. price: (S,) log price level of the rivals.
    strict: (S,) publishers that ask a high floor and block some categories.
    """

    vertical: Ints
    popularity: Floats
    price: Floats
    strict: Bools


class Laws(msgspec.Struct, frozen=True):
    """Log-odds of a click that depend on two things. taste: (2, ages, K) by gender and age. device: (2, sizes)."""

    taste: Floats
    device: Floats


class World(msgspec.Struct, frozen=True):
    config: WorldConfig
    people: People
    sites: Sites
    laws: Laws


class Requests(msgspec.Struct, frozen=True):
    """Bid requests as columns, n of them. stream: names the draw, part of every request id.

    known: whether the request carries the user's id. size: index into SIZES. second: second-price auction.
    floor_micros, rival_micros: CPM micros; the best rival bid is what we must beat. click: (n, K) true probability
    of a click on an ad of each vertical.
    """

    stream: str
    user: Ints
    known: Bools
    site: Ints
    size: Ints
    second: Bools
    floor_micros: Ints
    rival_micros: Ints
    hour: Ints
    click: Floats


def build(config: WorldConfig) -> World:
    """People and sites of one seed."""
    rng = np.random.default_rng([config.seed, 0])
    u, k, s = config.users, len(VERTICALS), config.sites
    popularity = 1 / np.arange(1, s + 1) ** 0.8
    people = People(
        interests=rng.dirichlet(np.full(k, config.sparsity), u),
        response=rng.normal(0, 0.3, u),
        activity=_shares(rng.gamma(1.5, 1.0, u)),
        male=rng.random(u) < 0.5,
        age=rng.choice(len(AGES), u, p=_shares(np.array([3.0, 5, 4, 3, 2, 2]))),
        place=rng.choice(len(_PLACES), u, p=[place[3] for place in _PLACES]),
        app=rng.random(u) < config.app_share,
        lmt=rng.random(u) < config.lmt,
        wish=_wishes(config),
    )
    sites = Sites(
        vertical=rng.permutation(np.arange(s) % k),
        popularity=_shares(rng.permutation(popularity)),
        price=rng.normal(0, 0.25, s),
        strict=rng.random(s) < 0.1,
    )
    rng = np.random.default_rng([config.seed, 10])
    laws = Laws(
        taste=rng.normal(0, config.taste_logit, (2, len(AGES), k)),
        device=rng.normal(0, config.device_logit, (2, len(SIZES))),
    )
    return World(config, people, sites, laws)


def _wishes(config: WorldConfig) -> Ints:
    """(U,) what each user wants today, whatever they care for otherwise."""
    rng = np.random.default_rng([config.seed, 6])
    wished = rng.integers(0, len(VERTICALS), config.users)
    return np.where(rng.random(config.users) < config.wishers, wished, -1)


def draw_requests(world: World, n: int, stream: str, hour_utc: int = 12) -> Requests:
    """N requests of one named stream; the same stream is the same requests, whatever was drawn before.

    hour_utc: hour of the day in which they happen, for the effect of the user's local hour.
    """
    config, people, sites = world.config, world.people, world.sites
    rng = np.random.default_rng([config.seed, 1, *stream.encode()])
    user = rng.choice(len(people.activity), n, p=people.activity)
    site = _visits(world, user, rng)
    size = rng.choice(len(SIZES), n, p=[share for _, _, share, _ in SIZES])
    offsets = np.array([place[2] for place in _PLACES])
    hour = (hour_utc + offsets[people.place[user]] // 60) % 24
    click = click_probability(world, user, site, size, hour)
    appeal = np.log(click.mean(axis=1))
    appeal -= appeal.mean()
    strict = sites.strict[site]
    level = np.log(config.market_cpm) + sites.price[site] + config.rival_insight * appeal
    rival = np.exp(level + rng.normal(0, config.market_spread, n))
    floor = np.exp(np.log(0.4) + sites.price[site] + strict * 3.2)
    return Requests(
        stream=stream,
        user=user,
        known=rng.random(n) >= config.no_id,
        site=site,
        size=size,
        second=rng.random(n) < config.second_price,
        floor_micros=np.round(floor * 100).astype(np.int64) * 10_000,
        rival_micros=(rival * 1e6).astype(np.int64),
        hour=hour,
        click=click,
    )


def click_probability(world: World, user: Ints, site: Ints, size: Ints, hour: Ints) -> Floats:
    """(n, K) true probability that user clicks an ad of each vertical on this page at this local hour.

    Logistic in: how much of the user's interest the vertical has (saturating), whether the user wants it today,
    whether the page is about it, the size, an evening bump (peak at 20 h, +-0.15), how readily this user clicks
    anything, and the laws of pairs that `WorldConfig` sets.
    """
    config, people = world.config, world.people
    share = people.interests[user]
    caring = 1.15 * share / (share + 0.15)
    on_topic = world.sites.vertical[site][:, None] == np.arange(len(VERTICALS))
    app = people.app[user].astype(np.int64)
    effect = np.array([effect for *_, effect in SIZES])[size] + world.laws.device[app, size]
    turn = np.cos((hour - 20) * (2 * np.pi / 24))
    evening = turn * (0.15 + config.rhythm_logit * (2 * app - 1))
    wished = people.wish[user][:, None] == np.arange(len(VERTICALS))
    logit = (
        config.base_logit
        + config.interest_logit * caring
        + (config.site_logit + config.page_interest_logit * caring) * on_topic
        + config.wish_logit * wished
        + world.laws.taste[people.male[user].astype(np.int64), people.age[user]]
    )
    probability: Floats = 1 / (1 + np.exp(-(logit + (effect + evening + people.response[user])[:, None])))
    return probability


def wearied(world: World, chance: Floats, shown: Floats) -> Floats:
    """Click probabilities of ads that were shown to their users `shown` times in 24 hours."""
    logit = np.log(chance / (1 - chance)) - world.config.weariness_logit * np.minimum(shown, WEARY)
    probability: Floats = 1 / (1 + np.exp(-logit))
    return probability


def vertical_of(tag_name: str) -> int | None:
    """Index of the vertical a tag ("interest.travel", "intent.travel") speaks of, None when it is none of ours."""
    name = tag_name.rpartition(".")[2]
    names = [vertical for vertical, _ in VERTICALS]
    return names.index(name) if name in names else None


def clicks(world: World, requests: Requests, i: int, campaign: str, vertical: int | None) -> bool:
    """Whether the user of request i would click this campaign's ad, shown there and then."""
    probability = float(requests.click[i].min() if vertical is None else requests.click[i, vertical])
    return uniform(world.config.seed, request_id(requests, i), campaign) < probability


def uniform(seed: int, *names: str) -> float:
    """A number in [0, 1) that is a function of its arguments: the common random number of everything so named."""
    digest = hashlib.blake2b("\0".join((str(seed), *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def raw_id(world: World, user: int) -> tuple[IdType, str]:
    """(id type, raw id) under which this user is known to the exchange: a device id in apps, our cookie in browsers.

    Raw ids exist in requests and uploads only, as in real life.
    """
    digest = hashlib.blake2b(f"{world.config.seed}:user:{user}".encode(), digest_size=16).digest()
    if world.people.app[user]:
        return "device", str(uuid.UUID(bytes=digest, version=4))
    return "cookie", f"c{digest.hex()[:24]}"


def request_id(requests: Requests, i: int) -> str:
    return f"{requests.stream}-{i}"


def domain(world: World, site: int) -> str:
    return f"{VERTICALS[world.sites.vertical[site]][0].replace('_', '-')}-{site}.example"


def request_body(world: World, requests: Requests, i: int, seat: str = "") -> bytes:
    """OpenRTB 2.6 JSON of request i. seat: the only buyer seat the exchange offers it to, "" for all."""
    user, site = int(requests.user[i]), int(requests.site[i])
    vertical, category = VERTICALS[world.sites.vertical[site]]
    width, height, *_ = SIZES[requests.size[i]]
    region, city, offset, _ = _PLACES[world.people.place[user]]
    id_type, raw = raw_id(world, user)
    app = id_type == "device"
    device: dict[str, Any] = {
        "ua": _PHONE if app else _DESKTOP,
        "ip": "192.0.2.1",
        "devicetype": 4 if app else 2,
        "os": "Android" if app else "Windows",
        "language": "en",
        "connectiontype": 6 if app else 2,
        "lmt": int(world.people.lmt[user]),
        "geo": {"country": "USA", "region": region, "city": city, "utcoffset": offset},
    }
    body: dict[str, Any] = {
        "id": request_id(requests, i),
        "at": 2 if requests.second[i] else 1,
        "tmax": world.config.tmax_ms,
        "cur": ["USD"],
        "imp": [
            {
                "id": "1",
                "banner": {"format": [{"w": width, "h": height}], "pos": 1},
                "bidfloor": int(requests.floor_micros[i]) / 1e6,
                "bidfloorcur": "USD",
                "tagid": f"{site}-{width}x{height}",
            }
        ],
        "device": device,
        "user": {},
        "regs": {"gdpr": 0},
    }
    if app:
        body["app"] = {"bundle": f"com.example.{vertical}{site}", "cat": [category]}
    else:
        name = domain(world, site)
        body["site"] = {"domain": name, "page": f"https://{name}/{vertical}/{i % 97}", "cat": [category]}
    if requests.known[i]:
        if app:
            device["ifa"] = raw
        else:
            body["user"]["buyeruid"] = raw
    if world.sites.strict[site]:
        body["bcat"] = ["IAB13", "IAB9"]
    if seat:
        body["wseat"] = [seat]
    return msgspec.json.encode(body)


def _visits(world: World, user: Ints, rng: np.random.Generator) -> Ints:
    """A site for each visit: mostly by popularity, sometimes one about something the user cares for."""
    popularity, vertical = world.sites.popularity, world.sites.vertical
    n = len(user)
    anywhere = rng.choice(len(popularity), n, p=popularity)
    topic = _draw_rows(world.people.interests[user], rng)
    wanted = np.empty(n, dtype=np.int64)
    for k in range(len(VERTICALS)):
        about, here = np.flatnonzero(vertical == k), topic == k
        wanted[here] = rng.choice(about, int(here.sum()), p=_shares(popularity[about]))
    return np.where(rng.random(n) < world.config.site_interest, wanted, anywhere)


def _draw_rows(shares: Floats, rng: np.random.Generator) -> Ints:
    """One index per row of (n, K) shares."""
    bounds = np.cumsum(shares, axis=1)
    found: Ints = (rng.random((len(shares), 1)) * bounds[:, -1:] < bounds).argmax(axis=1)
    return found


def _shares(weights: Floats) -> Floats:
    total: Floats = weights / weights.sum()
    return total
