"""kill -9 of the archiver at random moments, while events keep coming: each is archived once."""

import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import redis

from dmp import streams
from dmp.store import Store
from tests.dmp.factories import NOW_US
from tests.dmp.test_archive import PARTITIONS, acts, drain, ids

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from pathlib import Path
from dmp import archive
from dmp.store import Store
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
