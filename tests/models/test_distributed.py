import os
import queue
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models import boosting, dask_team, distributed, encoding, features, frames, registry, response
from models.dask_team import NoDask
from models.distributed import Job, Team, TooManyWorkers, WorkerLost
from models.forest import Forest, sigmoid
from tests.models.factories import impressions

ROWS = 6_000
TREES = 8


@pytest.fixture(scope="module")
def planted():
    rows = impressions(ROWS)
    frame = frames.of_rows(rows)
    train = np.arange(ROWS) < ROWS * 3 // 4
    return rows, frame, train, encoding.fit(frame, train)


def fitted(planted, team, **options):
    rows, frame, train, encoder = planted
    params = boosting.parameters(int(train.sum()), 3_000, 1)
    return boosting.fit(frame, encoder, train, ~train, rows.clicks, params, trees=TREES, team=team, **options)


def loss(planted, booster):
    rows, frame, train, encoder = planted
    p = sigmoid(boosting.raw_scores(booster, frame, ~train, encoder, 1))
    y = rows.clicks[~train]
    return -float(np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def test_two_workers_learn_what_one_process_learns(planted):
    """Same bins, same sums of gradients but for rounding: log loss on held-out rows within half a percent.

    The columns include categorical ones nobody has a value for, which LightGBM's own binning by several dies of.
    """
    rows, _, train, encoder = planted
    X = encoder.matrix(frames.table_of(rows))
    assert any(np.isnan(X[:, i]).all() for i in features.CATEGORICAL)
    alone, together = fitted(planted, boosting.ALONE), fitted(planted, Team(2))
    assert loss(planted, together) == pytest.approx(loss(planted, alone), rel=0.005)
    y = rows.clicks[~train]
    rate = rows.clicks[train].mean()
    constant = -float(np.mean(y * np.log(rate) + (1 - y) * np.log(1 - rate)))
    assert loss(planted, together) < constant * 0.98
    forest = Forest.from_model_text(together.model_to_string(), features.N_REQUEST, features.N_CAMPAIGN)
    assert np.allclose(forest.predict(X[:200]), together.predict(X[:200], raw_score=True), atol=1e-9)


def test_a_team_trains_what_the_registry_takes(planted, tmp_path, monkeypatch):
    """Through the whole training; its text says nothing of machines, which a refit would try to link up with."""
    monkeypatch.setattr(response, "FEW_CLICKS", 0)
    report = response.train(planted[1], tmp_path, now_us=1, threads=1, force=True, team=Team(2))
    model = registry.load(tmp_path, response.KIND)
    assert model.version == report.version
    assert report.over_base.value > 0
    assert "127.0.0.1" not in model.text


def test_left_out_negatives_and_weights_reach_every_worker(planted):
    """Half of the unclicked rows: the sum of predictions still is that of the clicks, within three standard errors."""
    rows, frame, train, encoder = planted
    booster = fitted(planted, Team(2), negatives=0.5, weights=np.ones(ROWS))
    clicks = rows.clicks[~train].sum()
    predicted = sigmoid(boosting.raw_scores(booster, frame, ~train, encoder, 1)).sum()
    assert predicted == pytest.approx(clicks, abs=3 * np.sqrt(clicks))


@pytest.mark.parametrize("team", [boosting.ALONE, Team(2)])
def test_without_patience_all_trees_stand_whatever_validation_rows_say(planted, team):
    """Judged by their opposite, a tree that learns the labels makes things worse: one is all that patience keeps."""
    rows, frame, train, encoder = planted
    params = boosting.parameters(int(train.sum()), 3_000, 1)
    turned = np.where(train, rows.clicks, 1 - rows.clicks)

    def trees(patience):
        booster = boosting.fit(frame, encoder, train, ~train, turned, params, trees=TREES, patience=patience, team=team)
        return booster.num_trees()

    assert trees(0) == TREES
    assert trees(2) < TREES


def test_users_stay_with_one_worker_and_rows_without_one_are_spread():
    uids = [bytes([i % 50]) for i in range(500)]
    owners = distributed.shares(uids, [""] * 500, 3)
    assert all(len({int(o) for u, o in zip(uids, owners, strict=True) if u == uid}) == 1 for uid in set(uids))
    assert set(distributed.shares([None] * 100, [f"b{i}" for i in range(100)], 3)) == {0, 1, 2}


def test_a_worker_without_rows_is_refused_before_anything_starts(tmp_path):
    X = np.zeros((3, len(features.FEATURES)))
    owners = np.zeros(3, dtype=np.int64)
    with pytest.raises(TooManyWorkers, match="use fewer --workers"):
        distributed.write(tmp_path, owners, iter([(owners, X)]), np.zeros(3), None, 1, 2)


@pytest.fixture
def prepared(planted, tmp_path):
    """A folder two workers would train for minutes on."""
    rows, _, _, encoder = planted
    X = encoder.matrix(frames.table_of(rows))
    owners = np.arange(ROWS) % 2
    distributed.write(tmp_path, owners, iter([(owners, X)]), rows.clicks, None, 1, 2)
    distributed.write_validation(tmp_path, X[:100], rows.clicks[:100], None, 0.0)
    params = boosting.parameters(ROWS, 3_000, 1) | {"tree_learner": "data", "pre_partition": True, "time_out": 1}
    with distributed.free_ports(2) as ports:
        machines = [f"127.0.0.1:{port}" for port in ports]
    job = Job(params, machines, trees=100_000, patience=100_000, weighted=False)
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job))
    return tmp_path


def wait_for_rounds(words, rank):
    while words.get(timeout=60).round < 1:
        pass


@pytest.mark.parametrize(("sent", "told"), [(signal.SIGKILL, "signal 9"), (signal.SIGSTOP, "no worker made progress")])
def test_a_worker_that_dies_or_hangs_ends_the_training(prepared, sent, told):
    with ExitStack() as stack:
        words = queue.SimpleQueue()
        runs = [stack.enter_context(distributed.started(prepared, rank, words)) for rank in range(2)]
        wait_for_rounds(words, 0)
        os.kill(runs[1].process.pid, sent)
        with pytest.raises(WorkerLost, match=told):
            distributed.follow(runs, words, stall_s=2.0)
    assert all(run.process.returncode is not None for run in runs)


def test_workers_end_with_the_process_that_trains(prepared):
    """The trainer is killed and cannot clean up; its workers see their input end."""
    program = (
        "import queue, sys, pathlib\nfrom contextlib import ExitStack\nfrom models import distributed\n"
        "words = queue.SimpleQueue()\n"
        "with ExitStack() as stack:\n"
        "    runs = [stack.enter_context(distributed.started(pathlib.Path(sys.argv[1]), r, words)) for r in (0, 1)]\n"
        "    while words.get(timeout=60).round < 1: pass\n"
        "    print(*[run.process.pid for run in runs], flush=True)\n"
        "    distributed.follow(runs, words, 600)\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", program, str(prepared)], stdout=subprocess.PIPE)
    pids = [int(word) for word in trainer.stdout.readline().split()]
    assert len(pids) == 2
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    until = time.monotonic() + 30
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < until, "a worker outlived the training"
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_port_that_is_taken_is_told(prepared):
    """Rank 0's port is somebody else's: it cannot listen, says so, and nothing is left running."""
    job = msgspec.json.decode((prepared / "job.json").read_bytes(), type=Job)
    with socket.socket() as taken, ExitStack() as stack:
        taken.bind(("0.0.0.0", int(job.machines[0].rpartition(":")[2])))  # noqa: S104 - LightGBM binds to all
        taken.listen()
        words = queue.SimpleQueue()
        runs = [stack.enter_context(distributed.started(prepared, rank, words)) for rank in range(2)]
        with pytest.raises(WorkerLost, match=r"worker [01] "):
            distributed.follow(runs, words, stall_s=60)


@pytest.mark.long
def test_dask_workers_train_the_same_model(planted):
    pytest.importorskip("distributed")
    assert loss(planted, fitted(planted, Team(2, "local"))) == pytest.approx(loss(planted, fitted(planted, Team(2))))


def test_without_dask_its_extra_is_told(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(NoDask, match=r"tagbid\[dask\]"):
        fitted(planted, Team(2, "local"))


def test_a_scheduler_that_does_not_answer_is_told(planted, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra dask")
    monkeypatch.setattr(dask_team, "ANSWER_S", 1)
    with distributed.free_ports(1) as ports, pytest.raises(NoDask, match="no Dask scheduler answers"):
        fitted(planted, Team(2, f"tcp://127.0.0.1:{ports[0]}"))
