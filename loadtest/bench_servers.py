"""The servers of the bench: what starts each of them, and one burst of load on one of them."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from dmp.errors import TagbidError
from dmp.store import Store
from loadtest import floors, generator, scenario, scrape
from loadtest.children import Child, started, wait_until
from loadtest.load import Load, Result
from models import forest

SERVER_CORE = 0  # loaded servers share this core in turns; the generator and the store have the others
CONNECTIONS = 32
WORKERS = 2
BUSY_RATE, BUSY_CAMPAIGNS = 8_333.0, 5_000
MARKERS = ("bidder_5k", "bidder_free")
"""Servers that take no turns in the rounds."""
BIDDERS = ("bidder", "bidder_numpy", "bidder_1k", "bidder_10k", "bidder_2w")
"""Servers of ours that do and decide; they tell what became of requests."""
NOT_WHOLE = (
    'tagbid_no_bid_total{reason="overload"}',
    'tagbid_no_bid_total{reason="no_time"}',
    'tagbid_contextual_total{because="store"}',
    "tagbid_bidlog_dropped_total",
)
"""Requests that were turned away, decided without their user, or whose bid was not logged."""
PORTS = {
    name: 8180 + 2 * i
    for i, name in enumerate(
        (
            "bidder",
            "bidder_numpy",
            "rival",
            "fastapi",
            "aiohttp204",
            "lane204",
            "nginx204",
            "bidder_1k",
            "bidder_10k",
            "bidder_2w",
            "bidder_5k",
            "bidder_free",
        )
    )
}


class Server(msgspec.Struct):
    """One server under load. cpu_us: CPU per request of each round. rate: requests per second it is offered.

    bid_share: of the answers of each round; not_whole: share of the requests that cost less than a decision does.
    p99_us and its neighbours: at half load, of each round.
    """

    name: str
    url: str
    child: Child
    rate: float = 4_000
    cpu_us: list[float] = []
    bid_share: list[float] = []
    not_whole: list[float] = []
    p50_us: list[float] = []
    p99_us: list[float] = []
    p999_us: list[float] = []

    @property
    def pids(self) -> list[int]:
        """The server's process and its workers."""
        return scrape.family(self.child.process.pid)

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{PORTS[self.name] + 1}"


def commands(work: Path, store: Store) -> dict[str, tuple[list[object], dict[str, str]]]:
    """{server: (command, environment)}; a server that cannot run here is left out."""
    python = sys.executable
    bidder = [python, "-m", "bidder", "serve", "--config"]
    shared = ["--campaigns", work / "campaigns.toml", "--models", work / "models"]
    shared += ["--key", work / "data" / "pseudonym.key", "--store", store.url]
    found: dict[str, tuple[list[object], dict[str, str]]] = {
        "bidder": ([*bidder, configure(work, store, "bidder", "campaigns.toml")], {}),
        "bidder_numpy": (
            [*bidder, configure(work, store, "bidder_numpy", "campaigns.toml")],
            {"TAGBID_KERNEL": "numpy"},
        ),
        "rival": ([python, "-m", "loadtest.rival", "--port", PORTS["rival"], *shared, "--log", work / "rival.log"], {}),
        "fastapi": ([python, "-m", "loadtest.rival_fastapi", "--port", PORTS["fastapi"], *shared], {}),
        "aiohttp204": ([python, "-m", "loadtest.floors", "aiohttp", "--port", PORTS["aiohttp204"]], {}),
        "lane204": ([python, "-m", "loadtest.floors", "lane", "--port", PORTS["lane204"]], {}),
        "bidder_1k": ([*bidder, configure(work, store, "bidder_1k", "campaigns_1000.toml")], {}),
        "bidder_10k": ([*bidder, configure(work, store, "bidder_10k", "campaigns_10000.toml")], {}),
        "bidder_2w": ([*bidder, configure(work, store, "bidder_2w", "campaigns.toml"), "--workers", WORKERS], {}),
        "bidder_5k": (
            [*bidder, configure(work, store, "bidder_5k", f"campaigns_{BUSY_CAMPAIGNS}.toml"), "--workers", WORKERS],
            {},
        ),
        "bidder_free": ([*bidder, configure(work, store, "bidder_free", "campaigns_free.toml")], {}),
    }
    if forest.kernel() is None:
        del found["bidder_numpy"]
    if nginx := shutil.which("nginx"):
        found["nginx204"] = ([nginx, "-e", "stderr", "-c", floors.nginx(work, PORTS["nginx204"])], {})
    return found


def configure(work: Path, store: Store, name: str, campaigns: str) -> Path:
    """A bidder's configuration file. Every bidder has a data directory of its own for its log."""
    data = work / name
    data.mkdir(mode=0o700)
    shutil.copy(work / "data" / "pseudonym.key", data)
    (data / "pseudonym.key").chmod(0o600)
    path = work / f"{name}.toml"
    path.write_text(
        f"[dmp]\ndata_dir = {json.dumps(str(data))}\nredis_url = {json.dumps(store.url)}\n"
        f"[bidder]\nport = {PORTS[name]}\nadmin_port = {PORTS[name] + 1}\n"
        f"campaigns = {json.dumps(str(work / campaigns))}\nmodels_dir = {json.dumps(str(work / 'models'))}\n"
        "gdpr_when_unknown = 'never'\n"
        "explore_share = 0.0\n"  # the yardsticks do not vary their prices
    )
    return path


@contextmanager
def serving(name: str, command: Sequence[object], environ: Mapping[str, str], work: Path) -> Iterator[Server]:
    pinned = ["taskset", "-c", str(SERVER_CORE)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []
    if name == "bidder_5k" and pinned:  # two workers on one core could do no more than one
        pinned[2] = f"0-{(os.cpu_count() or 1) - 1}"
    with started(name, [*pinned, *map(str, command)], work / f"{name}.txt", environ) as child:
        if name == "nginx204":
            wait_until(child, lambda: (work / "nginx.pid").exists())
        else:
            wait_until(child, lambda: "ready" in child.log.read_text(errors="replace"), timeout_s=60)
        yield Server(name, f"http://127.0.0.1:{PORTS[name]}/bid/{scenario.EXCHANGE}", child)


def leave_core_to_servers(*pids: int) -> None:
    """Keep this process, whatever it starts from now on, and others off the core that servers are measured on."""
    others = os.sched_getaffinity(0) - {SERVER_CORE} if hasattr(os, "sched_getaffinity") else set()
    for pid in (0, *pids) if others else ():
        for thread in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), others)


@contextmanager
def paused(servers: Iterable[Server]) -> Iterator[None]:
    """Stop servers that are not asked: the heartbeats of ten idle ones take a tenth of the core."""
    pids = [pid for server in servers for pid in server.pids]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):  # one that ended must not leave the others standing
                os.kill(pid, signal.SIGCONT)


def play(server: Server, bodies: Sequence[bytes], rate: float, seconds: float) -> Result:
    """One open-loop burst, Poisson arrivals."""
    result = generator.play(
        Load(server.url, bodies, rate=rate, duration_s=seconds, poisson=True, keep_every=0, tmax_ms=1_000)
    )
    if result.answered < len(result.status) // 2:
        raise TagbidError(
            f"{server.name} answered {result.answered} of {len(result.status)} requests; {server.child.tail()}"
        )
    return result


def saturate(server: Server, bodies: Sequence[bytes], seconds: float) -> float:
    """CPU µs per whole decision with more offered than the server can do, over `CONNECTIONS` connections.

    A request that finds no free connection is not sent, so the server always has work and never a growing queue. What
    a bidder sheds or cuts short is not counted among what it did, though its CPU is, so that shedding cannot pay.
    """
    pids = server.pids
    asked = server.name in BIDDERS
    told = scrape.metrics(server.admin) if asked else {}
    before = scrape.cpu_s(pids)
    result = generator.play(
        Load(
            server.url, bodies, rate=server.rate, duration_s=seconds, keep_every=0, tmax_ms=1_000,
            connections=CONNECTIONS, max_connections=CONNECTIONS,
        )
    )  # fmt: skip
    spent = scrape.cpu_s(pids) - before
    if not result.answered or int((result.status >= 400).sum()):
        raise TagbidError(f"{server.name} answered with errors or not at all; {server.child.tail()}")
    less = not_whole(told, scrape.metrics(server.admin)) if asked else 0
    if less >= result.answered:
        raise TagbidError(f"{server.name} decided none of {result.answered} requests; {server.child.tail()}")
    server.bid_share.append(int((result.status == 200).sum()) / result.answered)
    server.not_whole.append(less / result.answered)
    return spent * 1e6 / (result.answered - less)


def not_whole(before: Mapping[str, float], after: Mapping[str, float]) -> int:
    """Requests between two scrapes that a bidder did less for than for a decision."""
    return int(sum(after.get(name, 0.0) - before.get(name, 0.0) for name in NOT_WHOLE))
