"""Impressions of the seeded world as training frames, millions at a time, with the true probability of every click.

Every hour of every day the world draws requests (`world.draw_requests`); each is offered to an advertiser by chance, so
the log is the one of a bidder that explores. People's tags come from what they did before (`behaviour.draw`), scored
as the offline build scores them; what they were shown in earlier hours counts and tires them. A row is what
`models.features` would have filled from context, user and ad: columns of the user are filled by those functions once
per user, pair columns once per combination, contacts by rolling counts, the rest by attribute. Where people want
something new every day, what they did in the minutes before is in real-time records, and those fill their columns
row by row.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bidder.wording import topics_of, words_of
from dmp.schema import Realtime, User
from dmp.taxonomy import BY_ID, tag_id
from loadtest import behaviour, market, world_now
from loadtest import world as worlds
from loadtest.behaviour import DAY_US
from loadtest.contacts import Contacts, Seen
from loadtest.world import _PLACES, AGES, SIZES, VERTICALS, Floats, Ints, Requests, World, WorldConfig
from models import features, frames
from models.context import Ad, Context
from models.features import Vocabulary
from models.frames import Frame
from models.pairs import pair_values

BORN_US = 20_000 * DAY_US  # a Friday
HOUR_US = 3_600_000_000
DAYS = 8
EXCHANGE = "world"
VERSION = 2  # of the rows of one seed
CROSSED = WorldConfig(
    taste_logit=0.5, device_logit=0.4, rhythm_logit=0.3, page_interest_logit=1.2, weariness_logit=0.25
)
"""How strong the laws of pairs are. Two in three pairs of an age and gender with a vertical lie between .6 and 1.6
times the odds, of a size with a device between .7 and 1.5; an ad loses a fifth of its odds with each contact; a page
about it is worth 1.8 times more to somebody who half cares. Set by reason before anything was measured, from no log:
none that is public has all of it. Page and weariness are rather strong, so this world is kind to trees; without the
laws log-odds are a sum of what each thing does, a regression's own form (`additive` in the bench), and unkind to them.
"""
ACT_WEIGHTS = np.array([1.0, 3.0, 5.0, 8.0])  # of `behaviour.KINDS`, as the offline build weighs them
_NOTHING = Vocabulary({})
_UNKNOWN_USER = 0  # first row of per-user tables: a request without an id


class Audience(msgspec.Struct, frozen=True):
    """users: as the tag store would return them. columns: request features of the user per user, row 0 for no user;
    shape (U + 1, features). interests: (U + 1,) top interest tag. scores: (U + 1, K) interest scores, NaN without user.
    """

    users: list[User]
    columns: Floats
    interests: Ints
    scores: Floats


def ads() -> list[Ad]:
    """The creatives of the first `market.ADVERTISED` verticals, one per size that is sold, by vertical then size."""
    made = []
    for k in range(market.ADVERTISED):
        name, category = VERTICALS[k]
        interest = tag_id(f"interest.{name}")
        for width, height, *_ in market.BANNERS:
            campaign = f"{name}-open"
            made.append(
                Ad(campaign, f"{campaign}-{width}x{height}", name, category, interest, width, height, (interest,))
            )
    return made


def audience(world: World) -> Audience:
    """Everybody's tags from their behaviour of two weeks, and the features they give."""
    past = behaviour.draw(world, BORN_US)
    u, k = len(world.people.activity), len(VERTICALS)
    scores = np.zeros((u, k), dtype=np.int64)
    interest_tags = [tag_id(f"interest.{name}") for name, _ in VERTICALS]
    for v, tag in enumerate(interest_tags):
        here = past.vertical == v
        half_life = BY_ID[tag].half_life_days
        weight = ACT_WEIGHTS[past.kind[here]] * 0.5 ** ((BORN_US - past.time_us[here]) / DAY_US / half_life)
        total = np.bincount(past.user[here], weights=weight, minlength=u)
        active = np.flatnonzero(total > 0)
        place = np.searchsorted(np.sort(total[active]), total[active], "right")
        scores[active, v] = np.maximum(1, 100 * place // max(1, len(active)))
    told = behaviour.known(world)
    gender = [tag_id(f"demographic.gender.{name}") for name in ("female", "male")]
    ages = [tag_id(f"demographic.age.{name}") for name in AGES]
    users = []
    for i in range(u):
        tags = {tag: int(score) for tag, score in zip(interest_tags, scores[i].tolist(), strict=True) if score}
        if told[i]:
            tags[gender[int(world.people.male[i])]] = 100
            tags[ages[int(world.people.age[i])]] = 100
        users.append(User(tags))
    names = features.NAMES[: features.N_REQUEST]
    columns = np.array(
        [features.request_values(_NOTHING, Context(), user, BORN_US) for user in (None, *users)], dtype=np.float64
    ).reshape(-1, len(names))
    interests = np.array([0, *(features.top_interest(user.tags) for user in users)])
    return Audience(users, columns, interests, np.vstack([np.full((1, k), np.nan), scores]))


class Hour(msgspec.Struct, frozen=True):
    """n impressions of one hour, sizes nobody made left out. vertical: of the ad. chance: true click probability.
    seen: what its user had been shown before the hour. now: {user: what the user did in the minutes before it}.
    """

    time_us: int
    requests: Requests
    vertical: Ints
    clicked: npt.NDArray[np.bool_]
    chance: Floats
    seen: Seen
    now: dict[int, Realtime]


def hours(world: World, rows: int, days: int) -> Iterator[Hour]:
    """About `rows` impressions, hour by hour."""
    per_hour = -(-rows // (days * 24))
    contacts = Contacts(len(world.people.activity), market.ADVERTISED)
    for hour in range(days * 24):
        time_us = BORN_US + hour * HOUR_US
        today = world_now.of_day(world, hour // 24)
        drawn = worlds.draw_requests(today, per_hour, f"rows-{hour}", hour % 24)
        sold = drawn.size < len(market.BANNERS)
        kept = {
            name: value[sold] for name, value in msgspec.structs.asdict(drawn).items() if isinstance(value, np.ndarray)
        }
        requests = msgspec.structs.replace(drawn, **kept)
        n = len(requests.user)
        rng = np.random.default_rng([world.config.seed, 7, hour])
        vertical = rng.integers(0, market.ADVERTISED, n)
        seen = contacts.seen(hour, requests.user, vertical)
        chance = worlds.wearied(world, requests.click[np.arange(n), vertical], seen.day)
        clicked = rng.random(n) < chance
        contacts.add(hour, requests.user[requests.known], vertical[requests.known])
        now = world_now.records(today, time_us, requests.user[requests.known])
        yield Hour(time_us, requests, vertical, clicked, chance, seen, now)


def write(
    world: World, people: Audience, folder: Path, rows: int, days: int = DAYS, shuffle: bool = False
) -> tuple[Frame, Floats]:
    """About `rows` impressions as one Parquet file a day in `folder`; the frame and the true click probabilities.

    shuffle: deal the labels of a day out at random, so that there is nothing to learn (the leak test).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([world.config.seed, 8])
    truth: list[Floats] = []
    paths = []
    day_tables: list[pa.Table] = []
    for n, hour in enumerate(hours(world, rows, days)):
        truth.append(hour.chance)
        day_tables.append(table(world, people, hour))
        if n % 24 == 23:
            whole = pa.concat_tables(day_tables).unify_dictionaries()
            if shuffle:
                labels = rng.permutation(whole["clicked"].to_numpy())
                whole = whole.set_column(whole.schema.get_field_index("clicked"), "clicked", pa.array(labels))
            path = folder / f"day-{n // 24:03d}.parquet"
            pq.write_table(whole, path, row_group_size=frames.PART_ROWS, compression="zstd")
            paths.append(path)
            day_tables = []
    return frames.on_disk(paths), np.concatenate(truth)


def table(world: World, people: Audience, hour: Hour) -> pa.Table:
    """Columns of `frames.SCHEMA` for one hour; text columns are dictionaries."""
    time_us, requests, vertical, clicked = hour.time_us, hour.requests, hour.vertical, hour.clicked
    n = len(vertical)
    world_people, sites = world.people, world.sites
    who = np.where(requests.known, requests.user + 1, _UNKNOWN_USER)
    app = world_people.app[requests.user]
    site_names = [worlds.domain(world, s) for s in range(len(sites.vertical))]
    bundles = [f"com.example.{VERTICALS[v][0]}{s}" for s, v in enumerate(sites.vertical)]
    place = requests.site * len(SIZES) + requests.size
    tagids = [f"{s}-{w}x{h}" for s in range(len(sites.vertical)) for w, h, *_ in SIZES]
    offered = ads()
    ad = vertical * len(market.BANNERS) + requests.size
    regions, cities, offsets = ([p[i] for p in _PLACES] for i in range(3))
    lived = world_people.place[requests.user]
    local = time_us + np.array(offsets)[lived] * 60_000_000
    where = requests.site + len(site_names) * app
    by_size = {
        name: np.array([float(size[i]) for size in SIZES])[requests.size] for i, name in enumerate(("width", "height"))
    }
    hashes = np.array([_place_hash(tagid) for tagid in tagids])
    numeric: dict[str, Any] = {
        **by_size,
        "position": np.ones(n),
        "instl": np.zeros(n),
        "floor_micros": requests.floor_micros.astype(np.float64),
        "hour": requests.hour.astype(np.float64),
        "weekday": ((local // DAY_US + 3) % 7).astype(np.float64),
        "n_imps": np.ones(n),
        "place_hash": hashes[place],
        "viewability": np.full(n, np.nan),
        "rewarded": np.zeros(n),
    }
    names = features.NAMES
    for i in range(features.N_REQUEST):
        if names[i].startswith("user_") and i not in features.CATEGORICAL:
            numeric[names[i]] = people.columns[who, i]
    numeric |= _pairs(world, people, requests, who, vertical)
    alone = who == _UNKNOWN_USER
    numeric |= {
        name: np.where(alone, np.nan, value)
        for name, value in (
            ("user_shown_24h", hour.seen.any_day),
            ("shown_24h", hour.seen.day),
            ("shown_7d", hour.seen.week),
            ("hours_since_shown", hour.seen.ago),
        )
    }
    last_category = np.zeros(n, dtype=np.int64)
    for i in np.flatnonzero(requests.known & np.isin(requests.user, list(hour.now))).tolist():
        record = hour.now[int(requests.user[i])]
        last_category[i], found = world_now.values(record, offered[ad[i]], time_us)
        for name, value in zip((*world_now.REQUEST_COLUMNS, *world_now.PAIR_COLUMNS), found, strict=True):
            numeric[name][i] = value
    text: dict[str, tuple[list[Any], Ints]] = {
        "exchange": ([EXCHANGE], np.zeros(n, dtype=np.int64)),
        "site": (site_names + bundles, where),
        "category": ([category for _, category in VERTICALS], sites.vertical[requests.site]),
        "content_category": ([""], np.zeros(n, dtype=np.int64)),
        "tagid": (tagids, place),
        "os": (["windows", "android"], app.astype(np.int64)),
        "browser": (["chrome"], np.zeros(n, dtype=np.int64)),
        "language": (["en"], np.zeros(n, dtype=np.int64)),
        "country": (["USA"], np.zeros(n, dtype=np.int64)),
        "region": (regions, lived),
        "city": (cities, lived),
        "campaign": ([a.campaign for a in offered], ad),
        "creative": ([a.creative for a in offered], ad),
        "advertiser": ([a.advertiser for a in offered], ad),
        "ad_category": ([a.category for a in offered], ad),
        "key": ([""], np.zeros(n, dtype=np.int64)),
    }
    whole: dict[str, Any] = {
        "device_type": np.where(app, 4, 2),
        "connection": np.where(app, 6, 2),
        "user_interest": people.interests[who],
        "user_last_category": last_category,
        "page_topic": np.array([0, *(topics[0] if topics else 0 for topics in _topics())])[_page(world, requests)],
        "search_topic": np.zeros(n, dtype=np.int64),
        "placement": np.zeros(n, dtype=np.int64),
        "uid": pa.array(requests.user.astype("<i8").view("S8").astype(object), pa.binary()),
        "time_us": np.full(n, time_us),
        "shown_us": np.full(n, time_us),
        "clicked": clicked,
        "clicked_us": np.where(clicked, time_us + 1, 0),
        "converted_us": np.zeros(n, dtype=np.int64),
        "value_micros": np.zeros(n, dtype=np.int64),
        "weight": np.ones(n),
        "chance": np.zeros(n),
        "lot": np.random.default_rng([world.config.seed, 9, time_us // HOUR_US]).random(n),
        **numeric,
    }
    made = {}
    for field in frames.SCHEMA:
        if field.name in text:
            values, index = text[field.name]
            made[field.name] = pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array(values))
        else:
            made[field.name] = pa.array(whole[field.name], field.type)
    return pa.table(made)


@cache
def _place_hash(tagid: str) -> float:
    return features.request_values(_NOTHING, Context(tagid=tagid), None, 0)[features.NAMES.index("place_hash")]


def _pairs(world: World, people: Audience, requests: Requests, who: Ints, vertical: Ints) -> dict[str, Floats]:
    """The pair features: what an ad of a vertical and a page or a user are to each other, looked up by combination."""
    pair_names = features.NAMES[features.N_REQUEST + features.N_CAMPAIGN :]
    match, named = _page_matches()
    empty = dict(zip(pair_names, pair_values(ads()[0], Context(), User(), 0), strict=True))
    found = {name: np.where(who == _UNKNOWN_USER, np.nan, value) for name, value in empty.items()}
    score = people.scores[who, vertical]
    found |= {"interest_score": score, "target_sum": score, "target_max": score}
    found["category_match"] = match[world.sites.vertical[requests.site], vertical]
    found["topic_match"] = named[_page(world, requests), vertical]
    found["in_fence"] = np.full(len(who), np.nan)
    return found


@cache
def _page_matches() -> tuple[Floats, Floats]:
    """category_match and topic_match of every vertical of a page (of its address: none first) and every advertiser."""
    offered = ads()
    first = [offered[k * len(market.BANNERS)] for k in range(market.ADVERTISED)]
    return (
        _looked_up("category_match", first, [Context(category=category) for _, category in VERTICALS]),
        _looked_up("topic_match", first, [Context(), *(Context(topics=topics) for topics in _topics())]),
    )


def _looked_up(name: str, offered: Sequence[Ad], contexts: Sequence[Context]) -> Floats:
    """One pair feature of every context and ad."""
    at = features.NAMES.index(name) - features.N_REQUEST - features.N_CAMPAIGN
    return np.array([[pair_values(ad, context, None, 0)[at] for ad in offered] for context in contexts])


def _topics() -> list[tuple[int, ...]]:
    """What the address of a page of each vertical names."""
    return [topics_of(words_of((), (vertical,))) for vertical, _ in VERTICALS]


def _page(world: World, requests: Requests) -> Ints:
    """The vertical in the address of each request's page, counted from 1; 0 in apps, which have no address."""
    return np.where(world.people.app[requests.user], 0, world.sites.vertical[requests.site] + 1)


def build(seed: int, rows: int, *, crossed: bool = True, wishers: float = 0.0) -> World:
    """A world with about as many people as such a log would meet.

    crossed: with the laws that do not add up. wishers: share of the people who want something new every day.
    """
    laws = CROSSED if crossed else WorldConfig()
    users = max(2_000, min(200_000, rows // 50))
    return worlds.build(msgspec.structs.replace(laws, seed=seed, users=users, wishers=wishers))
