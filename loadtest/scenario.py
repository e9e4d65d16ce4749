"""What the benchmarks decide about: a world's users with tags, caps and audiences, a portfolio, a model, requests.

Everything follows from one seed. The portfolio is made so that about ten candidates are scored per request however
many campaigns there are: more campaigns means each asks for fewer sites, as in a real exchange.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import redis

from bidder.campaigns import parse
from bidder.snapshot import ad_of
from dmp import audiences, codec, keys, offline
from dmp.config import DmpConfig
from dmp.pseudonym import KeyRing
from dmp.schema import Contact
from dmp.store import Store, read_users
from dmp.taxonomy import tag_name
from loadtest import behaviour
from loadtest import world as worlds
from loadtest.rival import context_of
from loadtest.world import SIZES, VERTICALS, Requests, World
from models import features, registry
from models.features import Row

CANDIDATES = 10  # scored per request on average
PASSING = 0.55  # of the ads that fit by size and site; tags, hours and floors take the rest: 10.1 are scored
TREES, LEAVES = 200, 63
TRAINING_ROWS = 40_000
EXCHANGE = "bench"
HOUR_US = 3_600_000_000


class Scenario(msgspec.Struct, frozen=True):
    """A world and the requests of its users. bodies: OpenRTB JSON; rows of `requests` and bodies line up."""

    world: World
    requests: Requests
    bodies: Sequence[bytes]


def make(seed: int, users: int, requests: int) -> Scenario:
    """Requests of one seeded world."""
    world = worlds.build(worlds.WorldConfig(seed=seed, users=users, no_id=0.0, lmt=0.0))
    drawn = worlds.draw_requests(world, requests, "bench")
    return Scenario(world, drawn, [worlds.request_body(world, drawn, i) for i in range(requests)])


def portfolio(scenario: Scenario, campaigns: int, free: int = 0) -> str:
    """TOML of a portfolio of which about `CANDIDATES` ads are scored for a request.

    free: so many of the campaigns, the first ones, ask nothing about the user: no tag, no audience, no cap.

    Every campaign has two sizes, sites and apps it wants, caps; a third asks for a tag, a tenth for an audience,
    half have hours, and a third pay per click.
    """
    world = scenario.world
    rng = np.random.default_rng([world.config.seed, campaigns])
    shares = np.array([size[2] for size in SIZES])
    sites = len(world.sites.vertical)
    names = [worlds.domain(world, site) for site in range(sites)]
    bundles = [f"com.example.{VERTICALS[world.sites.vertical[site]][0]}{site}" for site in range(sites)]
    fit = 2 * float((shares * shares).sum()) * PASSING  # both sizes are drawn by share
    wanted = min(1.0, CANDIDATES / (campaigns * fit))
    tables = []
    for i in range(campaigns):
        vertical, category = VERTICALS[int(rng.integers(len(VERTICALS)))]
        chosen = np.flatnonzero(rng.random(sites) < wanted)
        if not len(chosen):
            chosen = rng.integers(sites, size=1)
        per_click = rng.random() < 0.34
        price = int(rng.integers(60_000, 200_000) if per_click else rng.integers(2_000_000, 6_000_000))
        targeting = [
            "countries = ['USA']",
            f"domains = {[names[s] for s in chosen]}",
            f"apps = {[bundles[s] for s in chosen]}",
        ]
        asks = len(targeting)
        if rng.random() < 0.33:
            targeting.append(f"tags = {{ 'interest.{vertical}' = {int(rng.integers(10, 60))} }}")
        elif rng.random() < 0.1:
            targeting.append("audiences = ['bench/a', 'bench/b']")
        if i < free:
            del targeting[asks:]
        if rng.random() < 0.5:
            hours = sorted(int(hour) for hour in rng.choice(24, 21, replace=False))
            targeting.append(f"hours = {hours}")
        tables.append(
            f"[[campaign]]\nid = 'c{i}'\nadvertiser = 'a{i % 40}'\nadomain = 'a{i % 40}.example'\n"
            f"cat = ['{category}']\n"
            f"interest = 'interest.{vertical}'\ngoal = '{'cpc' if per_click else 'cpm'}'\nprice_micros = {price}\n"
            f"daily_budget_micros = 1000000000000\n"
            f"caps = [{'' if i < free else '{ limit = 20, window_s = 86400 }'}]\n"
            f"targeting = {{ {', '.join(targeting)} }}\n"
        )
        for s in rng.choice(len(SIZES), 2, replace=False, p=shares):
            width, height = SIZES[s][:2]
            tables.append(
                f"[[campaign.creatives]]\nid = 'c{i}-{width}x{height}'\nw = {width}\nh = {height}\n"
                f"image_url = 'https://cdn.example/c{i}.png'\nlanding_url = 'https://a{i % 40}.example/{i}'\n"
            )
    return "\n".join(tables)


def load_users(scenario: Scenario, config: DmpConfig, store: Store, ring: KeyRing, now_us: int, work: Path) -> None:
    """Give the users of the world tags by a real build from behaviour, and caps and audiences as bids leave them."""
    world = scenario.world
    behaviour.write(world, behaviour.draw(world, now_us, per_user=20.0), ring, work, now_us)
    offline.build(config, work, now_us, store)
    uids = behaviour.uids_of(world, ring)
    client: redis.Redis = store.sync()
    audiences.add_members(client, "bench/a", uids[::7], now_us // 1_000_000 + 86_400)
    rng = np.random.default_rng([world.config.seed, 9])
    hour = now_us // HOUR_US
    for start in range(0, len(uids), 1_000):
        pipe = client.pipeline(transaction=False)
        for uid in uids[start : start + 1_000]:
            met = [Contact(keys.number(f"c{rng.integers(100)}"), int(hour - rng.integers(30)), 1) for _ in range(4)]
            pipe.set(keys.contacts(uid), codec.encode_contacts(met), ex=86_400)
        pipe.execute()
    client.close()


def train(scenario: Scenario, text: str, store: Store, ring: KeyRing, now_us: int, root: Path) -> str:
    """Publish a click model of 200 trees of up to 63 leaves learnt from what the world would do; returns its version.

    Trees are grown to full size on purpose: the bench measures scoring, not skill. text: the portfolio's TOML.
    """
    world, requests = scenario.world, scenario.requests
    rng = np.random.default_rng([world.config.seed, 11])
    picked = rng.integers(len(scenario.bodies), size=TRAINING_ROWS)
    client = store.sync()
    users = read_users(client, behaviour.uids_of(world, ring), now_us // 1_000_000)
    client.close()
    campaigns = parse(text, "bench portfolio").campaigns
    ads = [ad_of(campaign, creative) for campaign in campaigns for creative in campaign.creatives]
    rows: list[Row] = []
    chances = np.empty(TRAINING_ROWS)
    for n, i in enumerate(picked.tolist()):
        ad = ads[int(rng.integers(len(ads)))]
        body = json.loads(scenario.bodies[i])
        context = context_of(body, body["imp"][0], int(requests.floor_micros[i]), now_us, EXCHANGE)
        rows.append((context, users[requests.user[i]], ad, now_us))
        vertical = worlds.vertical_of(tag_name(ad.interest))
        chances[n] = requests.click[i].mean() if vertical is None else requests.click[i, vertical]
    labels = (rng.random(TRAINING_ROWS) < np.minimum(1.0, 8 * chances)).astype(np.float64)
    vocabulary = features.fit_vocabulary(rows)
    X = features.matrix(vocabulary, rows)
    data = lightgbm.Dataset(
        X, labels, categorical_feature=list(features.CATEGORICAL), feature_name=list(features.NAMES)
    )
    booster = lightgbm.train(
        {
            "objective": "binary",
            "num_leaves": LEAVES,
            "min_data_in_leaf": 20,
            "learning_rate": 0.05,
            "num_threads": 1,  # this process may have one core only, where two threads wait for each other for minutes
            "seed": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        },
        data,
        num_boost_round=TREES,
    )
    golden = X[:200]
    artefact = registry.Artefact(
        text=booster.model_to_string(),
        vocabulary=vocabulary,
        knots_x=[0.0, 1.0],
        knots_y=[0.0, 0.125],  # undoes the factor of the labels
        golden_rows=golden,
        golden_scores=np.asarray(booster.predict(golden, raw_score=True)),
        created_us=now_us,
        from_us=now_us,
        to_us=now_us,
        rows=TRAINING_ROWS,
        positives=int(labels.sum()),
        metrics={},
        card={"purpose": "benchmark"},
    )
    return registry.publish(root, "response", artefact)
