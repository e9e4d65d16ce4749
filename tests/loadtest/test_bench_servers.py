"""Servers that are not asked stand still, and nobody else does."""

import os
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from loadtest import scrape, stress
from loadtest.bench_servers import Server, paused
from loadtest.children import started
from tests.loadtest.test_stress import a_result


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def becomes(pid, wanted):
    until_s = time.monotonic() + 20
    while (state(pid) in "Tt") is not wanted:
        assert time.monotonic() < until_s
        time.sleep(0.005)


def test_a_family_is_a_process_and_all_below_it(tmp_path):
    with started("sh", ["sh", "-c", "sh -c 'sleep 60; :'; :"], tmp_path / "log") as child:
        until_s = time.monotonic() + 20
        while len(found := scrape.family(child.process.pid)) < 3:
            assert time.monotonic() < until_s
            time.sleep(0.005)
        assert found[0] == child.process.pid
        assert found[1] in scrape.children(found[0])
        assert found[2] in scrape.children(found[1])


def test_paused_servers_go_on_afterwards_also_when_something_failed(tmp_path):
    with started("sh", ["sleep", "60"], tmp_path / "log") as child:
        server = Server("sleeper", "http://127.0.0.1:1/", child)

        def broken():
            with paused([server]):
                becomes(child.process.pid, True)
                raise subprocess.TimeoutExpired("anything", 1)

        with pytest.raises(subprocess.TimeoutExpired):
            broken()
        becomes(child.process.pid, False)


def test_a_server_that_ended_meanwhile_leaves_no_other_standing(tmp_path):
    with started("one", ["sleep", "60"], tmp_path / "1") as one, started("two", ["sleep", "60"], tmp_path / "2") as two:
        with paused([Server(child.name, "http://127.0.0.1:1/", child) for child in (one, two)]):
            becomes(two.process.pid, True)
            one.process.kill()
            one.process.wait()
        becomes(two.process.pid, False)


def test_cores_are_what_was_spent_in_a_second_of_the_run():
    burnt = msgspec.structs.replace(a_result([0.0], 1), elapsed_s=2.0, cpu_s=1.0)
    found = stress.cores_used({"me": scrape.cpu_s([os.getpid()]) - 3.0}, {"me": [os.getpid()]}, burnt)
    assert found["generator"] == 0.5
    assert 1.5 <= found["me"] < 2.5
