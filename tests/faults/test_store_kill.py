"""Death at any moment: of the process that starts a store, of the store under load, of a build amid its readers."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from dmp import offline
from dmp import store as stores
from dmp.config import DmpConfig
from dmp.errors import StoreUnavailable
from dmp.store import Store, connect, live_generation, open_store, read_users
from tests.dmp.factories import NOW_US, tags_table, user

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "TAGBID_STORE": "embedded", "PYTHONPATH": str(ROOT)}
STARTER = """
import sys
from dmp.config import DmpConfig
from dmp import store
print("starting", flush=True)
store.connect(DmpConfig(data_dir=sys.argv[1])).sync().set("acknowledged", "yes")
print("started", flush=True)
sys.stdin.read()
"""
WRITER = """
import sys, redis
from dmp.store import Store
client = Store(sys.argv[1]).sync()
try:
    for n in range(10**9):
        pipe = client.pipeline(transaction=False)
        for i in range(20):
            pipe.set(f"{sys.argv[2]}:{20 * n + i}", "x" * 200)
        pipe.execute()
        print(20 * n + 20, flush=True)
except redis.exceptions.RedisError:
    pass
"""
BUILDER = """
import sys
from dmp import generations, offline
from dmp.config import DmpConfig
from dmp.store import Store
from tests.dmp.factories import NOW_US, tags_table
generations.CHUNK_USERS = 5
tables = [tags_table({n: {1033: g + n % 7 + 1} for n in range(g * 10, 200)}) for g in range(2)]
print("ready", flush=True)
for g in range(1000):
    made = offline.publish_tags(DmpConfig(data_dir=sys.argv[2]), tables[g % 2], NOW_US, Store(sys.argv[1]), str(g % 2))
"""
TABLES = [{n: {1033: g + n % 7 + 1} for n in range(g * 10, 200)} for g in range(2)]


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")


def a_process(code: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def servers_of(home: Path) -> list[int]:
    """Processes that hold something of a store's directory open, other than ourselves."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and int(process.name) != os.getpid():
                held = {os.readlink(fd) for fd in (process / "fd").iterdir()}  # noqa: PTH115 - targets need not exist
                if any(name.startswith(str(home)) for name in held):
                    found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def ends(condition, within_s: float = 15.0) -> bool:
    """Whether a condition comes to hold."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.02)
    return True


@pytest.mark.rule("S-40")
def test_a_starter_killed_at_any_moment_leaves_no_server_and_a_directory_that_can_be_used(tmp_path):
    rng = random.Random(11)
    for _ in range(6):
        starter = a_process(STARTER, str(tmp_path))
        assert starter.stdout.readline() == "starting\n"
        threading.Event().wait(rng.uniform(0, 0.12))  # connecting takes about 60 ms
        starter.kill()
        starter.communicate()
        assert ends(lambda: not servers_of(tmp_path)), "a server outlived the process that started it"
    with open_store(DmpConfig(data_dir=str(tmp_path))) as tags:
        assert tags.server is not None
        assert tags.sync().ping()


def test_a_store_killed_under_load_has_every_acknowledged_write_of_every_writer_when_it_starts_again(tmp_path):
    with open_store(DmpConfig(data_dir=str(tmp_path))) as tags:
        writers = [a_process(WRITER, tags.url, name) for name in "ab"]
        for writer in writers:
            assert writer.stdout.readline()  # all are at work
        threading.Event().wait(0.3)
        tags.server.kill()
        last = [int((["20", *writer.communicate()[0].split()])[-1]) for writer in writers]
    with open_store(DmpConfig(data_dir=str(tmp_path))) as tags:
        client = tags.sync(timeout_s=10)
        for name, count in zip("ab", last, strict=True):
            assert client.exists(*(f"{name}:{n}" for n in range(count))) == count


def test_a_directory_locked_by_something_that_is_no_store_is_told_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "START_TIMEOUT_S", 0.2)
    (tmp_path / "store").mkdir(parents=True)
    with (tmp_path / "store" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            connect(DmpConfig(data_dir=str(tmp_path)))
    with open_store(DmpConfig(data_dir=str(tmp_path))) as tags:
        assert tags.sync().ping()


@pytest.mark.parametrize("seed", range(4))
def test_a_build_killed_at_any_moment_leaves_readers_one_whole_generation(tmp_path, store, client, seed):
    rng = random.Random(seed)
    config = DmpConfig(data_dir=str(tmp_path))
    offline.publish_tags(config, tags_table(TABLES[1]), NOW_US, store, "1")
    builder = a_process(BUILDER, store.url, config.data_dir)
    assert builder.stdout.readline() == "ready\n"
    stop = time.monotonic() + rng.uniform(0.02, 0.4)
    reader = a_reader(store)
    while time.monotonic() < stop:
        reader()
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    live, table = reader()
    assert offline.live_tags(config, client).num_rows == len(table)
    made = offline.publish_tags(config, tags_table(TABLES[0]), NOW_US, store, "0")  # the lock died with the builder
    assert made.parent == live
    assert reader()[1] == TABLES[0]
    assert offline.rollback(config, store) == live
    assert reader() == (live, table)


def a_reader(tags: Store):
    """Read all users until no flip came between, and check that what was read is one table, whole."""
    client: redis.Redis = tags.sync()

    def read():
        while True:
            before = live_generation(client)
            found = read_users(client, [user(n) for n in range(200)], NOW_US // 1_000_000)
            if live_generation(client) == before:
                break
        seen = {n: one.tags for n, one in enumerate(found) if one.tags}
        assert seen in TABLES
        return before, seen

    return read


def test_the_command_that_runs_a_store_ends_with_an_error_when_the_store_does(tmp_path: Path) -> None:
    config = DmpConfig(data_dir=str(tmp_path / "var"))
    command = subprocess.Popen(
        [sys.executable, "-m", "dmp", "store"],
        env={**ENVIRON, "TAGBID_DMP_DATA_DIR": config.data_dir},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("tag store at ")
        with open_store(config) as joined:
            server = joined.sync().info("server")["process_id"]
        os.kill(server, signal.SIGKILL)
        _, said = command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == 2
    assert "tag store ended" in said
    assert "server.log" in " ".join(said.split())
