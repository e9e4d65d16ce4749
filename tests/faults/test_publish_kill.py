"""Death at any moment of a build: readers go on seeing the live generation, whole, and the next build is as clean."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmp import offline
from dmp.config import DmpConfig
from dmp.store import live_generation, read_users
from tests.dmp.factories import NOW_US, tags_table, user

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from dmp import generations, offline
from dmp.config import DmpConfig
from dmp.store import Store
from tests.faults.test_publish_kill import NOW_US, second
from tests.dmp.factories import tags_table
generations.CHUNK_USERS = 10
data_dir, url = sys.argv[1:]
show = lambda step, done, total: print(step, done, flush=True)
print("ready", flush=True)
offline.publish_tags(DmpConfig(data_dir=data_dir), tags_table(second()), NOW_US, Store(url), "test", show)
print("live", flush=True)
"""


def first():
    return {n: {1: n % 7, 2: 5} for n in range(300)}


def second():
    """Some users change, some stay, some come, some go."""
    return {n: {1: n % 5, 2: 5} for n in range(100, 400)}


def seen(client, users=range(400)):
    found = read_users(client, [user(n) for n in users], int(NOW_US / 1e6))
    return {n: dict(one.tags) for n, one in zip(users, found, strict=True) if one.tags}


@pytest.mark.timeout(300)  # a dozen processes, of a second each on a busy machine
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
def test_a_build_killed_at_any_point_leaves_the_live_generation_untouched(tmp_path, store, client, seed):
    rng = random.Random(seed)
    config = DmpConfig(data_dir=str(tmp_path))
    offline.publish_tags(config, tags_table(first()), NOW_US, store, "test")
    assert seen(client) == first()
    deaths = set()
    lines = 2  # told by the worker before it is killed
    while True:
        command = [sys.executable, "-c", WORKER, str(tmp_path), store.url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            told = [worker.stdout.readline() for _ in range(lines)]
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        if live_generation(client) != 1:
            break
        assert "" not in told, "the worker ended by itself without making its build live"
        deaths.add(told[-1].split()[0])
        assert seen(client) == first()
        lines += rng.randrange(5, 14)
    assert {"bitmaps", "publish"} <= deaths
    assert seen(client) == second()
    for number in range(2):  # what the dead left behind does not come to life with later builds
        offline.publish_tags(config, tags_table(first() if number else {7: {1: 1}}), NOW_US, store, "test")
        assert seen(client) == (first() if number else {7: {1: 1}})
