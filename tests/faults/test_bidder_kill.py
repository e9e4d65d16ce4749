"""Kill -9 of the bidder and of the store in the middle of traffic: what was acknowledged is kept."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from dmp import events, keys
from dmp.config import DmpConfig
from dmp.store import Store, open_store
from tests.bidder.running import CAMPAIGNS, body_of_user, urls

ROOT = Path(__file__).parents[2]
COST = 1_500  # micros of one impression at the price `urls` tells


class Process:
    """`tagbid bidder serve` with a store in its data directory."""

    def __init__(self, home):
        self.home = home
        (home / "campaigns.toml").write_text(CAMPAIGNS)
        (home / "tagbid.toml").write_text(
            f'[dmp]\ndata_dir = "{home}/data"\n[bidder]\nport = 0\nadmin_port = 0\n'
            f'campaigns = "{home}/campaigns.toml"\nmodels_dir = "{home}/models"\n'
        )
        self.process = None

    def start(self, *options):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bidder", "serve", "--config", str(self.home / "tagbid.toml"), *options],
            cwd=ROOT,
            env=os.environ | {"TAGBID_STORE": "embedded"},
            stdout=subprocess.PIPE,
            stderr=(self.home / "log").open("a"),
            text=True,
        )
        line = self.process.stdout.readline()
        match = re.fullmatch(r"ready (\S+) admin (\S+)\n", line)
        assert match, (line, (self.home / "log").read_text())
        self.url, self.admin = match.groups()

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def a_process(tmp_path):
    made = Process(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.process.terminate()
        assert made.process.wait(20) == 0, (tmp_path / "log").read_text()
        assert "defect" not in (tmp_path / "log").read_text()


def servers_in(home):
    """Processes that still have the store of a data directory as theirs."""
    found = []
    for path in Path("/proc").iterdir():
        with suppress(OSError):
            if path.name.isdigit() and str((path / "cwd").readlink()).startswith(str(home / "data")):
                found.append(int(path.name))
    return found


class Exchange:
    """Sends bids and bills every one of them until it is acknowledged, as exchanges do."""

    def __init__(self, process):
        self.process = process
        self.acknowledged = set()
        self.unacknowledged = {}
        self.stop = asyncio.Event()

    async def play(self):
        n = 0
        while not self.stop.is_set():
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(3)) as http:
                    while not self.stop.is_set():
                        n += 1
                        url = f"{self.process.url}/bid/x"
                        async with http.post(url, data=body_of_user(f"{n:08d}-8246-4ba4-ae5b-76104861e7dc")) as answer:
                            data = await answer.read() if answer.status == 200 else b""
                        if data:
                            (bid,) = json.loads(data)["seatbid"][0]["bid"]
                            self.unacknowledged[bid["id"]] = urls(bid)["billing"]
                            await self.bill(http, bid["id"])
            await asyncio.sleep(0.01)

    async def bill(self, http, bid_id):
        url = self.unacknowledged[bid_id]
        async with http.get(self.process.url + url[url.index("/bill") :]) as answer:
            if answer.status == 204:
                self.acknowledged.add(bid_id)
                self.unacknowledged.pop(bid_id)

    async def repeat(self):
        """Everything again: what was not acknowledged, and what was."""
        async with aiohttp.ClientSession() as http:
            for bid_id in list(self.unacknowledged):
                await self.bill(http, bid_id)
        assert not self.unacknowledged


def booked(client):
    """(bid ids in the stream, micros spent)"""
    stream = client.xrange(keys.notices(keys.money_partition("acme")))
    found = [events.decode(entry[b"e"]).bid_id for _, entry in stream]
    assert len(found) == len(set(found))
    (key,) = [key for key in client.keys("spend:*") if client.hexists(key, "spent")]
    return set(found), int(client.hget(key, "spent"))


async def enough(exchange, n):
    async with asyncio.timeout(60):
        while len(exchange.acknowledged) < n:  # noqa: ASYNC110 - counts only grow
            await asyncio.sleep(0.01)


@pytest.fixture
def home(tmp_path):
    yield tmp_path
    assert servers_in(tmp_path) == []


async def test_a_killed_bidder_leaves_no_process_and_loses_nothing_it_acknowledged(home):
    with a_process(home) as process:
        exchange = Exchange(process)
        playing = asyncio.gather(*(exchange.play() for _ in range(4)))
        for n in (1, 2):
            await enough(exchange, 50 * n)
            process.kill()
            deadline = time.monotonic() + 20
            while servers_in(home):
                assert time.monotonic() < deadline, "the store outlived its bidder"
                await asyncio.sleep(0.01)
            process.start()
        await enough(exchange, 150)
        exchange.stop.set()
        await playing
        await exchange.repeat()
        socket = Store(f"unix://{home}/data/store/valkey.sock")
        client = socket.sync()
        found, spent = booked(client)
        assert exchange.acknowledged == found
        assert spent == COST * len(found)
        client.close()


async def test_a_killed_store_comes_back_with_all_that_was_acknowledged(home, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    config = DmpConfig(data_dir=str(home / "data"))
    with open_store(config) as store, a_process(home) as process:
        exchange = Exchange(process)
        playing = asyncio.gather(*(exchange.play() for _ in range(4)))
        await enough(exchange, 50)
        os.kill(store.server.pid, signal.SIGKILL)
        store.server.wait()
        async with aiohttp.ClientSession() as http, http.post(f"{process.url}/bid/x", data=body_of_user()) as answer:
            assert answer.status == 200  # bids go on without the user
        with open_store(config) as again:
            await enough(exchange, 150)
            exchange.stop.set()
            await playing
            await exchange.repeat()
            client = again.sync()
            found, spent = booked(client)
            assert exchange.acknowledged == found
            assert spent == COST * len(found)
            client.close()
            process.process.terminate()
            process.process.wait(20)
