"""Trainings and refits by the clock: when each runs, what is remembered, and how the process lives and ends."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.errors import TagbidError
from models import upkeep
from models.upkeep import RETRY_S, Job, after, due_s, next_of

EVERY_S = {"train": 86_400.0, "refit": 3_600.0}
NOW_S = 1e9
PATIENCE_S = 60


@pytest.mark.parametrize(
    ("jobs", "live", "found"),
    [
        ({}, False, "train"),
        ({}, True, "train"),
        ({"train": Job(NOW_S - 10)}, True, "refit"),
        ({"train": Job(NOW_S - 86_400), "refit": Job(NOW_S - 3_600)}, True, "train"),
    ],
)
def test_what_is_due_is_done_the_training_first(jobs, live, found):
    name, when_s = next_of(jobs, EVERY_S, live, NOW_S)
    assert (name, when_s <= NOW_S) == (found, True)


@pytest.mark.parametrize(
    ("jobs", "live", "found"),
    [
        ({"train": Job(NOW_S - 80_000), "refit": Job(NOW_S - 600)}, True, ("refit", NOW_S + 3_000)),
        ({"train": Job(NOW_S - 86_000), "refit": Job(NOW_S - 600)}, True, ("train", NOW_S + 400)),
        ({"train": Job(NOW_S - 400, failed=True)}, False, ("train", NOW_S + RETRY_S - 400)),
        ({"train": Job(NOW_S), "refit": Job(NOW_S - 400, failed=True)}, True, ("refit", NOW_S + RETRY_S - 400)),
    ],
)
def test_else_the_next_one_is_waited_for_and_what_failed_comes_again_soon(jobs, live, found):
    assert next_of(jobs, EVERY_S, live, NOW_S) == found


@given(st.floats(0, 2e9), st.floats(1, 1e6), st.floats(0, 2e9), st.booleans())
def test_nothing_is_waited_for_longer_than_its_time_whatever_the_clock_did(tried_s, every_s, now_s, failed):
    assert due_s(Job(tried_s, failed=failed), every_s, now_s) <= now_s + every_s


def test_how_runs_ended_is_counted_and_a_new_model_is_not_refitted_at_once():
    jobs = {}
    for began_s, name, code in ((1, "train", 2), (2, "train", 0), (3, "refit", 1), (4, "refit", 0), (5, "train", 1)):
        jobs = after(jobs, name, began_s, code)
        if began_s == 2:
            assert jobs["refit"] == Job(tried_s=2)
    assert jobs == {"train": Job(5, 1, 1, 1), "refit": Job(4, 1, 1, 0)}
    assert after(jobs, "train", 6, -9)["train"] == Job(6, 1, 1, 2, failed=True)


def test_what_is_remembered_is_read_back_and_a_strange_file_is_an_error(tmp_path):
    assert upkeep.read(tmp_path) == {}
    jobs = {"train": Job(5.5, 1, 2, 3, failed=True)}
    upkeep.write(tmp_path, jobs)
    assert upkeep.read(tmp_path) == jobs
    (tmp_path / upkeep.FILE).write_text('{"train": 7}')
    with pytest.raises(TagbidError, match="remove it"):
        upkeep.read(tmp_path)


@contextmanager
def at_work(folder, models_dir="models"):
    """A process that keeps the models of a folder up, and its lines as they come."""
    (folder / "tagbid.toml").write_text(f'[models]\nmodels_dir = "{models_dir}"\n')
    (folder / "bidlog").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "models", "upkeep", "bidlog"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process, text):
    deadline_s = time.monotonic() + PATIENCE_S
    for line in process.stderr:
        if text in line:
            return line
        assert time.monotonic() < deadline_s
    raise AssertionError(f"it ended without a word of {text!r}")


def test_errors_are_counted_and_told_and_a_signal_ends_it_cleanly(tmp_path):
    """Nothing is in the bid log yet, so every training fails; it is not tried again at once, by whoever."""
    with at_work(tmp_path) as process:
        assert "1 errors" in line_with(process, "failed with exit code 2")
        line_with(process, "next: train at")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    kept = json.loads((tmp_path / "models" / upkeep.FILE).read_bytes())
    assert (kept["train"]["errors"], kept["train"]["failed"]) == (1, True)
    with at_work(tmp_path) as process:
        assert process.stderr.readline().startswith("next: train at")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def test_only_one_keeps_the_models_of_a_folder_up(tmp_path):
    with at_work(tmp_path) as process:
        line_with(process, "next:")
        with at_work(tmp_path) as other:
            line_with(other, "one is enough")
            assert other.wait(PATIENCE_S) == 2
        assert process.poll() is None


def test_a_crash_is_an_error_and_not_taken_for_a_model_that_was_refused(tmp_path):
    """Python itself ends with the code that `train` gives for "not published"."""
    (tmp_path / "bidlog").mkdir()
    (tmp_path / "bidlog" / "bids.mpk").write_bytes(b"")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cache").write_text("where a folder should be")
    with at_work(tmp_path) as process:
        assert "1 errors" in line_with(process, "train: failed with exit code")
    kept = json.loads((tmp_path / "models" / upkeep.FILE).read_bytes())
    assert (kept["train"]["refused"], kept["train"]["failed"]) == (0, True)
