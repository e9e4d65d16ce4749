"""Death at any moment of an ingest: no row is lost and none is there twice."""

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dmp import ingest, journal, mapping, quarantine
from dmp.pseudonym import KeyRing
from tests.dmp.test_ingest import GOOD, NOW_US, SHOP, a_csv

ROOT = Path(__file__).parents[2]
RING = KeyRing(b"k" * 32)
WORKER = """
import sys
from pathlib import Path
from dmp import ingest, mapping
from dmp.pseudonym import KeyRing
from tests.dmp.test_ingest import NOW_US, SHOP
ingest.CHUNK_ROWS = 30
ring = KeyRing(b"k" * 32)
into, what, *logs = sys.argv[1:]
print("ready", flush=True)
show = lambda file, share, rows: print(rows, flush=True)
if what == "ingest":
    ingest.ingest(map(Path, logs), Path(into), mapping.parse(SHOP, "shop"), ring, NOW_US, show)
else:
    ingest.replay(Path(into), mapping.parse(SHOP.replace('pv =', 'wave = "search", pv ='), "shop"), ring, NOW_US, show)
"""


@pytest.fixture
def logs(tmp_path):
    """A CSV and a JSON log of 600 rows each; a fifth refused, a fifth copies, also of the other log."""
    rng = random.Random(3)
    made = []
    for _ in range(2):
        rows = [
            GOOD
            | {
                "user": f"u{rng.randrange(200)}",
                "at": f"2024-10-0{rng.randrange(1, 4)}",
                "cents": f"{rng.randrange(3)}",
            }
            for _ in range(600)
        ]
        for row in rng.sample(rows, 120):
            row |= rng.choice([{"at": "x"}, {"user": ""}, {"action": "wave"}])
        made.append(rows)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made[1]))
    return [a_csv(tmp_path / "a.csv", *made[0]), tmp_path / "b.jsonl"]


def a_worker(into: Path, what: str, logs: list[Path]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, str(into), what, *map(str, logs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def killed_until_done(rng: random.Random, into: Path, what: str, logs: list[Path]) -> int:
    """Start workers and kill each after some steps and a moment, until one ends; returns how many were killed."""
    deaths = 0
    while True:
        with a_worker(into, what, logs) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            for _ in range(rng.randrange(4 + 8 * deaths)):
                worker.stdout.readline()
            threading.Event().wait(rng.uniform(0, 0.03))  # a step takes about 10 ms
            if worker.poll() is None:
                worker.kill()
            if worker.wait() == 0:
                return deaths
        deaths += 1
        check(into)


def events_of(into: Path) -> list[tuple]:
    rows = [row for path in into.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(tuple(row.values()) for row in rows)


def refused(into: Path) -> list[tuple]:
    steps = journal.quarantined(journal.read(into))
    rows = quarantine.listed([journal.quarantine(into, step.n) for step in steps])
    return sorted((row.file, row.row, row.reason) for row in rows)


def check(into: Path) -> None:
    """A reader amid deaths finds no event twice, and whatever was told is there."""
    found = events_of(into)
    assert len(set(found)) == len(found)
    told = journal.read(into)
    assert len(found) >= sum(step.events for step in told)
    assert len(refused(into)) == sum(sum(step.bad.values()) for step in journal.quarantined(told))


@pytest.mark.timeout(300)  # a dozen processes, of a second each on a busy machine
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 8))])
def test_an_ingest_and_a_replay_killed_again_and_again_end_as_if_nothing_had_happened(tmp_path, logs, seed):
    rng = random.Random(seed)
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    whole = ingest.ingest(logs, calm, mapping.parse(SHOP, "shop"), RING, NOW_US)
    assert (whole.rows, sum(whole.bad.values())) == (1_200, 240)
    assert whole.duplicates > 50
    deaths = killed_until_done(rng, wild, "ingest", logs)
    assert deaths >= 1
    assert events_of(wild) == events_of(calm)
    assert refused(wild) == refused(calm)
    better = mapping.parse(SHOP.replace("pv =", 'wave = "search", pv ='), "shop")
    assert ingest.replay(calm, better, RING, NOW_US).events > 20
    killed_until_done(rng, wild, "replay", logs)
    assert events_of(wild) == events_of(calm)
    assert refused(wild) == refused(calm)
    told = journal.read(wild)
    assert sum(step.rows for step in told if not step.replaces) == whole.rows
