"""The whole trade in one command, on a simulated world: events, tags, a click model, a seed, bids, what they earned.

Five bidders play the same test requests. One uses all tags; one those of the nightly build alone, one those of the
stream alone; one is the same bidder with tags switched off and a model that never saw a user; the last has everybody
else's tags (the placebo). Each has a model trained on what it sees. All parts are the real ones, as processes with real
ports and stores; the exchange and its audience are simulated.
"""

import contextlib
import csv
import fcntl
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
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
from dmp.schema import Realtime, Uid, User
from dmp.store import Store, read_users
from loadtest import arms, behaviour, demo_report, lately, market, media_tour, placebo, seeding, stage, world
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
    collect: int = 28_000
    test: int = 10_000
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
        slow, fast = at("longterm", use_realtime="false"), at("realtime", use_longterm="false")
        off, blind = at("off", use_tags="false"), at("placebo")
        with steps.step("people and what they did"):
            earth = world.build(msgspec.structs.replace(laws or WorldConfig(wishers=0.5), users=scale.users))
            uids = behaviour.uids_of(earth, ring)
            events = behaviour.write(earth, behaviour.draw(earth, now_us), ring, work / "events", now_us)
        with steps.step("tags from events", total=scale.users) as advance:
            generation, tags = build_tags(main, work / "events", now_us, advance)
        acts = behaviour.lately(earth, now_us)
        with steps.step("what they do now, over HTTP", total=len(acts.user)) as advance, stage.store(main) as store:
            sent = lately.send(main, earth, acts, uids, advance)
            recent = lately.records(store.sync(), uids)
        with steps.step("bids without a model, to learn", total=scale.collect) as advance:
            copy_tags(explorer, tags, now_us)
            copy_recent(explorer, recent)
            requests = world.draw_requests(earth, scale.collect, "collect", utc_hour(now_us))
            verticals = {seller.campaign: seller.vertical for seller in sellers}
            seats = [seller.seat for seller in sellers if not seller.audience]
            explored = arms.play(explorer, earth, requests, verticals, scale.rate, scale.batch, seats, advance)
        with steps.step("click models", total=5) as advance:
            rows = shown(explorer, work / "campaigns.toml")
            donors = placebo.deal(uids, earth.config.seed)
            trained = [
                train(on, changed, advance)
                for on, changed in (
                    (main, rows),
                    (slow, dataset.with_users(rows, lambda uid, user: part_of(user, realtime=None))),
                    (fast, dataset.with_users(rows, lambda uid, user: part_of(user, tags={}, vector=b""))),
                    (off, dataset.with_users(rows, lambda uid, user: None)),
                    (blind, dealt(rows, donors, by_user(tags), recent)),
                )
            ]
        with steps.step("a seed becomes an audience"):
            lookalike = sellers[-1].audience
            write_seed(work / "customers.csv", earth, sellers[-1].vertical, scale.seed_users)
            with stage.store(main) as store:
                seed = seeding.grow(main, work / "customers.csv", lookalike)
                members = in_audience(store, earth, ring, lookalike)
        played: dict[str, Played] = {}
        receivers = {donor: uid for uid, donor in donors.items()}
        copy_tags(slow, tags, now_us)
        copy_recent(fast, recent)
        copy_tags(blind, placebo.permuted(tags, donors), now_us)
        copy_recent(blind, {receivers[uid]: record for uid, record in recent.items()})
        add_members(slow, lookalike, members)
        add_members(blind, lookalike, [receivers[uid] for uid in members])
        requests = world.draw_requests(earth, scale.test, "test", utc_hour(now_us))
        for name, on in zip(demo_report.ARMS, (main, slow, fast, off, blind), strict=True):
            with steps.step(f"auctions, {name}", total=scale.test) as advance:
                played[name] = arms.play(on, earth, requests, verticals, scale.rate, scale.batch, (), advance)
        with steps.step("every medium", total=5 * TOUR_ROUNDS) as advance:
            portfolio = Path(__file__).parent / "campaigns.toml"
            on = Stage(work / "media", key, portfolio, work / "media" / "models", {"funnel_every": "1"})
            media = media_tour.play(on, TOUR_ROUNDS, advance)
    report = demo_report.assemble(
        generation,
        events,
        sent,
        seed,
        trained,
        explored,
        played,
        requests.user,
        steps.seconds,
        time.monotonic() - started,
    )
    report["media"] = msgspec.to_builtins(media)
    demo_report.publish(report, played[demo_report.ON].result, out, console)
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


def copy_recent(to: Stage, records: Mapping[Uid, Realtime]) -> None:
    """Give users these real-time records in another stage."""
    with stage.store(to) as store, contextlib.closing(store.sync()) as client:
        lately.copy(client, records)


def add_members(to: Stage, audience: str, members: Sequence[Uid]) -> None:
    with stage.store(to) as store, contextlib.closing(store.sync()) as client:
        audiences.add_members(client, audience, members, FOREVER_S)


def part_of(user: User | None, **without: Any) -> User | None:
    """A user as an arm sees them that does not read everything."""
    return None if user is None else msgspec.structs.replace(user, **without)


def dealt(rows: Rows, donors: dict[Uid, Uid], tags: dict[Uid, dict[int, int]], recent: Mapping[Uid, Realtime]) -> Rows:
    """Rows after the deal: who was known has the donor's tags now, of both kinds."""

    def other(uid: Uid | None, user: User | None) -> User | None:
        if uid is None or user is None:
            return None
        donor = donors.get(uid, b"")
        return User(tags.get(donor, {}), user.audiences, user.contacts, realtime=recent.get(donor))

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
