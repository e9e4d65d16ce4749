"""Several workers on one port: they share the traffic, the dead are replaced, all leave together."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from loadtest import scrape
from loadtest.scrape import parse
from tests.bidder.running import CAMPAIGNS, body, urls
from tests.faults.test_bidder_kill import ROOT, Process, servers_in

WORKERS = 2


class Workers(Process):
    def start(self, *options):
        super().start("--workers", str(WORKERS), *options)

    def nursery(self):
        """Pid of what workers are forked from."""
        (found,) = [pid for pid in scrape.children(self.process.pid) if b"nursery" in command(pid)]
        return found

    def children(self):
        """Pids of the worker processes."""
        return scrape.children(self.nursery())


def command(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


@pytest.fixture
def workers(tmp_path):
    made = Workers(tmp_path)
    made.start()
    yield made
    if made.process.poll() is None:
        made.process.terminate()
        assert made.process.wait(30) == 0, (tmp_path / "log").read_text()


async def eventually(true, seconds=30):
    async with asyncio.timeout(seconds):
        while not (found := await true()):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
        return found


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def one_bid(process):
    """A bid over a connection of its own; None when the connection broke."""
    with suppress(aiohttp.ClientError, OSError):
        async with aiohttp.ClientSession() as http, http.post(f"{process.url}/bid/x", data=body()) as answer:
            assert answer.status in (200, 204)
            return await answer.read()
    return None


async def page(process, path="/metrics"):
    async with aiohttp.ClientSession() as http, http.get(process.admin + path) as answer:
        return await answer.text()


async def serving(process):
    return int(parse(await page(process))['tagbid_workers{state="serving"}'])


async def test_workers_share_the_port_and_one_page_tells_of_all(workers):
    asked = 40
    bids = await asyncio.gather(*(one_bid(workers) for _ in range(asked)))
    assert all(bids)
    metrics = parse(await page(workers))
    assert metrics['tagbid_requests_total{exchange="x"}'] == asked
    assert metrics["tagbid_bid_seconds_count"] == asked
    limits = [name for name in metrics if name.startswith("tagbid_in_flight_limit")]
    assert len(limits) == WORKERS
    health = json.loads(await page(workers, "/health"))
    assert health["status"] == "ok"
    assert len(health["workers"]) == WORKERS
    assert len(workers.children()) == WORKERS + 1  # one stands by
    # Any worker books the notice of any bid.
    bid = json.loads(bids[0])["seatbid"][0]["bid"][0]
    url = urls(bid)["billing"]
    for _ in range(6):
        async with aiohttp.ClientSession() as http, http.get(workers.url + url[url.index("/bill") :]) as answer:
            assert answer.status == 204
    assert parse(await page(workers))['tagbid_notices_total{kind="billing",result="counted"}'] == 1


async def test_a_killed_worker_is_replaced_and_its_counts_stay(workers):
    await asyncio.gather(*(one_bid(workers) for _ in range(30)))
    assert parse(await page(workers))['tagbid_requests_total{exchange="x"}'] == 30
    before = set(workers.children())
    serves = {pid for pid in before if listens(pid)}
    assert len(serves) == WORKERS
    victim = min(serves)
    os.kill(victim, signal.SIGKILL)

    async def replaced():
        now = set(workers.children())
        return victim not in now and await serving(workers) == WORKERS

    await eventually(replaced)
    assert all(await asyncio.gather(*(one_bid(workers) for _ in range(20))))
    metrics = parse(await page(workers))
    assert metrics["tagbid_worker_exits_total"] == 1
    assert metrics['tagbid_requests_total{exchange="x"}'] == 50
    await eventually(lambda: asyncio.sleep(0, len(workers.children()) == WORKERS + 1))


def listens(pid):
    """Whether a process has sockets besides its admin port's: those of the public port."""
    inodes = set()
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = str(path.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return len([row for row in rows if row[9] in inodes and row[3] == "0A"]) == 2


async def test_all_leave_together_and_finish_what_they_began(workers, tmp_path):
    await asyncio.gather(*(one_bid(workers) for _ in range(10)))
    children = [workers.nursery(), *workers.children()]
    workers.process.terminate()
    assert workers.process.wait(30) == 0
    assert not alive(children)
    told = (tmp_path / "log").read_text()
    assert "defect" not in told
    assert "ERROR" not in told


async def test_workers_do_not_outlive_a_killed_supervisor(workers, tmp_path):
    children = [workers.nursery(), *workers.children()]
    workers.kill()
    until_s = time.monotonic() + 30
    while alive(children) or servers_in(tmp_path):
        assert time.monotonic() < until_s
        await asyncio.sleep(0.05)


async def test_workers_outlive_their_nursery_and_another_one_bears_the_next(workers):
    first, before = workers.nursery(), set(workers.children())
    os.kill(first, signal.SIGKILL)
    assert all(await asyncio.gather(*(one_bid(workers) for _ in range(10))))
    victim = min(pid for pid in before if listens(pid))
    os.kill(victim, signal.SIGKILL)

    async def replaced():
        ended = parse(await page(workers))["tagbid_worker_exits_total"] == 1
        return ended and await serving(workers) == WORKERS

    await eventually(replaced)
    await eventually(lambda: asyncio.sleep(0, len(scrape.children(workers.process.pid)) > 1))  # the store is the other
    await eventually(lambda: asyncio.sleep(0, len(workers.children()) == 1))
    assert workers.nursery() != first
    assert all(await asyncio.gather(*(one_bid(workers) for _ in range(10))))


async def test_a_worker_that_is_born_late_knows_what_changed(workers):
    """The nursery holds what it loaded first; whoever comes after a change must not bid by what is gone."""
    assert all(await asyncio.gather(*(one_bid(workers) for _ in range(4))))
    (workers.home / "campaigns.toml").write_text(CAMPAIGNS.replace('"acme-1"', '"other-1"'))
    for victim in [pid for pid in workers.children() if listens(pid)]:
        os.kill(victim, signal.SIGKILL)

    async def born():
        return parse(await page(workers))["tagbid_worker_exits_total"] == WORKERS and await serving(workers) == WORKERS

    await eventually(born)

    async def known():
        bid = await one_bid(workers)
        return bid and json.loads(bid)["seatbid"][0]["bid"][0]["crid"] == "other-1"

    await eventually(known)


def memory_kb(pid, *kinds):
    """Of a process, by kinds of smaps_rollup."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(kinds))


async def test_workers_share_what_was_loaded_once(tmp_path):
    made = Workers(tmp_path)
    one = CAMPAIGNS.replace("a=1", "a=" + "1" * 1_000)
    many = (one.replace('id = "acme"', f'id = "c{n}"').replace('"acme-1"', f'"c{n}-1"') for n in range(4_000))
    (tmp_path / "campaigns.toml").write_text("".join(many))
    made.start()
    try:
        assert all(await asyncio.gather(*(one_bid(made) for _ in range(4))))
        loaded = memory_kb(made.nursery(), "Anonymous")
        own = [memory_kb(pid, "Private_") for pid in made.children()]
        assert max(own) < loaded / 2, (own, loaded)
    finally:
        made.process.terminate()
        assert made.process.wait(30) == 0


def test_it_can_be_told_to_stop_while_it_loads(tmp_path):
    made = Workers(tmp_path)
    (tmp_path / "campaigns.toml").unlink()
    os.mkfifo(tmp_path / "campaigns.toml")  # reading it takes for ever
    begun = subprocess.Popen(
        [sys.executable, "-m", "bidder", "serve", "--config", str(tmp_path / "tagbid.toml"), "--workers", "2"],
        cwd=ROOT,
        env=os.environ | {"TAGBID_STORE": "embedded"},
        stderr=(tmp_path / "log").open("a"),
    )
    made.process = begun
    until_s = time.monotonic() + 60
    while not any(b"nursery" in command(pid) for pid in scrape.children(begun.pid)):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    begun.terminate()
    assert begun.wait(30) == 0, (tmp_path / "log").read_text()
    assert not servers_in(tmp_path)


def test_a_campaign_file_that_cannot_be_used_ends_the_start_with_its_message(tmp_path):
    made = Workers(tmp_path)
    (tmp_path / "campaigns.toml").write_text("[[campaign]]\nid = 3\n")
    with pytest.raises(AssertionError):
        made.start()
    assert made.process.wait(30) == 2
    told = (tmp_path / "log").read_text()
    assert "campaigns.toml" in told
    assert "Traceback" not in told
