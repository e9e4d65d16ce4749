"""Figures of one machine rather than ratios: memory, a busy portfolio, a lost worker, overload, a store that stops."""

import os
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from bidder.campaigns import parse
from dmp.store import Store
from loadtest import scenario, scrape, stress
from loadtest.bench_servers import BUSY_CAMPAIGNS, BUSY_RATE, PORTS, WORKERS, Server, paused, play, saturate
from loadtest.scenario import Scenario

BUSY_S = 10.0
SATURATION_S = 2.0
WARM_RATE, WARM_S = 300.0, 3.0
UNREAD = {how: f'tagbid_store_total{{result="{how}"}}' for how in ("skipped", "late", "error")}
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
    tmax_ms = made.world.config.tmax_ms
    store_pids = [] if store.server is None else [store.server.pid]
    found: dict[str, Any] = {
        "requests_per_s_one_core": round(1e6 / statistics.median(bidder.cpu_us)),
        "rss_mb_10k_campaigns": stress.rss_mb(servers["bidder_10k"].child.process.pid),
    }
    with paused(server for server in servers.values() if server is not bidder):
        step(f"overload, {drill_s:.0f} s")
        saturation = 1e6 / statistics.median(bidder.cpu_us)
        bodies = stress.bid_on(bidder.url, made.bodies, saturation / 4)
        bidder.rate = 2 * saturation
        saturation = 1e6 / statistics.median(saturate(bidder, bodies, SATURATION_S) for _ in range(3))
        found["overload"] = msgspec.to_builtins(
            stress.overload(
                bidder.url, bidder.admin, bodies, saturation, drill_s, tmax_ms,
                {"server": bidder.pids, "store": store_pids},
            )
        )  # fmt: skip
    with paused(server for server in servers.values() if server is not busy):
        step(f"{BUSY_RATE:,} requests/s, {BUSY_CAMPAIGNS:,} campaigns")
        found["busy"] = _busy(busy, made.bodies, store_pids)
        victim = max(
            pid
            for pid in scrape.family(busy.child.process.pid)
            if scrape.listens(pid, PORTS["bidder_5k"]) and pid != busy.child.process.pid
        )
        found["worker_replaced_s"] = stress.replaced_s(lambda: os.kill(victim, signal.SIGKILL), busy.admin, WORKERS)
    step("store stopped")
    found["outage"] = None
    if store.server is None:
        nulls["outage"] = "the tag store is not ours to stop: leave dmp.redis_url empty"
    else:
        parsed = parse(scenario.portfolio(made, campaigns, free=campaigns // 2), "bench portfolio").campaigns
        tagged = [campaign.id for campaign in parsed if campaign.targeting.tags]
        with paused(server for server in servers.values() if server is not free):
            play(free, made.bodies, WARM_RATE, WARM_S)  # after so long a pause it has no budget
            found["outage"] = msgspec.to_builtins(
                stress.outage(
                    free.url, free.admin, store.server.pid, made.bodies, saturation / 2,
                    [f"c{i}" for i in range(campaigns // 2)], tagged, tmax_ms,
                )
            )  # fmt: skip
    return found, nulls


def _busy(server: Server, bodies: Sequence[bytes], store_pids: Sequence[int]) -> dict[str, Any]:
    """A portfolio and a rate that this machine may not be able to serve: then it sheds, and skips no cap check."""
    pids = {"workers": server.pids, "store": store_pids}
    before, spent = scrape.metrics(server.admin), {name: scrape.cpu_s(of) for name, of in pids.items()}
    result = play(server, bodies, BUSY_RATE, BUSY_S)
    cores = stress.cores_used(spent, pids, result)
    after = scrape.metrics(server.admin)
    unread = {how: int(_grown(before, after, name)) for how, name in UNREAD.items()}
    return {
        "rate": BUSY_RATE,
        "campaigns": BUSY_CAMPAIGNS,
        "workers": WORKERS,
        "p99_us": round(float(np.percentile(result.latency_us[result.latency_us >= 0], 99))),
        "answered_in_time": round(float(stress.in_time(result).mean()), 4),
        "shed": int(_grown(before, after, stress.SHED)),
        "cap_checks_skipped": sum(unread.values()),
        "unread": unread,
        "cores": cores,
    }


def _grown(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)
