import os
import shutil
import signal
import socket as sockets
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError

from dmp import codec, keys
from dmp.config import DmpConfig
from dmp.errors import StoreUnavailable
from dmp.schema import NOBODY, Contact, Tag, User
from dmp.store import Store, connect, flip, forget, live_generation, open_store, read_users

ROOT = Path(__file__).parents[2]
ALICE, BOB = bytes(range(16)), bytes(range(16, 32))
OWNER = """
import sys, time
from dmp.config import DmpConfig
from dmp.store import connect
store = connect(DmpConfig(data_dir=sys.argv[1]))
store.sync().set("acknowledged", "yes")
print(store.server.pid if store.server else 0, store.url, flush=True)
sys.stdin.read()
store.close()
"""


@pytest.fixture(params=["embedded", "path"])
def binary(request, monkeypatch):
    """Both ways to a server of our own."""
    if request.param == "path" and not (shutil.which("valkey-server") or shutil.which("redis-server")):
        pytest.skip("needs a valkey-server or redis-server on PATH")
    monkeypatch.setenv("TAGBID_STORE", request.param)
    return request.param


@pytest.fixture
def embedded(monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")


def a_config(path: Path) -> DmpConfig:
    return DmpConfig(data_dir=str(path))


def an_owner(path: Path) -> tuple[subprocess.Popen[str], int, str]:
    """A process that opened the store of `path`: (process, pid of the server it started or 0, url)."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid, url = process.stdout.readline().split()
    return process, int(pid), url


def wait_gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process that is not our child ends; a zombie has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        threading.Event().wait(0.01)
    return False


def test_a_store_of_our_own_starts_serves_and_leaves_nothing_running(binary, tmp_path):
    with open_store(a_config(tmp_path)) as store:
        assert store.server is not None
        assert store.sync().ping()
        url = store.url
    assert store.server.poll() is not None
    with pytest.raises(RedisError):
        Store(url).sync().ping()


@pytest.mark.rule("S-40")
def test_our_server_listens_on_a_private_unix_socket_only(binary, tmp_path):
    with open_store(a_config(tmp_path)) as store:
        path = Path(store.url.removeprefix("unix://"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        client = store.sync()
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("appendfsync")["appendfsync"] == "everysec"


def test_a_live_store_of_the_data_directory_is_joined_and_left_running(embedded, tmp_path):
    with open_store(a_config(tmp_path)) as first:
        with open_store(a_config(tmp_path)) as second:
            assert second.server is None
            assert second.url == first.url
        assert first.sync().ping()


def test_many_starters_of_one_directory_agree_on_one_server(embedded, tmp_path):
    owners: list[tuple[subprocess.Popen[str], int, str]] = []
    with ThreadPoolExecutor(4) as pool:  # the owners are processes; threads only wait for them
        owners = list(pool.map(lambda _: an_owner(tmp_path), range(4)))
    try:
        assert len({url for _, _, url in owners}) == 1
        assert sum(pid != 0 for _, pid, _ in owners) == 1
    finally:
        for process, _, _ in owners:
            process.kill()
            process.communicate()


@pytest.mark.rule("S-40")
def test_a_killed_parent_takes_the_server_along_and_its_writes_survive(binary, tmp_path):
    owner, pid, _ = an_owner(tmp_path)
    owner.kill()
    owner.communicate()
    assert wait_gone(pid)
    with open_store(a_config(tmp_path)) as store:
        assert store.server is not None
        assert store.sync().get("acknowledged") == b"yes"


def test_a_killed_server_starts_again_over_its_stale_socket_with_every_acknowledged_write(binary, tmp_path):
    acknowledged = 0
    with open_store(a_config(tmp_path)) as store:
        assert store.server is not None
        client = store.sync()
        killer = threading.Timer(0.2, store.server.kill)
        killer.start()
        with suppress(redis.exceptions.ConnectionError):
            while True:
                acknowledged = client.incr("acknowledged")
        killer.join()
        assert Path(store.url.removeprefix("unix://")).exists()
    with open_store(a_config(tmp_path)) as store:
        assert int(store.sync().get("acknowledged")) in {acknowledged, acknowledged + 1}  # one may be unanswered


def test_a_torn_end_of_the_append_only_file_does_not_stop_the_next_start(embedded, tmp_path):
    with open_store(a_config(tmp_path)) as store:
        store.sync().set("acknowledged", "yes")
    (log,) = (tmp_path / "store" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nha")
    with open_store(a_config(tmp_path)) as store:
        assert store.sync().get("acknowledged") == b"yes"


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory with a short path, as a runtime directory has; the one pytest gives may be too long already."""
    with tempfile.TemporaryDirectory(prefix="tagbid-") as folder:
        yield Path(folder)


def test_a_data_directory_too_deep_for_a_socket_gets_a_short_private_runtime_directory(
    embedded, runtime, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with open_store(a_config(deep)) as store:
        path = Path(store.url.removeprefix("unix://"))
        assert len(str(path)) <= 107
        assert path.parent.parent == runtime
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with open_store(a_config(deep)) as joined:
            assert joined.server is None
    assert list((deep / "store" / "appendonlydir").iterdir())


@pytest.mark.rule("S-41")
def test_a_runtime_directory_that_others_can_enter_is_refused(embedded, runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with open_store(a_config(deep)):
        pass
    (short,) = runtime.iterdir()
    short.chmod(0o755)
    with pytest.raises(StoreUnavailable, match="not a private directory"):
        connect(a_config(deep))


def test_a_data_directory_may_have_any_name(embedded, tmp_path):
    with open_store(a_config(tmp_path / 'a b"c%20#d?e\\f')) as store:
        assert store.sync().ping()


def test_a_url_that_does_not_answer_is_named_without_its_password():
    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}/0") as caught:
        connect(DmpConfig(redis_url=f"redis://tagbid:geheim@127.0.0.1:{port}/0?password=geheim"))
    assert "geheim" not in str(caught.value)


def test_a_url_that_is_none_is_told():
    with pytest.raises(StoreUnavailable, match="redis://"):
        connect(DmpConfig(redis_url="localhost:6379"))


def test_a_store_that_refuses_our_password_is_told_as_that(store):
    client = store.sync()
    client.config_set("requirepass", "right")
    try:
        with pytest.raises(StoreUnavailable, match="refuses us"):
            connect(DmpConfig(redis_url=store.url))
    finally:
        client.config_set("requirepass", "")


def test_without_any_server_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "path")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("dmp.store.find_spec", lambda name: None)
    with pytest.raises(StoreUnavailable, match="install"):
        connect(a_config(tmp_path))


def test_a_server_that_cannot_start_points_to_its_log_and_frees_the_directory(embedded, tmp_path):
    (tmp_path / "store" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "store" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"server\.log"):
            connect(a_config(tmp_path))


def test_a_file_on_path_that_is_no_program_is_told(tmp_path, monkeypatch):
    program = tmp_path / "valkey-server"
    program.write_bytes(b"\x00")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TAGBID_STORE", "path")
    with pytest.raises(StoreUnavailable, match="cannot be run"):
        connect(a_config(tmp_path / "data"))


def test_clients_give_up_in_time_and_never_retry(store):
    """A server that stops answering costs one read time-out, not redis-py's default of several."""
    client = store.sync(timeout_s=0.05)
    client.ping()
    store.server.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
    finally:
        store.server.send_signal(signal.SIGCONT)
    options = client.connection_pool.connection_kwargs
    assert options["socket_connect_timeout"] == 0.25
    assert options["retry"].get_retries() == 0
    aio = store.aio().connection_pool.connection_kwargs
    assert (aio["socket_connect_timeout"], aio["socket_timeout"]) == (0.25, 1.0)
    assert aio["retry"].get_retries() == 0


async def test_the_asynchronous_client_reads_what_the_other_wrote(store):
    store.sync().set("here", "1")
    client = store.aio()
    assert await client.get("here") == b"1"
    await client.aclose()


def test_the_pointer_flips_only_from_the_generation_expected(client):
    assert live_generation(client) == 0
    assert flip(client, 3, expect=0)
    assert not flip(client, 4, expect=0)
    assert live_generation(client) == 3
    assert flip(client, 2, expect=3)
    assert live_generation(client) == 2


def test_a_read_returns_tags_of_the_live_generation_live_audiences_and_contacts_in_order(client):
    client.set(keys.profile(ALICE, 0), codec.encode_profile(1, [Tag(7, 50, 20_000, 1)]))
    client.set(keys.profile(ALICE, 1), codec.encode_profile(2, [Tag(7, 60, 20_000, 1)]))
    client.set(keys.audiences(ALICE), codec.encode_audiences([(11, 0), (12, 1_000), (13, 999)]))
    client.set(keys.contacts(ALICE), codec.encode_contacts([Contact(5, 400_000, 2)]))
    client.set(keys.GENERATION, 1)
    alice = User({7: 50}, frozenset({11, 12}), (Contact(5, 400_000, 2),))
    assert read_users(client, [BOB, ALICE], now_s=999) == [NOBODY, alice]
    assert flip(client, 2, expect=1)
    assert read_users(client, [ALICE], now_s=1_000)[0].tags == {7: 60}
    assert read_users(client, [ALICE], now_s=1_000)[0].audiences == {11}


@pytest.mark.rule("P-71")
def test_forgetting_a_user_leaves_no_key_of_theirs_and_may_be_repeated(client):
    for uid in (ALICE, BOB):
        for key in keys.user_keys(uid):
            client.set(key, codec.encode_profile(1, []))
    assert forget(client, ALICE) == 5
    assert forget(client, ALICE) == 0
    assert {bytes(key) for key in client.keys("*")} == set(keys.user_keys(BOB))


def test_directories_we_make_are_closed_to_others(embedded, tmp_path):
    with open_store(a_config(tmp_path / "data")):
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data" / "store").stat().st_mode) == 0o700


DIES = """
import os, subprocess, sys, time
from dmp.config import DmpConfig
from dmp.store import connect
start = subprocess.Popen
def starts(*arguments, **options):
    made = start(*arguments, **options)
    made.stdin.close()  # as the end of a process does, a moment before the server learns of it
    time.sleep(0.3)
    os._exit(9)
subprocess.Popen = starts
connect(DmpConfig(data_dir=sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a parent-death signal")
def test_a_server_whose_starter_dies_at_once_leaves_nothing_where_that_one_worked(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    here, data = tmp_path / "here", tmp_path / "data"
    here.mkdir()
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run([sys.executable, "-c", DIES, str(data)], cwd=here, env=environ)
    assert died.returncode == 9
    connect(DmpConfig(data_dir=str(data))).close()  # waits until the orphan has given up the folder
    assert list(here.iterdir()) == []
