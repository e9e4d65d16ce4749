"""A whole bidder over a cluster: bids, budgets and notices wherever their keys are, and a node that stops."""

import asyncio
import signal

from dmp import keys
from dmp.cluster import slot
from tests.bidder.running import CAMPAIGNS, CAPPED, body_of_user, running, urls

USERS = [f"{i:08d}-8246-4ba4-ae5b-76104861e7dc" for i in range(24)]


async def test_bids_budgets_and_notices_find_their_nodes(tmp_path, cluster):
    async with running(tmp_path, cluster.store, CAMPAIGNS + CAPPED) as bidder:
        bids = [await bidder.a_bid(body_of_user(user)) for user in USERS]
        for bid in bids:
            told = urls(bid)
            assert (await bidder.get(told["win"]))[0] == 204
            assert (await bidder.get(told["billing"]))[0] == 204
            assert (await bidder.get(told["billing"]))[0] == 204  # again: counted once
        metrics = await bidder.metrics()
        assert metrics['tagbid_notices_total{kind="billing",result="counted"}'] == len(USERS)
        assert metrics['tagbid_notices_total{kind="billing",result="duplicate"}'] == len(USERS)
        assert metrics['tagbid_store_up{link="lookup"}'] == 1.0
        counted = [key for server in cluster.primaries for key in server.client.scan_iter("fc:*")]
        assert len(counted) == len(USERS)
        assert len({cluster.owner(slot(key)).port for key in counted}) == 3
        day = bidder.service.budgets.now_s() // 86_400
        booked = [
            int(cluster.owner(slot(key)).client.hget(key, "spent") or 0)
            for key in (keys.spend("acme", day), keys.spend("capped", day))
        ]
        assert sum(booked) == round(len(USERS) * 1.5 * 1000)  # each bill said a CPM of 1.5


async def test_a_node_that_stops_costs_its_users_their_tags_and_nobody_an_answer(tmp_path, own_cluster):
    async with running(tmp_path, own_cluster.store, CAMPAIGNS) as bidder:
        stopped = own_cluster.primaries[1]
        assert {status for status, _ in await asyncio.gather(*(bidder.bid(body_of_user(u)) for u in USERS))} == {200}
        before = await bidder.metrics()
        assert before['tagbid_contextual_total{because="store"}'] == 0
        stopped.signal(signal.SIGSTOP)
        rounds = 4
        for _ in range(rounds):
            answers = await asyncio.gather(*(bidder.bid(body_of_user(user)) for user in USERS))
            assert {status for status, _ in answers} == {200}
        metrics = await bidder.metrics()
        without = metrics['tagbid_contextual_total{because="store"}']
        read = metrics['tagbid_store_total{result="miss"}'] - before['tagbid_store_total{result="miss"}']
        assert without + read == rounds * len(USERS)
        assert without > 0
        assert read > 0
        assert without % rounds == 0  # the same users each time: those whose slots the node has
        stopped.signal(signal.SIGCONT)
