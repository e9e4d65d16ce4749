"""Budgets in a cluster whose primary dies: what a replica had not got is not spent twice."""

import asyncio
import signal

import pytest

from bidder.budget import Budgets
from bidder.copies import WAIT_MS, Copies
from dmp import keys
from dmp.cluster import slot
from dmp.link import REFRESH_S, Link
from tests.dmp import nodes

BUDGET = 1_000_000
HOLD_S = 60


@pytest.fixture
def replicated(tmp_path, monkeypatch):
    """Three primaries, the first with a replica."""
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with nodes.cluster(tmp_path / "cluster", replica=True) as made:
        yield made


def campaign_of(cluster, server):
    """The name of a campaign whose money a server keeps."""
    return next(name for n in range(200) if cluster.owner(slot(keys.spend(name := f"c{n}", 0))) is server)


class Worker:
    def __init__(self, cluster, name, campaign):
        self.link, self.copied = Link(cluster.url), Link(cluster.url)
        self.copies = Copies(self.copied)
        self.budgets = Budgets(self.link, name, HOLD_S, copies=self.copies)
        self.campaign = campaign

    async def start(self):
        await asyncio.gather(self.link.start(), self.copied.start())
        self.budgets.configure({self.campaign: BUDGET})
        return self

    @property
    def account(self):
        return self.budgets.accounts()[0]

    def spend_all(self, micros=1_000):
        """Reserve until nothing is left; what was reserved."""
        spent = 0
        while self.budgets.reserve(self.campaign, micros, self.budgets.now_s(), HOLD_S):
            spent += micros
        return spent

    async def stop(self):
        await self.link.close()
        await self.copied.close()


async def until(true):
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_lease_counts_when_a_replica_has_it_and_not_before(replicated, caplog):
    worker = await Worker(replicated, "worker-a", campaign_of(replicated, replicated.primaries[0])).start()
    try:
        await until(lambda: worker.copies.counts["copied"])
        assert worker.account.available > 0
        assert worker.account.safe == worker.account.lease
        replicated.replica.signal(signal.SIGSTOP)
        before, alone = worker.account.lease, worker.copies.counts["alone"]
        reserved = worker.spend_all()
        assert 0 < reserved <= before
        await until(lambda: worker.copies.counts["alone"] > alone)
        assert worker.account.lease > before  # granted, and not touched
        assert worker.account.safe == before
        assert worker.spend_all() == 0
        worker.budgets.tick(1.0)
        await until(lambda: worker.copies.counts["alone"] > alone + 1)
        told = [record.message for record in caplog.records if "no replica of" in record.message]
        assert len(told) == 1, "said once, not with every grant"
        assert str(replicated.primaries[0].port) in told[0]
        replicated.replica.signal(signal.SIGCONT)

        def again():
            worker.budgets.tick(1.0)
            return worker.account.safe > before

        await until(again)
        assert worker.spend_all() > 0
        assert caplog.records[-1].message.startswith("a replica of")
    finally:
        await worker.stop()


async def test_a_primary_that_dies_before_its_replica_knew_has_granted_nothing_twice(replicated):
    killed = replicated.primaries[0]
    campaign = campaign_of(replicated, killed)
    first = await Worker(replicated, "worker-a", campaign).start()
    second = await Worker(replicated, "worker-b", campaign).start()
    try:
        await until(lambda: first.copies.counts["copied"] and second.copies.counts["copied"])
        replicated.replica.signal(signal.SIGSTOP)
        killed.client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")  # nothing more is on its way to it
        spent = [first.spend_all()]
        await until(lambda: first.copies.counts["alone"])
        assert first.account.lease > first.account.safe
        granted = first.account.lease
        spent.append(first.spend_all())
        killed.kill()
        replicated.replica.signal(signal.SIGCONT)
        day = keys.spend(campaign, first.account.day)
        nodes.until(lambda: replicated.replica.client.info("replication")["role"] == "master", "the replica took over")
        forgotten = int(replicated.replica.client.hget(day, "l:worker-a"))
        assert forgotten < granted  # the replica never heard of it: it is free for anyone there
        await until(lambda: second.link.line(day) is not None and second.link.line(day).up)
        for worker in (second, first):

            def settled(worker=worker):
                worker.budgets.tick(1.0)
                spent.append(worker.spend_all())
                return worker.account.spent == 0 and worker.account.free == 0

            await until(settled)
        assert sum(spent) <= BUDGET
        assert sum(spent) > BUDGET // 2  # and it goes on
    finally:
        await first.stop()
        await second.stop()


async def test_without_replicas_nothing_is_waited_for(cluster):
    worker = await Worker(cluster, "worker-a", "acme").start()
    try:
        await until(lambda: worker.account.available > 0)
        assert worker.copies.counts == {"copied": 0, "alone": 0}
    finally:
        await worker.stop()


async def test_questions_to_one_primary_are_collected_while_it_waits(replicated):
    """A replica that says nothing costs all of them one wait after another, not one each."""
    link = Link(replicated.url)
    await link.start()
    copies = Copies(link)
    name = campaign_of(replicated, replicated.primaries[0])
    key = keys.spend(name, 1)
    replicated.put(key, b"1")
    try:
        told = []
        before = replicated.primaries[0].client.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"]
        for _ in range(50):
            copies.sure(key, 60, told.append)
        await until(lambda: len(told) == 50)
        assert told == [True] * 50
        assert replicated.primaries[0].client.info("commandstats")["cmdstat_wait"]["calls"] - before == 2
        copies.sure(keys.spend(name, 2), 60, told.append)  # nothing is kept under this key, so nothing was touched
        await until(lambda: len(told) == 51)
        assert told[-1] is False
        assert WAIT_MS < 1_000
    finally:
        await link.close()


async def test_who_asks_again_while_being_told_is_told_again(replicated):
    """As an account does to which more was granted meanwhile: nobody's question may be lost beside the others'."""
    link = Link(replicated.url)
    await link.start()
    copies = Copies(link)
    key = keys.spend(campaign_of(replicated, replicated.primaries[0]), 1)
    replicated.put(key, b"1")
    times = dict.fromkeys(range(6), 0)

    def ask(name):
        def told(copied):
            times[name] += 1
            if times[name] < 5:
                copies.sure(key, 60, told)

        copies.sure(key, 60, told)

    try:
        for name in times:
            ask(name)
        await until(lambda: list(times.values()) == [5] * 6)
    finally:
        await link.close()


async def test_where_nobody_is_known_to_have_a_key_nothing_counts(own_cluster):
    """Another connection may know who has it, and be granted money there."""
    link = Link(own_cluster.url)
    await link.start()
    copies, key = Copies(link), keys.spend("acme", 1)
    try:
        assert not copies.wanted(key)
        for server in own_cluster.primaries:
            server.cluster("DELSLOTS", slot(key))
        link.doubt()
        await until(lambda: link.line(key) is None)
        assert copies.wanted(key)
        told = []
        copies.sure(key, 60, told.append)
        assert told == [False]
    finally:
        await link.close()


async def test_a_slot_that_has_moved_is_looked_up_at_the_first_answer_that_says_so(replicated):
    """The next reading of the whole table is seconds away: that long nothing granted there would count."""
    source, target = replicated.primaries[1], replicated.primaries[0]
    link = Link(replicated.url)
    await link.start()
    copies, key = Copies(link), keys.spend(campaign_of(replicated, source), 1)
    replicated.put(key, b"1")
    try:
        replicated.begin_move(slot(key), source, target)
        replicated.end_move(slot(key), source, target)
        told = []
        async with asyncio.timeout(REFRESH_S / 2):
            while True not in told:
                copies.sure(key, 60, told.append)
                await asyncio.sleep(0.05)
        assert link.line(key).node.port == target.port
    finally:
        await link.close()
