"""What the people of the world did in the days before: the events that tags are built from.

People act on what they care about, but not only: a share of what they do is noise, and somebody who does little
shows little. So tags recover interests imperfectly, as in life.
"""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.events import CONSENT_ALL
from dmp.pseudonym import KeyRing
from loadtest import world as worlds
from loadtest.world import VERTICALS, Ints, World

DAY_US = 86_400_000_000
KINDS: tuple[tuple[str, float], ...] = (("view", 0.78), ("search", 0.13), ("cart", 0.06), ("purchase", 0.03))
"""(kind, share of what people do)."""
NOISE = 0.25  # share of what people do that follows fashion instead of their interests
KNOWN_TO_ADVERTISER = 0.6  # share of people whose age and gender somebody's customer file tells


class Behaviours(msgspec.Struct, frozen=True):
    """n acts as columns, by time: user, index into KINDS, index into VERTICALS, time in µs UTC, site (-1: none),
    value in micro-dollars (purchases only).
    """

    user: Ints
    kind: Ints
    vertical: Ints
    time_us: Ints
    site: Ints
    value_micros: Ints


def draw(world: World, now_us: int, days: int = 14, per_user: float = 40.0) -> Behaviours:
    """Everything done in the `days` before now_us; on average per_user acts, more by those who are online more."""
    people, sites = world.people, world.sites
    rng = np.random.default_rng([world.config.seed, 2])
    u = len(people.activity)
    acts = rng.poisson(people.activity * u * per_user)
    user = np.repeat(np.arange(u), acts)
    n = len(user)
    bounds = np.cumsum(people.interests, axis=1)[user]
    wanted = (rng.random((n, 1)) * bounds[:, -1:] < bounds).argmax(axis=1)
    vertical = np.where(rng.random(n) < NOISE, rng.integers(0, len(VERTICALS), n), wanted)
    kind = rng.choice(len(KINDS), n, p=[share for _, share in KINDS])
    site = np.empty(n, dtype=np.int64)
    for k in range(len(VERTICALS)):
        about, here = np.flatnonzero(sites.vertical == k), vertical == k
        weight = sites.popularity[about]
        site[here] = rng.choice(about, int(here.sum()), p=weight / weight.sum())
    time_us = now_us - (rng.random(n) * days * DAY_US).astype(np.int64)
    spent = np.where(kind == len(KINDS) - 1, rng.lognormal(3.4, 0.8, n) * 1e6, 0).astype(np.int64)
    order = np.argsort(time_us, kind="stable")
    return Behaviours(user[order], kind[order], vertical[order], time_us[order], site[order], spent[order])


LATELY_US = 600_000_000
LATELY_KINDS = (0.55, 0.27, 0.18, 0.0)  # shares of KINDS: nobody has bought yet what they want today
WISH_ACTS, OTHER_ACTS = 4.0, 0.3  # a user's acts in these ten minutes: about the wish, and about anything


def lately(world: World, now_us: int, stream: int | None = None) -> Behaviours:
    """Everything done in the ten minutes before now_us, by time: mostly about what people want today.

    stream: names the draw; None for the one draw of a world that is asked once.
    """
    people, sites = world.people, world.sites
    rng = np.random.default_rng([world.config.seed, 7] if stream is None else [world.config.seed, 14, stream])
    wishers = np.flatnonzero(people.wish >= 0)
    about_wish = np.repeat(wishers, 1 + rng.poisson(WISH_ACTS - 1, len(wishers)))
    idle = np.repeat(np.arange(len(people.wish)), rng.poisson(OTHER_ACTS, len(people.wish)))
    user = np.concatenate([about_wish, idle])
    vertical = np.concatenate([people.wish[about_wish], rng.integers(0, len(VERTICALS), len(idle))])
    n = len(user)
    kind = rng.choice(len(KINDS), n, p=LATELY_KINDS)
    site = rng.integers(0, len(sites.vertical), n)
    time_us = np.sort(now_us - (rng.random(n) * LATELY_US).astype(np.int64))
    order = rng.permutation(n)
    return Behaviours(user[order], kind[order], vertical[order], time_us, site, np.zeros(n, np.int64))


BIRTH_YEARS = (2005, 1996, 1986, 1976, 1966, 1954)  # a year inside each of `world.AGES` as of 2026


def write(world: World, past: Behaviours, ring: KeyRing, folder: Path, now_us: int) -> int:
    """Write the past as Parquet event files (columns of `dmp.events`), ids as pseudonyms; returns the events written.

    Acts go to `acts.parquet`, the customer file's ages and genders to `crm.parquet`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    people = world.people
    uids = pa.array(uids_of(world, ring), pa.binary(16))
    n = len(past.user)
    acts = {
        "event_id": pa.array([f"a{i}" for i in range(n)]),
        "kind": pa.array([kind for kind, _ in KINDS]).take(pa.array(past.kind)),
        "uid": uids.take(pa.array(past.user)),
        "time_us": pa.array(past.time_us),
        "source": pa.array(["world"] * n),
        "consent": pa.array(np.full(n, CONSENT_ALL, dtype=np.int32)),
        "category": pa.array([name for name, _ in VERTICALS]).take(pa.array(past.vertical)),
        "site": pa.array([worlds.domain(world, s) for s in range(len(world.sites.vertical))]).take(pa.array(past.site)),
        "value_micros": pa.array(past.value_micros),
    }
    pq.write_table(pa.table(acts), folder / "acts.parquet")
    told = np.flatnonzero(known(world))
    m = len(told)
    crm = {
        "event_id": pa.array([f"c{user}" for user in told]),
        "kind": pa.array(["crm"] * m),
        "uid": uids.take(pa.array(told)),
        "time_us": pa.array(np.full(m, now_us - DAY_US)),
        "source": pa.array(["crm"] * m),
        "consent": pa.array(np.full(m, CONSENT_ALL, dtype=np.int32)),
        "gender": pa.array(["f", "m"]).take(pa.array(people.male[told].astype(np.int64))),
        "birth_year": pa.array(np.array(BIRTH_YEARS)[people.age[told]]),
    }
    pq.write_table(pa.table(crm), folder / "crm.parquet")
    return n + m


def uids_of(world: World, ring: KeyRing) -> list[bytes]:
    """The pseudonym of every user, in the order of the world."""
    found = []
    for user in range(len(world.people.activity)):
        uid = ring.uid(*worlds.raw_id(world, user))
        assert uid is not None  # noqa: S101 - the world makes no id that is none
        found.append(uid)
    return found


def known(world: World) -> npt.NDArray[np.bool_]:
    """(U,) whose age and gender are in a customer file."""
    rng = np.random.default_rng([world.config.seed, 3])
    found: npt.NDArray[np.bool_] = rng.random(len(world.people.activity)) < KNOWN_TO_ADVERTISER
    return found


def buyers(world: World, vertical: int, n: int) -> Ints:
    """Customers of an advertiser of this vertical: users who care for it, those who care most the likeliest."""
    rng = np.random.default_rng([world.config.seed, 4, vertical])
    caring = world.people.interests[:, vertical] ** 2
    eligible = int((caring > 1e-4).sum())
    found: Ints = rng.choice(len(caring), min(n, eligible), replace=False, p=caring / caring.sum())
    return found
