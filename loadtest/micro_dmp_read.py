"""How long the bid path waits for a user with 100 tags, the store's round trip included."""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from dmp import generations, store
from dmp.config import DmpConfig
from dmp.lookup import Lookup
from dmp.schema import User
from dmp.store import open_store
from loadtest.micro_dmp_publish import TAGS, generation

USERS, RATE, SECONDS = 100_000, 1_000, 10.0


def measure(scale: float, work: Path, step: Callable[[str], None]) -> dict[str, Any]:
    """read_p50_us, read_p99_us: from asking to having the decoded user, at RATE reads/s that wait for nothing."""
    users, seconds = max(2_000, round(USERS * scale)), max(2.0, SECONDS * min(1.0, scale))
    with open_store(DmpConfig(data_dir=str(work))) as tags, closing(tags.sync(timeout_s=60.0)) as client:
        step("users")
        made = generation(users, 1, 0.0)
        generations.publish(client, made, 1, 0)
        store.flip(client, 1, 0)
        rng = np.random.default_rng(5)
        asked = [made.uid(n) for n in rng.integers(0, users, round(RATE * seconds)).tolist()]
        step(f"{RATE:,} reads/s")
        waits_us = np.array(uvloop.run(_reads(tags.url, asked))) * 1e6
    half, most = np.percentile(waits_us, [50, 99]).tolist()
    return {"read_p50_us": round(half, 1), "read_p99_us": round(most, 1), "reads": len(waits_us)}


async def _reads(url: str, asked: list[bytes]) -> list[float]:
    """Seconds each read took; they go out on schedule whether or not those before were answered."""
    lookup = Lookup(url, stall_s=5.0)
    await lookup.start()
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def ask(uid: bytes) -> None:
        begun = time.perf_counter()

        def told(user: User | None) -> None:
            waits.append(time.perf_counter() - begun)
            assert user is not None  # noqa: S101 - a figure of failed reads would be none
            assert len(user.tags) == TAGS  # noqa: S101 - as above
            if len(waits) == len(asked):
                done.set_result(None)

        lookup.get(uid, time.monotonic() + 5.0, told)

    start = loop.time() + 0.2
    for number, uid in enumerate(asked):
        loop.call_at(start + number / RATE, ask, uid)
    try:
        await done
    finally:
        await lookup.close()
    return waits[len(waits) // 10 :]  # the first tenth warms caches
