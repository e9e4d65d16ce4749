"""A real cluster on loopback: servers of our own, to fill, to stop, to kill and to move slots between."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
import redis.backoff
import redis.retry

from dmp.cluster import SLOTS
from dmp.cluster import slot as cluster_slot
from dmp.store import Store, server_binary

NODE_TIMEOUT_MS = 1500  # a silent node is taken for dead after about so long; one on a busy machine must not be
PATIENCE_S = 30.0


def free_ports(count: int) -> list[int]:
    """Ports nobody has at the moment, all different, low enough to have a neighbour for the bus."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for made in sockets:
            made.bind(("127.0.0.1", 0))
        return [made.getsockname()[1] for made in sockets]
    finally:
        for made in sockets:
            made.close()


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; a server that does not answer yet counts as no."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        with suppress(redis.exceptions.RedisError):
            if holds():
                return
        time.sleep(0.02)
    raise TimeoutError(what)


class Server:
    """One node: a process and a client of it."""

    def __init__(self, folder: Path, port: int, bus: int) -> None:
        self.port = port
        self.bus = bus
        self.url = f"redis://127.0.0.1:{port}"
        self._folder = folder
        folder.mkdir(parents=True)
        self.start()
        self.client = redis.Redis.from_url(
            self.url, socket_timeout=5, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0), protocol=2
        )

    def start(self) -> None:
        """Start, or start again with what it knew when it was killed."""
        settings = {
            "port": self.port, "cluster-port": self.bus, "bind": "127.0.0.1", "dir": str(self._folder), "save": '""',
            "appendonly": "no", "cluster-enabled": "yes", "cluster-node-timeout": NODE_TIMEOUT_MS,
            "cluster-require-full-coverage": "no", "cluster-replica-validity-factor": 0, "repl-diskless-sync-delay": 0,
            "logfile": str(self._folder / "log"),
        }  # fmt: skip
        options = [text for name, value in settings.items() for text in (f"--{name}", str(value).strip('"'))]
        self.process = subprocess.Popen([server_binary(), *options], stdout=subprocess.DEVNULL)

    def cluster(self, *parts: object) -> Any:
        """A CLUSTER command and its reply."""
        return self.client.execute_command("CLUSTER", *parts)

    @property
    def id(self) -> str:
        return str(self.cluster("MYID"), "ascii")

    def info(self) -> dict[str, str]:
        return dict(line.split(":") for line in str(self.cluster("INFO"), "ascii").split())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Cluster:
    """Three primaries that share all slots evenly, and a replica of the first where asked for."""

    def __init__(self, folder: Path, replica: bool) -> None:
        count = 3 + replica
        ports = free_ports(2 * count)
        self.servers = [Server(folder / f"node{n}", ports[2 * n], ports[2 * n + 1]) for n in range(count)]
        self.primaries = self.servers[:3]
        self.replica = self.servers[3] if replica else None
        self._moved: dict[int, Server] = {}

    def join(self) -> None:
        """Make one cluster of the servers; returns when all of them know."""
        first = self.servers[0]
        for n, server in enumerate(self.servers):
            until(server.client.ping, "a node answers")
            server.cluster("SET-CONFIG-EPOCH", n + 1)
        for n, server in enumerate(self.primaries):
            server.cluster("ADDSLOTSRANGE", SLOTS * n // 3, SLOTS * (n + 1) // 3 - 1)
        for server in self.servers[1:]:
            first.cluster("MEET", "127.0.0.1", server.port, server.bus)
        until(lambda: all(self._settled(server) for server in self.servers), "all nodes know all slots")
        if self.replica is not None:
            self.replica.cluster("REPLICATE", first.id)
            until(lambda: all(self._has_replica(server) for server in self.primaries), "all know the replica")

    def _settled(self, server: Server) -> bool:
        known = server.info()
        return (known["cluster_state"], known["cluster_slots_ok"], known["cluster_known_nodes"]) == (
            "ok",
            str(SLOTS),
            str(len(self.servers)),
        )

    def _has_replica(self, server: Server) -> bool:
        return len(server.cluster("SLOTS")[0]) == 4  # first, last, primary, replica: listed once its copy is whole

    @property
    def url(self) -> str:
        return self.primaries[0].url

    @property
    def store(self) -> Store:
        return Store(self.url)

    def owner(self, slot: int) -> Server:
        """The primary that has a slot, as it was laid out and moved by us."""
        return self._moved.get(slot) or next(
            server for n, server in enumerate(self.primaries) if slot < SLOTS * (n + 1) // 3
        )

    def put(self, key: bytes, value: bytes) -> None:
        """Write a key where it belongs."""
        self.owner(cluster_slot(key)).client.set(key, value)

    def flush(self) -> None:
        for server in self.primaries:
            server.client.flushall()

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """From now on keys of the slot that the source has not (any more) are to be asked of the target."""
        # Who takes a slot takes the next epoch it knows of. If it had not heard of a move a moment ago, its epoch would
        # be no higher than the one of that move, and a late message of the former owner would take the slot back.
        until(lambda: len({server.info()["cluster_current_epoch"] for server in self.primaries}) == 1, "one epoch")
        target.cluster("SETSLOT", slot, "IMPORTING", source.id)
        source.cluster("SETSLOT", slot, "MIGRATING", target.id)

    def move_key(self, key: bytes, source: Server, target: Server) -> None:
        source.client.migrate("127.0.0.1", target.port, [key.decode()], 0, 5000)

    def end_move(self, slot: int, source: Server, target: Server) -> None:
        """Move what is left of a slot; then it is the target's."""
        while keys := source.cluster("GETKEYSINSLOT", slot, 100):
            source.client.migrate("127.0.0.1", target.port, [bytes(key).decode() for key in keys], 0, 5000)
        new = target.id
        for server in (target, source, *(s for s in self.primaries if s not in (source, target))):
            server.cluster("SETSLOT", slot, "NODE", new)
        self._moved[slot] = target

    def close(self) -> None:
        for server in self.servers:
            with suppress(ProcessLookupError):
                server.signal(signal.SIGCONT)
            server.kill()
            server.client.close()


@contextmanager
def cluster(folder: Path, replica: bool = False) -> Iterator[Cluster]:
    made = Cluster(folder, replica)
    try:
        made.join()
        yield made
    finally:
        made.close()
