"""Figures of one machine rather than ratios: memory, a busy portfolio, a lost worker, overload, a store that stops."""

import os
import signal
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from bidder.campaigns import parse
from dmp.store import Store
from loadtest import scenario, scrape, stress
from loadtest.bench_servers import BUSY_CAMPAIGNS, BUSY_RATE, PORTS, WORKERS, Server, play
from loadtest.scenario import Scenario

BUSY_S = 10.0
UNREAD = tuple(f'tagbid_store_total{{result="{how}"}}' for how in ("skipped", "late", "error"))
GOALS = {
    "busy.cap_checks_skipped": "0",
    "worker_replaced_s": "< 1",
    "overload.goodput_share": ">= 0.8",
    "overload.in_time": ">= 0.99",
    "overload.shed_p99_ms": "< 5",
    "overload.recovery_s": "< 2",
    "outage.errors": "0",
    "outage.in_time": "all",
    "outage.free_kept": ">= 0.95",
    "outage.breaker_ms": "<= 250",
    "outage.back_s": "<= 2",
}


def markers(
    servers: Mapping[str, Server],
    store: Store,
    made: Scenario,
    campaigns: int,
    drill_s: float,
    step: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of this machine rather than ratios: memory, a busy portfolio, the drills; and why one is missing."""
    nulls = {}
    bidder, busy, free = servers["bidder"], servers["bidder_5k"], servers["bidder_free"]
    saturation = 1e6 / statistics.median(bidder.cpu_us)
    tmax_ms = made.world.config.tmax_ms
    found: dict[str, Any] = {
        "requests_per_s_one_core": round(saturation),
        "rss_mb_10k_campaigns": stress.rss_mb(servers["bidder_10k"].child.process.pid),
    }
    step(f"{BUSY_RATE:,} requests/s, {BUSY_CAMPAIGNS:,} campaigns")
    before = scrape.metrics(busy.admin)
    result = play(busy, made.bodies, BUSY_RATE, BUSY_S)
    after = scrape.metrics(busy.admin)
    found["busy"] = {
        "rate": BUSY_RATE,
        "campaigns": BUSY_CAMPAIGNS,
        "workers": WORKERS,
        "p99_us": round(float(np.percentile(result.latency_us[result.latency_us >= 0], 99))),
        "answered_in_time": round(float(stress.in_time(result).mean()), 4),
        "shed": int(after.get(stress.SHED, 0) - before.get(stress.SHED, 0)),
        "cap_checks_skipped": int(sum(_grown(before, after, name) for name in UNREAD)),
    }
    victim = max(scrape.children(busy.child.process.pid, listening=PORTS["bidder_5k"]))
    found["worker_replaced_s"] = stress.replaced_s(lambda: os.kill(victim, signal.SIGKILL), busy.admin, WORKERS)
    step(f"overload, {drill_s:.0f} s")
    found["overload"] = msgspec.to_builtins(
        stress.overload(bidder.url, bidder.admin, made.bodies, saturation, drill_s, tmax_ms)
    )
    step("store stopped")
    found["outage"] = None
    if store.server is None:
        nulls["outage"] = "the tag store is not ours to stop: leave dmp.redis_url empty"
    else:
        parsed = parse(scenario.portfolio(made, campaigns, free=campaigns // 2), "bench portfolio").campaigns
        tagged = [campaign.id for campaign in parsed if campaign.targeting.tags]
        found["outage"] = msgspec.to_builtins(
            stress.outage(
                free.url, free.admin, store.server.pid, made.bodies, saturation / 2,
                [f"c{i}" for i in range(campaigns // 2)], tagged, tmax_ms,
            )
        )  # fmt: skip
    return found, nulls


def _grown(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)
