"""The supervisor by itself: what it does when no process can be started, and when its nursery does not listen."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import msgspec
import pytest

from bidder import config, supervisor
from bidder.supervisor import NoWorker, State, Supervisor
from tests.bidder.running import CAMPAIGNS

PATIENCE_S = 60


@pytest.fixture
def made(tmp_path, store):
    """Settings of two workers, and the options of their nursery."""
    (tmp_path / "campaigns.toml").write_text(CAMPAIGNS)
    (tmp_path / "tagbid.toml").write_text(
        f'[dmp]\ndata_dir = "{tmp_path}/data"\nredis_url = "{store.url}"\n'
        f'[bidder]\nport = 0\nadmin_port = 0\nmodels_dir = "{tmp_path}/models"\n'
    )
    settings = msgspec.structs.replace(config.load(tmp_path / "tagbid.toml"), workers=2)
    options = ["--config", f"{tmp_path}/tagbid.toml", "--campaigns", f"{tmp_path}/campaigns.toml"]
    return settings, tmp_path / "data", options


async def eventually(true):
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def supervised(made, python):
    """A supervisor whose workers serve, with one standing by."""
    settings, data_dir, options = made
    found, stop, ready = (
        Supervisor(settings, data_dir, [python, "-m", "bidder", "nursery", *options]),
        asyncio.Event(),
        [],
    )
    running = asyncio.create_task(found.run(stop, lambda *urls: ready.append(urls)))
    try:
        await eventually(lambda: ready or running.done())
        await eventually(lambda: states(found) == ["serving", "serving", "standby"] or running.done())
        yield found
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await running


def states(supervisor):
    return sorted(worker.state for worker in supervisor.workers)


async def test_a_start_without_any_process_is_told(made):
    settings, data_dir, _ = made
    with pytest.raises(NoWorker):
        async with asyncio.timeout(PATIENCE_S):
            await Supervisor(settings, data_dir, ["/nowhere/python"]).run(asyncio.Event(), print)


async def test_workers_are_replaced_once_processes_can_be_started_again(made, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 0.1)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    async with supervised(made, str(python)) as found:
        python.chmod(0o600)
        os.kill(found._nursery.pid, signal.SIGKILL)
        victim = next(worker for worker in found.workers if worker.state is State.SERVING)
        os.kill(victim.pid, signal.SIGKILL)
        await eventually(lambda: states(found) == ["serving", "serving"])
        await asyncio.sleep(0.5)  # several tries, all in vain
        python.chmod(0o700)
        await eventually(lambda: states(found) == ["serving", "serving", "standby"])


@pytest.mark.parametrize("birth", [True, False], ids=["while a worker is due", "when all is well"])
async def test_a_nursery_that_does_not_listen_holds_up_no_end(made, birth):
    async with supervised(made, sys.executable) as found:
        nursery = found._nursery
        os.kill(nursery.pid, signal.SIGSTOP)
        if birth:
            victim = next(worker for worker in found.workers if worker.state is State.STANDBY)
            os.kill(victim.pid, signal.SIGKILL)
            await eventually(lambda: len(found.workers) == 2)
            await eventually(found._births.locked)
    assert nursery.returncode == -signal.SIGKILL
    assert not found.workers
