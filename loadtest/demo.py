"""The whole trade in one command, on a simulated world: events, tags, a click model, a seed, bids, what they earned.

Three bidders play the same test requests. One uses the tags; one is the same bidder with tags switched off and a
model that never saw a user; the third has everybody else's tags (the placebo) and a model trained on those. All
parts are the real ones, as processes with real ports and stores; the exchange and its audience are simulated.
"""

import csv
import fcntl
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from rich.console import Console

from bidder import campaigns as portfolios
from bidder.snapshot import ad_of
from dmp import audiences, offline
from dmp.errors import TagbidError
from dmp.keys import number
from dmp.offline import Generation
from dmp.pseudonym import KeyRing
from dmp.schema import Uid, User
from dmp.store import Store, read_users
from loadtest import arms, behaviour, demo_report, market, media_tour, placebo, seeding, stage, world
from loadtest.arms import Played
from loadtest.stage import Stage
from loadtest.steps import Advance, Steps
from loadtest.world import VERTICALS, World, WorldConfig
from models import dataset, response
from models.dataset import Rows
from models.response import Report

CLICK_WAIT_US = 60_000_000  # simulated users click at once
EXPLORE_CTR = 0.05  # assumed without a model; high enough to win most of what is looked at
FOREVER_S = 0
TOUR_ROUNDS = 50  # requests of each medium


class Scale(msgspec.Struct, frozen=True):
    """How big the demo is. collect: requests for training; test: requests each arm plays; rate: requests a second.

    batch: requests between two looks of the exchange. seed_users: customers in the uploaded seed.
    """

    users: int = 20_000
    collect: int = 32_000
    test: int = 14_000
    rate: float = 1_000.0
    batch: int = 4_000
    seed_users: int = 1_200


class AnotherDemo(TagbidError):
    """The output folder belongs to a running demo."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another demo is running in {folder}; wait for it, or choose another --out")


def run(out: Path, console: Console, scale: Scale = Scale(), laws: WorldConfig | None = None) -> dict[str, Any]:  # noqa: B008 - frozen
    """Play the demo; writes `report.json` and `report.html` into `out` and returns the report.

    Everything else it makes lies in `out/work`, which is emptied first.
    """
    started = time.monotonic()
    with workspace(out) as work, Steps(console) as steps:
        now_us = time.time_ns() // 1000
        key = secrets.token_bytes(32)
        ring = KeyRing(key)
        sellers = market.advertisers()
        (work / "campaigns.toml").write_text(market.portfolio(sellers))

        def at(name: str, **bidder: str) -> Stage:
            return Stage(work / name, key, work / "campaigns.toml", work / name / "models", bidder)

        main, explorer = at("tags"), at("explore", prior_ctr=str(EXPLORE_CTR))
        off, blind = at("off", use_tags="false"), at("placebo")
        with steps.step("people and what they did"):
            earth = world.build(msgspec.structs.replace(laws or WorldConfig(), users=scale.users))
            events = behaviour.write(earth, behaviour.draw(earth, now_us), ring, work / "events", now_us)
        with steps.step("tags from events", total=scale.users) as advance:
            generation, tags = build_tags(main, work / "events", now_us, advance)
        with steps.step("bids without a model, to learn", total=scale.collect) as advance:
            copy_tags(explorer, tags, now_us)
            requests = world.draw_requests(earth, scale.collect, "collect", utc_hour(now_us))
            verticals = {seller.campaign: seller.vertical for seller in sellers}
            seats = [seller.seat for seller in sellers if not seller.audience]
            explored = arms.play(explorer, earth, requests, verticals, scale.rate, scale.batch, seats, advance)
        with steps.step("click models", total=3) as advance:
            rows = shown(explorer, work / "campaigns.toml")
            donors = placebo.deal(behaviour.uids_of(earth, ring), earth.config.seed)
            trained = [
                train(on, changed, advance)
                for on, changed in (
                    (main, rows),
                    (off, dataset.with_users(rows, lambda uid, user: None)),
                    (blind, dealt(rows, donors, by_user(tags))),
                )
            ]
        with steps.step("a seed becomes an audience"):
            lookalike = sellers[-1].audience
            write_seed(work / "customers.csv", earth, sellers[-1].vertical, scale.seed_users)
            with stage.store(main) as store:
                seed = seeding.grow(main, work / "customers.csv", lookalike)
                members = in_audience(store, earth, ring, lookalike)
        played: dict[str, Played] = {}
        copy_tags(blind, placebo.permuted(tags, donors), now_us)
        receivers = {donor: uid for uid, donor in donors.items()}
        with stage.store(blind) as store:
            audiences.add_members(store.sync(), lookalike, [receivers[uid] for uid in members], FOREVER_S)
        requests = world.draw_requests(earth, scale.test, "test", utc_hour(now_us))
        for name, on in (("tags on", main), ("tags off", off), ("placebo", blind)):
            with steps.step(f"auctions, {name}", total=scale.test) as advance:
                played[name] = arms.play(on, earth, requests, verticals, scale.rate, scale.batch, (), advance)
        with steps.step("every medium", total=5 * TOUR_ROUNDS) as advance:
            portfolio = Path(__file__).parent / "campaigns.toml"
            on = Stage(work / "media", key, portfolio, work / "media" / "models", {"funnel_every": "1"})
            media = media_tour.play(on, TOUR_ROUNDS, advance)
    report = demo_report.assemble(
        generation, events, seed, trained, explored, played, requests.user, steps.seconds, time.monotonic() - started
    )
    report["media"] = msgspec.to_builtins(media)
    demo_report.publish(report, played["tags on"].result, out, console)
    media_tour.show(media, console)
    return report


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """`out/work`, empty, ours alone as long as the block lasts; raises AnotherDemo."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherDemo(out) from None
        work = out / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        yield work


def build_tags(on: Stage, events: Path, now_us: int, advance: Advance) -> tuple[Generation, pa.Table]:
    """The first generation of a stage, and its tag table."""
    before = 0

    def progress(step: str, done: int, total: int) -> None:
        nonlocal before
        if step == "publish":
            advance(done - before)
            before = done

    with stage.store(on) as store:
        generation = offline.build(on.dmp, events, now_us, store, progress=progress)
        client = store.sync()
        tags = offline.live_tags(on.dmp, client)
        client.close()
    assert tags is not None  # noqa: S101 - just built
    return generation, tags


def copy_tags(to: Stage, tags: pa.Table, now_us: int) -> None:
    """Make tags the live generation of another stage."""
    with stage.store(to) as store:
        offline.publish_tags(to.dmp, tags, now_us, store, "demo")


def shown(on: Stage, campaigns: Path) -> Rows:
    """Training rows from a stage's bid log."""
    ads = [
        ad_of(campaign, creative)
        for campaign in portfolios.load(campaigns).campaigns
        for creative in campaign.creatives
    ]
    until_us = time.time_ns() // 1000 + CLICK_WAIT_US
    return dataset.rows(on.bid_log, (), ads, click_wait_us=CLICK_WAIT_US, until_us=until_us)


def by_user(tags: pa.Table) -> dict[Uid, dict[int, int]]:
    """{user: {tag: score}} of a tag table."""
    found: dict[Uid, dict[int, int]] = {}
    columns = (tags[name].to_pylist() for name in ("uid", "tag", "score"))
    for uid, tag, score in zip(*columns, strict=True):
        found.setdefault(uid, {})[tag] = score
    return found


def dealt(rows: Rows, donors: dict[Uid, Uid], tags: dict[Uid, dict[int, int]]) -> Rows:
    """Rows after the deal: who was known has the donor's tags now."""

    def other(uid: Uid | None, user: User | None) -> User | None:
        if uid is None or user is None:
            return None
        return User(tags.get(donors.get(uid, b""), {}), user.audiences, user.contacts)

    return dataset.with_users(rows, other)


def train(on: Stage, rows: Rows, advance: Advance) -> Report:
    """A click model for a stage; published even when the gate would rather not, because every arm needs one."""
    report = response.train(rows, on.models, now_us=time.time_ns() // 1000, force=True)
    advance(1)
    return report


def write_seed(file: Path, earth: World, vertical: int, customers: int) -> None:
    """A customer file as advertisers have them: known users, people nobody has seen, and lines that are no id."""
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(("id_type", "id"))
        lines.writerows(world.raw_id(earth, int(user)) for user in behaviour.buyers(earth, vertical, customers))
        lines.writerows(("email", f"customer{i}@{VERTICALS[vertical][0]}.example") for i in range(customers // 5))
        lines.writerows(("device", "00000000-0000-0000-0000-000000000000") for _ in range(5))


def in_audience(store: Store, earth: World, ring: KeyRing, audience: str) -> list[Uid]:
    """The world's users whom the store knows as members."""
    client = store.sync()
    uids = behaviour.uids_of(earth, ring)
    found = []
    for start in range(0, len(uids), 1_000):
        part = uids[start : start + 1_000]
        users = read_users(client, part, int(time.time()))
        found += [uid for uid, user in zip(part, users, strict=True) if number(audience) in user.audiences]
    client.close()
    return found


def utc_hour(now_us: int) -> int:
    return now_us // 3_600_000_000 % 24
