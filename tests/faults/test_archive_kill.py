"""kill -9 of the archiver at random moments, while events keep coming: each is archived once."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from dmp import streams
from dmp.config import DmpConfig, StreamConfig
from dmp.store import Store, connect
from tests.dmp.factories import NOW_US
from tests.dmp.test_archive import PARTITIONS, acts, drain, ids

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from pathlib import Path
from dmp import archive
from dmp.config import DmpConfig, StreamConfig
from dmp.store import Store, connect
folder, url = sys.argv[1:]
with archive.opened(Path(folder), Store(url).sync(), 4) as opened:
    print("ready", flush=True)
    while True:
        opened.read(5)
        if opened.rows >= 20:
            opened.flush()
            print("flushed", flush=True)
"""


def test_killed_archivers_lose_nothing_and_write_nothing_twice(
    tmp_path: Path, store: Store, client: redis.Redis
) -> None:
    kill_and_check(tmp_path, store, client, kills=8, batch=60)


@pytest.mark.long
def test_many_killed_archivers_lose_nothing(tmp_path: Path, store: Store, client: redis.Redis) -> None:
    kill_and_check(tmp_path, store, client, kills=60, batch=500)


def kill_and_check(folder: Path, store: Store, client: redis.Redis, kills: int, batch: int) -> None:
    rng = random.Random(5)
    appended = 0
    for _ in range(kills):
        command = [sys.executable, "-c", WORKER, str(folder), store.url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            streams.append_events(client, acts(batch, first=appended), PARTITIONS, NOW_US)
            appended += batch
            if rng.random() < 0.5:
                assert worker.stdout.readline() == "flushed\n"
            threading.Event().wait(rng.uniform(0, 0.02))  # the moment of the kill is what is drawn here
            worker.kill()
    drain(folder, client)
    assert ids(folder) == Counter(f"e{i}" for i in range(appended))


def test_an_archiver_outlives_the_stores_restart_and_archives_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    config = DmpConfig(data_dir=str(tmp_path / "data"), stream=StreamConfig(partitions=PARTITIONS))
    tags = connect(config)
    (tmp_path / "tagbid.toml").write_text(
        f'[dmp]\ndata_dir = "{tmp_path}/data"\nredis_url = "{tags.url}"\nstream = {{ partitions = {PARTITIONS} }}\n'
    )
    folder, log = tmp_path / "events", tmp_path / "log"
    command = [sys.executable, "-m", "dmp", "archive", "--into", str(folder), "--rows", "20", "--seconds", "0.1"]
    with log.open("wb") as output:
        archiver = subprocess.Popen(
            [*command, "--config", str(tmp_path / "tagbid.toml")], cwd=ROOT, stdout=output, stderr=output
        )
    try:
        until(lambda: "ready" in log.read_text())
        for round_ in range(3):
            client = tags.sync(timeout_s=5.0)
            streams.append_events(client, acts(60, first=60 * round_), PARTITIONS, NOW_US)
            if round_ == 2:
                break
            assert tags.server is not None
            tags.server.kill()
            tags.server.wait()
            until(lambda n=round_ + 1: log.read_text().count("does not answer") >= n)
            tags = connect(config)
        until(lambda: sum(ids(folder).values()) >= 180)
        archiver.terminate()
        assert archiver.wait(30) == 0
        drain(folder, tags.sync())
        assert ids(folder) == Counter(f"e{i}" for i in range(180))
    finally:
        archiver.kill()
        archiver.wait()
        tags.close()


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.02)
