"""The bid path's reads and commands in a real cluster: slots that move, nodes that stop, die and come back."""

import asyncio
import hashlib
import signal
import time
from contextlib import asynccontextmanager, suppress

import pytest
import redis.exceptions

from dmp import codec, keys
from dmp.cluster import slot
from dmp.link import AT_ONCE, Link
from dmp.lookup import Lookup
from dmp.schema import NOBODY, Tag, User
from tests.dmp import nodes

UIDS = [bytes([n]) * 16 for n in range(1, 60)]
FAR_S = 30.0


@asynccontextmanager
async def connected(url, **options):
    lookup = Lookup(url, **options)
    await lookup.start()
    try:
        yield lookup
    finally:
        await lookup.close()


async def read(lookup, uid, seconds=FAR_S):
    """The user, or None when there is no answer."""
    future = asyncio.get_running_loop().create_future()
    return await future if lookup.get(uid, time.monotonic() + seconds, future.set_result) else None


async def until(holds):
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)


def home(cluster, uid):
    return cluster.owner(slot(keys.audiences(uid)))


def know(cluster, uid, *tags):
    cluster.put(keys.GENERATION, b"1")
    cluster.put(keys.profile(uid, 0), codec.encode_profile(1, [Tag(tag, 50, 20_000, 1) for tag in tags]))
    cluster.put(keys.audiences(uid), codec.encode_audiences([(5, 0)]))


def as_known(*tags):
    return User(dict.fromkeys(tags, 50), frozenset({5}), ())


async def test_every_user_is_read_from_the_node_that_has_it_in_one_write_a_node(cluster):
    for n, uid in enumerate(UIDS):
        know(cluster, uid, n + 1)
    async with connected(cluster.url) as lookup:
        await read(lookup, UIDS[0])
        before = [server.client.info("stats")["total_reads_processed"] for server in cluster.primaries]
        users = await asyncio.gather(*(read(lookup, uid) for uid in UIDS))
        after = [server.client.info("stats")["total_reads_processed"] for server in cluster.primaries]
        assert users == [as_known(n + 1) for n in range(len(UIDS))]
        assert {home(cluster, uid).port for uid in UIDS} == {server.port for server in cluster.primaries}
        # Between: one read of all that went to a node, the INFO that asks, the poll of the live generation, the bus.
        assert all(new - old < 10 for old, new in zip(before, after, strict=True))
        assert lookup.link.counts["moved"] == 0
        assert (lookup.generation, lookup.link.share_up) == (1, 1.0)


async def test_any_node_may_be_named_and_one_that_is_dead_beside_it(cluster):
    know(cluster, UIDS[0], 7)
    dead = nodes.free_ports(1)[0]
    async with connected(f"redis://127.0.0.1:{dead},127.0.0.1:{cluster.primaries[2].port}") as lookup:
        assert await read(lookup, UIDS[0]) == as_known(7)


async def test_a_slot_that_moved_is_asked_for_once_at_its_old_place(cluster):
    know(cluster, UIDS[0], 7)
    async with connected(cluster.url) as lookup:
        source = home(cluster, UIDS[0])
        target = next(server for server in cluster.primaries if server is not source)
        number = slot(keys.audiences(UIDS[0]))
        cluster.begin_move(number, source, target)
        cluster.end_move(number, source, target)
        assert await read(lookup, UIDS[0]) == as_known(7)
        assert await read(lookup, UIDS[0]) == as_known(7)
        assert lookup.link.counts["moved"] <= 1  # none when the table was read in between
        assert (lookup.counts["hit"], lookup.counts["error"]) == (2, 0)


@pytest.mark.parametrize("moved", [0, 1, 2], ids=["nothing yet", "half", "all of it"])
async def test_a_user_whose_slot_is_being_moved_is_read_whole(cluster, moved):
    know(cluster, UIDS[0], 7)
    async with connected(cluster.url) as lookup:
        source = home(cluster, UIDS[0])
        target = next(server for server in cluster.primaries if server is not source)
        number = slot(keys.audiences(UIDS[0]))
        cluster.begin_move(number, source, target)
        for key in (keys.profile(UIDS[0], 0), keys.audiences(UIDS[0]))[:moved]:
            cluster.move_key(key, source, target)
        assert await read(lookup, UIDS[0]) == as_known(7)
        assert lookup.link.counts["ask"] > 0
        cluster.end_move(number, source, target)
        assert await read(lookup, UIDS[0]) == as_known(7)
        assert lookup.counts["error"] == 0


async def test_commands_and_scripts_follow_a_key_that_moves(cluster):
    key = keys.spend("acme/spring", 20_000)
    number, script = slot(key), "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    link = Link(cluster.url)
    await link.start()
    try:
        assert await link.eval(script, 1, key, 2) == 2
        source = cluster.owner(number)
        target = next(server for server in cluster.primaries if server is not source)
        cluster.begin_move(number, source, target)
        cluster.move_key(key, source, target)
        assert await link.eval(script, 1, key, 3) == 5
        cluster.end_move(number, source, target)
        assert await link.execute("GET", key) == b"5"
        assert await asyncio.gather(*(link.execute("INCR", key) for _ in range(20))) == list(range(6, 26))
        with pytest.raises(redis.exceptions.ResponseError, match="CROSSSLOT"):
            await link.execute("MGET", "a", "b")
        await link.everywhere("SCRIPT", "LOAD", script)
        name = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        assert [server.client.script_exists(name) for server in cluster.primaries] == [[True]] * 3
    finally:
        await link.close()


async def test_a_node_that_stands_still_costs_only_its_users_their_tags_and_they_come_back(own_cluster):
    for n, uid in enumerate(UIDS):
        know(own_cluster, uid, n + 1)
    stopped = own_cluster.primaries[1]
    theirs = [uid for uid in UIDS if home(own_cluster, uid) is stopped]
    others = [uid for uid in UIDS if home(own_cluster, uid) is not stopped]
    async with connected(own_cluster.url, stall_s=0.1) as lookup:
        stopped.signal(signal.SIGSTOP)
        assert await read(lookup, theirs[0]) is None  # at the breaker, long before its deadline
        assert lookup.counts["error"] == 1
        assert await asyncio.gather(*(read(lookup, uid) for uid in theirs)) == [None] * len(theirs)
        assert lookup.counts["skipped"] == len(theirs)
        users = await asyncio.gather(*(read(lookup, uid) for uid in others))
        assert [len(user.tags) for user in users] == [1] * len(others)
        assert 0.6 < lookup.link.share_up < 0.7
        assert lookup.link.up
        stopped.signal(signal.SIGCONT)

        async def back():
            return None not in await asyncio.gather(*(read(lookup, uid) for uid in theirs))

        await until(back)


async def test_reads_that_wait_for_one_silent_node_are_bounded_and_told_apart(own_cluster):
    stopped = own_cluster.primaries[1]
    theirs = [uid for n in range(40_000) if home(own_cluster, uid := n.to_bytes(16)) is stopped][:200]
    other = next(uid for uid in UIDS if home(own_cluster, uid) is not stopped)
    async with connected(own_cluster.url, stall_s=60.0) as lookup:
        stopped.signal(signal.SIGSTOP)
        got = []
        first = [lookup.get(uid, time.monotonic() + FAR_S, got.append) for uid in theirs[:100]]
        assert all(first)  # it may well be about to answer

        async def silent():
            return lookup.link.stuck() >= 100

        await until(silent)
        assert not any(lookup.get(uid, time.monotonic() + FAR_S, got.append) for uid in theirs[100:])
        assert await read(lookup, other) is NOBODY
        stopped.signal(signal.SIGCONT)

        async def answered():
            return len(got) == 100

        await until(answered)
        assert set(map(type, got)) == {User}


async def test_a_killed_primary_is_replaced_by_its_replica_while_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with nodes.cluster(tmp_path, replica=True) as made:
        for n, uid in enumerate(UIDS):
            know(made, uid, n + 1)
        killed = made.primaries[0]
        theirs = [uid for uid in UIDS if home(made, uid) is killed]
        other = next(uid for uid in UIDS if home(made, uid) is not killed)
        killed.client.wait(1, 5000)
        async with connected(made.url) as lookup:
            killed.kill()

            async def gone():
                return await read(lookup, theirs[0]) is None

            async def back():
                assert await read(lookup, other) is not None  # all the time
                return None not in await asyncio.gather(*(read(lookup, uid) for uid in theirs))

            await until(gone)
            await until(back)
            assert (await read(lookup, theirs[0])).tags == {UIDS.index(theirs[0]) + 1: 50}
            killed.start()  # comes back as the replica of its successor: it is not asked any more
            nodes.until(lambda: killed.client.info("replication")["role"] == "slave", "the old primary gave way")
            assert await back()
            assert lookup.link.share_up == 1.0


async def test_a_cluster_that_was_all_down_is_found_again(own_cluster):
    know(own_cluster, UIDS[0], 7)
    async with connected(own_cluster.url) as lookup:
        for server in own_cluster.servers:
            server.kill()

        async def down():
            return not lookup.link.up

        await until(down)
        assert await read(lookup, UIDS[0]) is None
        with pytest.raises(redis.exceptions.ConnectionError):
            await lookup.link.execute("GET", "a")
        for server in own_cluster.servers:
            server.start()

        async def back():
            return await read(lookup, UIDS[0]) is NOBODY  # the servers keep nothing here

        await until(back)


async def test_a_link_starts_although_a_node_is_away(own_cluster):
    away = own_cluster.primaries[2]
    other = next(uid for uid in UIDS if home(own_cluster, uid) is not away)
    away.kill()
    async with connected(own_cluster.url) as lookup:
        assert await read(lookup, other) is NOBODY
        assert await read(lookup, next(uid for uid in UIDS if home(own_cluster, uid) is away)) is None


async def test_a_link_that_is_closed_leaves_nothing_behind_whatever_it_had_found(cluster, store):
    for url in (f"redis://127.0.0.1:{nodes.free_ports(1)[0]}", cluster.url, store.url):
        before = asyncio.all_tasks()
        link = Link(url)
        with suppress(TimeoutError):
            await link.start(timeout_s=0.3)
        await link.close()
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("kind", ["cluster", "store"])
async def test_thousands_of_values_are_read_in_their_order_from_whoever_has_them(request, kind):
    where = request.getfixturevalue(kind)
    link = Link(where.url)
    await link.start()
    names = [b"value:%d" % number for number in range(2 * AT_ONCE + 7)]
    for name in names[::2]:
        await link.execute("SET", name, name)
    assert await link.values(names) == [name if number % 2 == 0 else None for number, name in enumerate(names)]
    assert await link.values([]) == []
    await link.close()
    failed = await link.values(names)
    assert len(failed) == len(names)
    assert all(isinstance(reply, redis.exceptions.ConnectionError) for reply in failed)


async def test_values_a_lost_server_did_not_tell_are_told_as_lost(store):
    link = Link(store.url)
    await link.start()
    asked = asyncio.create_task(link.values([b"value:%d" % number for number in range(3 * AT_ONCE)]))
    await asyncio.sleep(0)
    link.lines[0].drop()
    async with asyncio.timeout(20):
        replies = await asked
    assert len(replies) == 3 * AT_ONCE
    assert any(isinstance(reply, redis.exceptions.ConnectionError) for reply in replies)
    await link.close()
