"""The bidder against its yardsticks on the same requests in one run: `tagbid loadtest bench`.

CPU per request is what is compared: it repeats within a few percent where latencies and rates of a shared machine
do not. Servers take turns within each round, each loaded at about half of what it can do, and the figures are
medians over the rounds. Before anything is timed, the bids of the bidder and of the rival are compared one by one.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dmp.config import DmpConfig
from dmp.errors import TagbidError
from dmp.pseudonym import KeyRing, load_key
from dmp.store import Store, open_store
from loadtest import generator, scenario, scrape
from loadtest.children import Child, started, wait_until
from loadtest.load import Load, Result
from loadtest.scenario import Scenario

SERVER_CORE = 0  # loaded servers share this core in turns; the generator and the store have the others
PROBE_RATE = 300  # requests per second of the first look at what a request costs
MAX_RATE = 20_000
COMPARED = 400


class Differs(TagbidError):
    """The rival does not make the bids the bidder makes, so their costs cannot be compared."""


class Server(msgspec.Struct):
    """One server under load. cpu_us: CPU per request of each round. rate: requests per second it is given."""

    name: str
    url: str
    child: Child
    rate: float = PROBE_RATE
    cpu_us: list[float] = []
    p99_us: list[float] = []


def run(
    out: Path, work: Path, rounds: int, seconds: float, campaigns: int, users: int, console: Console
) -> dict[str, Any]:
    """Prepare, compare, measure; writes `out` as JSON and returns it. work: folder for state, emptied first."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o700)
    with Progress(console=Console(stderr=True)) as bar, ExitStack() as stack:
        task = bar.add_task("world", total=5 + rounds * 3)

        def step(what: str) -> None:
            bar.update(task, advance=1, description=what)

        config = DmpConfig(data_dir=str(work / "data"))
        store = stack.enter_context(open_store(config))
        made = prepare(work, config, store, campaigns, users, step)
        servers = [stack.enter_context(server) for server in _servers(work, store)]
        by_name = {server.name: server for server in servers}
        step("comparing bids")
        same, bid_rate = compare(by_name["bidder"], by_name["rival"], made.bodies[:COMPARED])
        step("first look")
        for server in servers:
            _load(server, made.bodies, 1.0)  # warm caches, compiled paths and connections
            cpu, _ = _load(server, made.bodies, 2.0)
            server.rate = min(MAX_RATE, 0.5e6 / cpu)
        for number in range(rounds):
            for server in servers:
                step(f"round {number + 1} of {rounds}: {server.name}")
                cpu, result = _load(server, made.bodies, seconds)
                server.cpu_us.append(cpu)
                server.p99_us.append(float(_p99(result)))
        found = report(servers, same, bid_rate, campaigns, users, rounds, seconds)
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
    step("servers")
    (work / "tagbid.toml").write_text(
        f"[dmp]\ndata_dir = {json.dumps(config.data_dir)}\nredis_url = {json.dumps(store.url)}\n"
        f"[bidder]\nport = 8180\nadmin_port = 8181\ncampaigns = {json.dumps(str(work / 'campaigns.toml'))}\n"
        f"models_dir = {json.dumps(str(work / 'models'))}\ngdpr_when_unknown = 'never'\n"
    )
    return made


def _servers(work: Path, store: Store) -> "list[Any]":
    tagbid = [sys.executable, "-m", "loadtest.cli"]
    rival = [sys.executable, "-m", "loadtest.rival"]
    model = [
        "--campaigns",
        work / "campaigns.toml",
        "--models",
        work / "models",
        "--key",
        work / "data" / "pseudonym.key",
    ]
    return [
        _server("bidder", 8180, [*tagbid, "bidder", "serve", "--config", work / "tagbid.toml"], work),
        _server(
            "rival", 8182, [*rival, "--port", "8182", *model, "--store", store.url, "--log", work / "rival.log"], work
        ),
        _server("aiohttp204", 8184, [*rival, "--port", "8184", "--floor"], work),
    ]


@contextmanager
def _server(name: str, port: int, command: Sequence[object], work: Path) -> Iterator[Server]:
    pinned = ["taskset", "-c", str(SERVER_CORE)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []
    with started(name, [*pinned, *map(str, command)], work / f"{name}.txt") as child:
        wait_until(child, lambda: "ready" in child.log.read_text(errors="replace"))
        yield Server(name, f"http://127.0.0.1:{port}/bid/bench", child)


def _load(server: Server, bodies: Sequence[bytes], seconds: float) -> tuple[float, Result]:
    """(CPU µs per request, what came back) of one burst at the server's rate."""
    before = scrape.cpu_s([server.child.process.pid])
    result = generator.play(
        Load(
            url=server.url,
            bodies=bodies,
            rate=server.rate,
            duration_s=seconds,
            poisson=True,
            keep_every=0,
            tmax_ms=1_000,
        )
    )
    spent = scrape.cpu_s([server.child.process.pid]) - before
    wrong = len(result.status) - int(((result.status == 200) | (result.status == 204)).sum())
    if wrong > len(result.status) // 100:
        raise TagbidError(
            f"{server.name} left {wrong} of {len(result.status)} requests without an answer; {server.child.tail()}"
        )
    return spent * 1e6 / max(1, result.answered), result


def compare(ours: Server, rival: Server, bodies: Sequence[bytes]) -> tuple[int, float]:
    """(requests with the same bid, share of requests bid on); raises Differs when any bid differs."""
    answers = [
        generator.play(
            Load(url=server.url, bodies=bodies, rate=PROBE_RATE, duration_s=1.0, count=len(bodies), tmax_ms=1_000)
        ).bodies
        for server in (ours, rival)
    ]
    bids = 0
    for i, body in enumerate(bodies):
        first, second = (_bids(answer.get(i, b"")) for answer in answers)
        if first != second:
            raise Differs(f"request {json.loads(body)['id']}: the bidder says {first}, the rival {second}")
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


def _p99(result: Result) -> float:
    times = sorted(result.latency_us[result.latency_us >= 0].tolist())
    return times[int(len(times) * 0.99)] if times else float("nan")


def report(
    servers: Sequence[Server], same: int, bid_rate: float, campaigns: int, users: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """The figures as JSON: medians, spreads and ratios of CPU per request."""
    cpu = {server.name: server.cpu_us for server in servers}

    def ratio(a: str, b: str) -> float:
        return round(statistics.median(x / y for x, y in zip(cpu[a], cpu[b], strict=True)), 3)

    return {
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
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
                "rate": round(server.rate),
                "p99_us": round(statistics.median(server.p99_us)),
            }
            for server in servers
        },
        "ratios": {
            "rival_over_ours": ratio("rival", "bidder"),
            "ours_over_aiohttp204": ratio("bidder", "aiohttp204"),
            "rival_over_aiohttp204": ratio("rival", "aiohttp204"),
        },
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def print_tables(console: Console, found: dict[str, Any]) -> None:
    """The report for people."""
    table = Table(
        "server", "CPU µs/request", "min to max", "at requests/s", "p99 µs", title="one core, half load, medians"
    )
    for name, figures in found["servers"].items():
        table.add_row(
            name,
            f"{figures['cpu_us']:,.1f}",
            f"{figures['cpu_us_min']:,.1f} to {figures['cpu_us_max']:,.1f}",
            f"{figures['rate']:,}",
            f"{figures['p99_us']:,}",
        )
    console.print(table)
    ratios = Table("ratio", "measured", "goal")
    goals = {
        "rival_over_ours": ">= 4",
        "ours_over_aiohttp204": "<= 3.5",
        "rival_over_aiohttp204": "<= 25 (an honest rival)",
    }
    for name, value in found["ratios"].items():
        ratios.add_row(name, f"{value:.2f}", goals.get(name, ""))
    console.print(ratios)
    console.print(
        f"{found['same_bids']} requests: the same bids from both ({found['bid_rate']:.0%} bid on), "
        f"{found['campaigns']} campaigns, {found['users']:,} users, {found['machine']['cpu']}"
    )
