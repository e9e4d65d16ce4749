"""Publishing a generation against raw pipelined SETs of the same bytes, and what the store holds meanwhile."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dmp import codec, generations, keys
from dmp.config import DmpConfig
from dmp.grouped import Grouped
from dmp.store import open_store

USERS, TAGS = 1_000_000, 100
PIPELINE = 1_000  # commands a round trip, as many users as publishing takes at once
FIRST_TAG, FIRST_DAY, DAYS = 1_000, 19_900, 90


def generation(users: int, seed: int, changed: float) -> Grouped:
    """Users with 100 tags each; a share of them has other scores than with another seed."""
    same, other = np.random.default_rng(0), np.random.default_rng(seed)
    uids = np.sort(np.frombuffer(same.bytes(16 * users), "S16"))
    n = users * TAGS
    score = same.integers(0, 101, n, dtype=np.uint8)
    day = same.integers(FIRST_DAY, FIRST_DAY + DAYS, n, dtype=np.uint16)
    moved = np.flatnonzero(other.random(users) < changed)
    score.reshape(users, TAGS)[moved] = other.integers(0, 101, (len(moved), TAGS), dtype=np.uint8)
    tag = np.tile(np.arange(FIRST_TAG, FIRST_TAG + TAGS, dtype=np.uint32), users)
    return Grouped(uids.tobytes(), np.arange(0, n + 1, TAGS), tag, score, day, np.ones(n, np.uint8))


def measure(scale: float, work: Path, step: Callable[[str], None]) -> dict[str, Any]:
    """publish_over_raw_set: users/s of publishing over those of raw SETs, the worse of a first build and of one in
    which every user changed. gib_per_million_users: of a store that holds one generation. swap_memory_ratio_all,
    _fifth: most memory from the begin of a build to its end over that before it.
    """
    users = max(2_000, round(USERS * scale))
    told: dict[str, Any] = {"publish_users": users}
    step("making users")
    first = generation(users, 1, 0.0)
    raw = _raw_rate(first, work / "raw", step)
    with open_store(DmpConfig(data_dir=str(work / "publish"))) as store, closing(store.sync(timeout_s=60.0)) as client:

        def memory(which: str = "used_memory") -> int:
            return int(client.info("memory")[which])

        def rate(name: str, *arguments: Any) -> float:
            step(name)
            begun = time.perf_counter()
            generations.publish(client, *arguments)
            return users / (time.perf_counter() - begun)

        empty = memory()
        from_nothing = rate("first generation", first, 1, 0)
        held = memory() - empty
        told["gib_per_million_users"] = round(held / users * 1e6 / 2**30, 3)
        unchanged = rate("nobody changed", first, 2, 1)
        step("making a fifth of changes")
        fifth = generation(users, 2, 0.2)
        some = rate("a fifth changed", fifth, 3, 2)
        told["swap_memory_ratio_fifth"] = round((memory("used_memory_peak") - empty) / held, 3)
        del fifth
        step("making changes")
        other = generation(users, 3, 1.0)
        every = rate("everybody changed", other, 4, 3)
        told["swap_memory_ratio_all"] = round((memory("used_memory_peak") - empty) / held, 3)
        generations.verify(client, other, 4)
    told["publish_over_raw_set"] = round(min(from_nothing, every) / raw, 3)
    told["raw_set_users_per_s"] = round(raw)
    told["publish_first_users_per_s"] = round(from_nothing)
    told["publish_unchanged_users_per_s"] = round(unchanged)
    told["publish_fifth_users_per_s"] = round(some)
    told["publish_all_users_per_s"] = round(every)
    return told


def _raw_rate(tags: Grouped, work: Path, step: Callable[[str], None]) -> float:
    """Users/s the obvious way, the better of two: redis-py, pipelines of SETs, into a store of its own."""
    records = [(uid, codec.profile_head(1, n) + body) for uid, n, body in generations.bodies(tags)]
    rates = []
    with open_store(DmpConfig(data_dir=str(work))) as store, closing(store.sync(timeout_s=60.0)) as client:
        for _ in range(2):
            step("raw SETs")
            begun = time.perf_counter()
            for start in range(0, len(records), PIPELINE):
                pipe = client.pipeline(transaction=False)
                for uid, record in records[start : start + PIPELINE]:
                    pipe.set(keys.profile(uid, 0), record, ex=keys.PROFILE_TTL_S)
                pipe.execute()
            rates.append(len(records) / (time.perf_counter() - begun))
            client.flushall()
    return max(rates)
