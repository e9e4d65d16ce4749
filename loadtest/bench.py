"""The bidder against its yardsticks on the same requests in one run: `tagbid loadtest bench`.

CPU per request is what is compared: it repeats within a few percent where latencies and rates of a shared machine
do not. Servers take turns within each round, each kept busy over 32 connections, and the figures are medians over
the rounds; latency is taken at half of that load. Before anything is timed, the bids of the bidder and of its rivals
are compared one by one.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dmp.config import DmpConfig
from dmp.errors import TagbidError
from dmp.pseudonym import KeyRing, load_key
from dmp.store import Store, open_store
from loadtest import bench_markers, generator, machine, micro, scenario
from loadtest.bench_servers import (
    BUSY_CAMPAIGNS,
    MARKERS,
    PORTS,
    Server,
    commands,
    leave_core_to_servers,
    play,
    saturate,
    serving,
)
from loadtest.load import Load
from loadtest.scenario import Scenario

PROBE_RATE = 300  # requests per second when bids are compared: within what any of them can do
WARM_RATE = 500  # likewise, where answers may take their time
MAX_RATE = 40_000  # more would measure the generator
COMPARED = 400
LATENCIES = ("p50_us", "p99_us", "p999_us")
ALIKE = ("bidder", "bidder_numpy", "rival", "fastapi")
"""Servers that must make the same bids."""


GOALS = {
    "rival_over_ours": "c >= 10, numpy >= 6",
    "fastapi_over_ours": "c >= 15, numpy >= 8",
    "ours_over_aiohttp204": "c <= 2, numpy <= 3.5",
    "floor_over_nginx": ">= 0.7 (requests per CPU second)",
    "campaigns_10k_over_1k": "<= 2",
    "workers_2_over_1": "<= 1.1",
    "p99_over_rival": "<= 0.5",
    "score10_over_booster": "c <= 0.1, numpy <= 0.3",
    "rival_over_aiohttp204": "<= 25, or the rival is no honest one",
    "fastapi_over_aiohttp204": "<= 35, likewise",
}


class Differs(TagbidError):
    """The rival does not make the bids the bidder makes, so their costs cannot be compared."""


def run(
    out: Path,
    work: Path,
    rounds: int,
    seconds: float,
    campaigns: int,
    users: int,
    console: Console,
    drill_s: float = 60.0,
) -> dict[str, Any]:
    """Prepare, compare, measure; writes `out` as JSON and returns it. work: folder for state, emptied first.

    drill_s: how long the bidder is overloaded.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o700)
    # The bar is drawn at steps only: drawn ten times a second it would take the generator's core from it.
    with Progress(console=Console(stderr=True), auto_refresh=False) as bar, ExitStack() as stack:
        task = bar.add_task("world", total=8 + rounds * (len(PORTS) - len(MARKERS)))

        def step(what: str) -> None:
            bar.update(task, advance=1, description=what, refresh=True)

        config = DmpConfig(data_dir=str(work / "data"))
        store = stack.enter_context(open_store(config))
        made = prepare(work, config, store, campaigns, users, step)  # on all cores
        leave_core_to_servers(*([] if store.server is None else [store.server.pid]))
        ring = KeyRing(load_key(Path(config.data_dir) / "pseudonym.key"))
        scored, difference = uvloop.run(micro.scoring(work, store, ring, made.bodies, rounds))
        servers = [
            stack.enter_context(serving(name, command, environ, work))
            for name, (command, environ) in commands(work, store).items()
        ]
        by_name = {server.name: server for server in servers}
        step("comparing bids")
        for server in servers:
            play(server, made.bodies, WARM_RATE, len(made.bodies) / WARM_RATE / 3)  # caches warm, budgets leased
        timed = [server for server in servers if server.name not in MARKERS]
        time.sleep(to_next_hour_s(time.time()))  # the hour is a feature: asked in two hours, the same request differs
        same, bid_rate = compare([by_name[name] for name in ALIKE if name in by_name], made.bodies[:COMPARED])
        step("first look")
        for server in timed:
            for _ in range(2):  # a request costs less the more of them there are, so the rate is found in steps
                server.rate = min(MAX_RATE, 2e6 / max(1.0, saturate(server, made.bodies, 1.0)))
            server.bid_share.clear()
            server.not_whole.clear()
        for number in range(rounds):
            for server in timed:
                step(f"round {number + 1} of {rounds}: {server.name}")
                server.cpu_us.append(saturate(server, made.bodies, seconds))
            for server in (by_name[name] for name in ("bidder", "rival")):
                half = 0.5e6 / statistics.median(server.cpu_us)
                latency = play(server, made.bodies, half, seconds).latency_us
                for figures, q in ((server.p50_us, 50), (server.p99_us, 99), (server.p999_us, 99.9)):
                    figures.append(float(np.percentile(latency[latency >= 0], q)))
        found = report(timed, same, bid_rate, campaigns, users, rounds, seconds)
        found["markers"], nulls = bench_markers.markers(by_name, store, made, campaigns, drill_s, step)
        found["ratios"]["score10_over_booster"] = scored if "c" in scored else {"c": None, **scored}
        found["score10_difference"] = difference
        found["why_null"] |= nulls
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return found


def prepare(
    work: Path, config: DmpConfig, store: Store, campaigns: int, users: int, step: Callable[[str], None]
) -> Scenario:
    """Users, portfolio, model and configuration of the servers, in `work`."""
    now_us = time.time_ns() // 1000
    made = scenario.make(seed=7, users=users, requests=4_000)
    ring = KeyRing(load_key(Path(config.data_dir) / "pseudonym.key"))
    step("users")
    scenario.load_users(made, config, store, ring, now_us, work / "events")
    text = scenario.portfolio(made, campaigns)
    (work / "campaigns.toml").write_text(text)
    step("model")
    scenario.train(made, text, store, ring, now_us, work / "models")
    for more in (1_000, BUSY_CAMPAIGNS, 10_000):
        (work / f"campaigns_{more}.toml").write_text(scenario.portfolio(made, more))
    (work / "campaigns_free.toml").write_text(scenario.portfolio(made, campaigns, free=campaigns // 2))
    step("servers")
    return made


def to_next_hour_s(now_s: float, needed_s: float = 30.0) -> float:
    """Seconds until the next hour where fewer than `needed_s` of this one are left, else 0. now_s: Unix time.

    >>> to_next_hour_s(7_190.0), to_next_hour_s(7_200.0)
    (10.0, 0.0)
    """
    left_s = 3_600.0 - now_s % 3_600.0
    return left_s if left_s < needed_s else 0.0


def compare(servers: Sequence[Server], bodies: Sequence[bytes]) -> tuple[int, float]:
    """(requests with the same bid, share of requests bid on); raises Differs when any bid differs."""
    answers = {
        server.name: generator.play(
            Load(server.url, bodies, rate=PROBE_RATE, duration_s=1.0, count=len(bodies), tmax_ms=1_000)
        ).bodies
        for server in servers
    }
    bids = 0
    for i, body in enumerate(bodies):
        found = {name: _bids(answer.get(i, b"")) for name, answer in answers.items()}
        first = found[servers[0].name]
        for name, other in found.items():
            if other != first:
                raise Differs(f"request {json.loads(body)['id']}: the bidder says {first}, {name} says {other}")
        bids += bool(first)
    return len(bodies), bids / len(bodies)


def _bids(answer: bytes) -> list[tuple[Any, ...]]:
    if not answer:
        return []
    found = json.loads(answer)
    return sorted(
        (bid["impid"], bid["crid"], bid["cid"], bid["price"], bid["w"], bid["h"], seat["seat"])
        for seat in found.get("seatbid", ())
        for bid in seat["bid"]
    )


def report(
    servers: Sequence[Server], same: int, bid_rate: float, campaigns: int, users: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """The figures as JSON: medians, spreads and ratios of CPU per request."""
    cpu = {server.name: server.cpu_us for server in servers}
    p99 = {server.name: server.p99_us for server in servers}

    def ratio(a: str, b: str) -> float | None:
        if a not in cpu or b not in cpu:
            return None
        return round(statistics.median(x / y for x, y in zip(cpu[a], cpu[b], strict=True)), 3)

    def both(top: str, bottom: str) -> dict[str, float | None]:
        """The ratio with the bidder of either kernel in the place of `ours`."""
        built = "bidder_numpy" in cpu
        kernels = {"c": "bidder", "numpy": "bidder_numpy"} if built else {"c": "", "numpy": "bidder"}
        return {
            kernel: ratio(name if top == "ours" else top, name if bottom == "ours" else bottom)
            for kernel, name in kernels.items()
        }

    latency = [ours / theirs for ours, theirs in zip(p99["bidder"], p99["rival"], strict=True)]
    return {
        "machine": msgspec.to_builtins(machine.machine()),
        "commit": msgspec.to_builtins(machine.commit()),
        "at": time.strftime("%Y-%m-%d", time.gmtime()),
        "campaigns": campaigns,
        "users": users,
        "rounds": rounds,
        "seconds": seconds,
        "same_bids": same,
        "bid_rate": round(bid_rate, 4),
        "servers": {
            server.name: {
                "cpu_us": round(statistics.median(server.cpu_us), 1),
                "cpu_us_min": round(min(server.cpu_us), 1),
                "cpu_us_max": round(max(server.cpu_us), 1),
                "requests_per_cpu_s": round(1e6 / statistics.median(server.cpu_us)),
                "bid_share": round(statistics.median(server.bid_share), 3),
                "not_whole": round(max(server.not_whole), 4),
                **{
                    name: round(statistics.median(figures)) if figures else None
                    for name, figures in (
                        ("p50_us", server.p50_us),
                        ("p99_us", server.p99_us),
                        ("p999_us", server.p999_us),
                    )
                },
            }
            for server in servers
        },
        "ratios": {
            "rival_over_ours": both("rival", "ours"),
            "fastapi_over_ours": both("fastapi", "ours"),
            "ours_over_aiohttp204": both("ours", "aiohttp204"),
            "floor_over_nginx": ratio("nginx204", "lane204"),
            "campaigns_10k_over_1k": ratio("bidder_10k", "bidder_1k"),
            "workers_2_over_1": ratio("bidder_2w", "bidder"),
            "p99_over_rival": round(statistics.median(latency), 3),
            "rival_over_aiohttp204": ratio("rival", "aiohttp204"),
            "fastapi_over_aiohttp204": ratio("fastapi", "aiohttp204"),
        },
        "p99_over_rival_range": [round(min(latency), 3), round(max(latency), 3)],
        "p99_over_rival_conclusive": apart(p99["bidder"], p99["rival"]),
        "why_null": ({} if "nginx204" in cpu else {"floor_over_nginx": "nginx is not installed"})
        | ({} if "bidder_numpy" in cpu else {"c": "the compiled kernel is not built"}),
    }


def apart(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether the ranges of two servers' figures do not overlap, so that one is better beyond the noise.

    >>> apart([1.0, 2.0], [3.0, 4.0]), apart([1.0, 3.5], [3.0, 9.0])
    (True, False)
    """
    return max(ours) < min(theirs) or max(theirs) < min(ours)


def print_tables(console: Console, found: dict[str, Any]) -> None:
    """The report for people."""
    table = Table(
        "server", "CPU µs/request", "min to max", "requests/CPU s", "bid on", "p99 µs at half load", title="one core"
    )
    for name, figures in found["servers"].items():
        table.add_row(
            name,
            f"{figures['cpu_us']:,.1f}",
            f"{figures['cpu_us_min']:,.1f} to {figures['cpu_us_max']:,.1f}",
            f"{figures['requests_per_cpu_s']:,}",
            f"{figures['bid_share']:.1%}" + (f", {less:.2%} not whole" if (less := figures["not_whole"]) else ""),
            f"{figures['p99_us']:,}" if figures["p99_us"] is not None else "",
        )
    console.print(table)
    ratios = Table("ratio", "measured", "goal")
    for name, value in found["ratios"].items():
        told = value.items() if isinstance(value, dict) else [("", value)]
        text = ", ".join(f"{kernel} {number:.2f}".strip() if number is not None else "null" for kernel, number in told)
        if name in found["why_null"]:
            text = f"null: {found['why_null'][name]}"
        if name == "p99_over_rival":
            low, high = found["p99_over_rival_range"]
            text += f" ({low:.2f} to {high:.2f})" + ("" if found["p99_over_rival_conclusive"] else ", inconclusive")
        ratios.add_row(name, text, GOALS[name])
    console.print(ratios)
    apart_by = ", ".join(f"{kernel} {most:.1e}" for kernel, most in found["score10_difference"].items())
    console.print(f"raw scores differ from Booster.predict by at most: {apart_by}")
    table = Table("marker", "measured", "goal")
    for name, value in _flat(found["markers"]):
        table.add_row(name, "null" if value is None else f"{value:,}", bench_markers.GOALS.get(name, ""))
    console.print(table)
    for name, reason in found["why_null"].items():
        console.print(f"{name} is null: {reason}")
    console.print(
        f"{found['same_bids']} requests: the same bids from both ({found['bid_rate']:.0%} bid on), "
        f"{found['campaigns']} campaigns, {found['users']:,} users, {found['machine']['cpu']}"
    )


def _flat(markers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested figures as dotted names; tables of reasons are left to the JSON."""
    for name, value in markers.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
