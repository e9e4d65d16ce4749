import asyncio
import os
import signal
import time
from itertools import pairwise

import pytest
import redis.exceptions

from dmp import codec, keys
from dmp.config import DmpConfig
from dmp.link import Link
from dmp.lookup import MOST_STUCK, Lookup
from dmp.schema import NOBODY, Tag, User
from dmp.store import open_store
from dmp.wire import SILENT_S

UIDS = [bytes([n]) * 16 for n in range(1, 50)]
FAR_S = 30.0


def known(client, uid, tags, generation=1):
    client.set(keys.GENERATION, 1)
    client.set(keys.profile(uid, 0), codec.encode_profile(generation, [Tag(tag, 50, 20_000, 1) for tag in tags]))


async def started(store, **options):
    lookup = Lookup(store.url, **options)
    await lookup.start()
    return lookup


def read(lookup, uid, seconds=FAR_S):
    """A future of the user, or None when the lookup refuses at once."""
    future = asyncio.get_running_loop().create_future()
    return future if lookup.get(uid, time.monotonic() + seconds, future.set_result) else None


@pytest.fixture
def own_store(tmp_path, monkeypatch):
    """A server of this test's own, to stop and to kill."""
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with open_store(DmpConfig(data_dir=str(tmp_path / "data"))) as opened:
        yield opened
        if opened.server.poll() is None:
            opened.server.send_signal(signal.SIGCONT)


async def test_a_user_is_read_with_tags_audiences_and_contacts(store, client):
    known(client, UIDS[0], [7, 9])
    client.set(keys.audiences(UIDS[0]), codec.encode_audiences([(5, 0), (6, 1)]))
    lookup = await started(store)
    assert await read(lookup, UIDS[0]) == User({7: 50, 9: 50}, frozenset({5}), ())
    assert lookup.counts["hit"] == 1
    await lookup.close()


async def test_a_user_the_store_does_not_know_is_nobody_not_none(store):
    lookup = await started(store)
    assert await read(lookup, UIDS[0]) is NOBODY
    assert lookup.counts["miss"] == 1
    await lookup.close()


async def test_every_read_of_a_turn_gets_its_own_user(store, client):
    for n, uid in enumerate(UIDS):
        known(client, uid, [n + 1])
    lookup = await started(store)
    before = (
        client.info("commandstats")["cmdstat_mget"]["calls"] if "cmdstat_mget" in client.info("commandstats") else 0
    )
    users = await asyncio.gather(*(read(lookup, uid) for uid in UIDS))
    assert [list(user.tags) for user in users] == [[n + 1] for n in range(len(UIDS))]
    assert client.info("commandstats")["cmdstat_mget"]["calls"] - before == len(UIDS)
    await lookup.close()


async def test_a_generation_that_is_not_live_is_not_seen(store, client):
    known(client, UIDS[0], [7], generation=2)
    lookup = await started(store)
    assert (await read(lookup, UIDS[0])).tags == {}
    client.set(keys.GENERATION, 2)
    await lookup._read_generation()
    assert (await read(lookup, UIDS[0])).tags == {7: 50}
    await lookup.close()


async def test_a_record_of_an_unknown_version_is_an_error_not_a_user(store, client):
    client.set(keys.profile(UIDS[0], 0), b"\xff" * 20)
    lookup = await started(store)
    assert await read(lookup, UIDS[0]) is None
    assert lookup.counts["error"] == 1
    await lookup.close()


async def test_a_callback_that_fails_takes_nobody_with_it(store):
    lookup = await started(store)
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def broken(_):
        raise ZeroDivisionError

    assert lookup.get(UIDS[0], time.monotonic() + FAR_S, broken)
    assert await read(lookup, UIDS[1]) is NOBODY
    assert await read(lookup, UIDS[2]) is NOBODY
    assert lookup.link.losses == 0
    assert [type(error) for error in reported] == [ZeroDivisionError]
    await lookup.close()


async def test_a_store_that_stands_still_costs_a_read_its_deadline_and_no_more(own_store):
    lookup = await started(own_store, stall_s=60.0)
    own_store.server.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert await asyncio.gather(read(lookup, UIDS[0], 0.03), read(lookup, UIDS[1], 0.06)) == [None, None]
    assert time.monotonic() - began >= 0.06
    assert lookup.counts["late"] == 2
    own_store.server.send_signal(signal.SIGCONT)
    assert await read(lookup, UIDS[2]) is NOBODY  # the replies that came too late are not taken for this one's
    assert lookup.link.losses == 0
    await lookup.close()


async def test_a_reply_that_came_while_the_loop_stood_still_is_taken_although_its_deadline_is_over(store, client):
    known(client, UIDS[0], [7])
    lookup = await started(store)
    found = read(lookup, UIDS[0], 0.02)
    await asyncio.sleep(0)  # it is sent
    time.sleep(0.06)  # noqa: ASYNC251 - as a full collection would
    assert (await found).tags == {7: 50}
    assert lookup.counts["late"] == 0
    await lookup.close()


async def test_a_loop_that_stood_still_takes_no_store_for_silent(store):
    """However many reads wait: their replies lie in the socket, which nobody has looked at."""
    lookup = await started(store)
    found = [read(lookup, uid) for uid in UIDS for _ in range(1 + 2 * MOST_STUCK // len(UIDS))]
    await asyncio.sleep(0)  # they are sent
    time.sleep(2 * SILENT_S)  # noqa: ASYNC251 - as a descheduled process would
    more = read(lookup, UIDS[0])
    assert more is not None
    assert {type(user) for user in await asyncio.gather(*found, more)} == {User}
    assert lookup.counts["skipped"] == 0
    await lookup.close()


async def test_an_earlier_deadline_behind_a_later_one_is_kept(own_store):
    lookup = await started(own_store, stall_s=60.0)
    own_store.server.send_signal(signal.SIGSTOP)
    slow, quick = read(lookup, UIDS[0], 20.0), read(lookup, UIDS[1], 0.03)
    assert await quick is None
    assert not slow.done()
    own_store.server.send_signal(signal.SIGCONT)
    assert await slow is NOBODY
    await lookup.close()


async def test_a_store_that_stands_still_opens_the_breaker_and_closes_it_when_it_is_back(own_store):
    lookup = await started(own_store, stall_s=0.1)
    own_store.server.send_signal(signal.SIGSTOP)
    assert await read(lookup, UIDS[0]) is None  # long before its deadline
    assert lookup.counts["error"] == 1
    assert read(lookup, UIDS[1]) is None
    assert lookup.counts["skipped"] == 1
    own_store.server.send_signal(signal.SIGCONT)
    async with asyncio.timeout(20):
        while not lookup.link.up:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    assert await read(lookup, UIDS[2]) is NOBODY
    await lookup.close()


async def test_a_killed_store_is_found_again_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    config = DmpConfig(data_dir=str(tmp_path / "data"))
    with open_store(config) as first:
        lookup = await started(first)
        os.kill(first.server.pid, signal.SIGKILL)
        first.server.wait()
        async with asyncio.timeout(20):
            while lookup.link.up:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)
    assert read(lookup, UIDS[0]) is None
    with open_store(config):
        async with asyncio.timeout(20):
            while not lookup.link.up:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)
        assert await read(lookup, UIDS[0]) is NOBODY
        await lookup.close()


async def test_every_read_ends_once_when_the_connection_breaks(store, client):
    lookup = await started(store)
    futures = [read(lookup, uid) for uid in UIDS]
    lookup.link.lines[0].drop()
    assert await asyncio.gather(*futures) == [None] * len(UIDS)
    assert lookup.counts["error"] == len(UIDS)
    await lookup.close()


async def test_no_store_at_start_is_told_in_time(tmp_path):
    lookup = Lookup(f"unix://{tmp_path}/none.sock")
    with pytest.raises(TimeoutError):
        await lookup.start(timeout_s=0.1)
    await lookup.close()


async def test_commands_get_their_replies_in_order_and_errors_are_raised(store):
    link = Link(store.url)
    await link.start()
    found = await asyncio.gather(
        link.execute("SET", "a", 1), link.execute("INCR", "a"), link.execute("GET", b"a"), link.execute("NONSENSE"),
        link.evalsha("0" * 40, 0), link.eval("return {1, ARGV[1]}", 0, "x"), return_exceptions=True,
    )  # fmt: skip
    assert found[:3] == [b"OK", 2, b"2"]
    assert type(found[3]) is redis.exceptions.ResponseError
    assert type(found[4]) is redis.exceptions.NoScriptError
    assert found[5] == [1, b"x"]
    await link.close()
    with pytest.raises(redis.exceptions.ConnectionError):
        await link.execute("PING")


async def test_password_and_database_are_used(tmp_path, client, store):
    client.config_set("requirepass", "secret")
    try:
        link = Link(store.url.replace("unix://", "unix://:secret@") + "?db=3")
        await link.start()
        await link.execute("SET", "here", "1")
        client.execute_command("AUTH", "secret")
        assert client.get("here") is None
        assert await link.execute("GET", "here") == b"1"
        await link.close()
    finally:
        client.config_set("requirepass", "")


async def test_bytes_that_are_no_redis_drop_the_connection(tmp_path):
    path = str(tmp_path / "s.sock")

    async def nonsense(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await asyncio.start_unix_server(nonsense, path):
        link = Link(f"unix://{path}")
        with pytest.raises(TimeoutError):
            await link.start(timeout_s=0.2)
        assert not link.up
        await link.close()


async def test_slow_users_of_replies_leave_turns_to_what_arrives_meanwhile(store):
    lookup = await started(store)
    got, turns = [], []

    def slow(user):
        time.sleep(0.002)  # more than a turn may take
        got.append(user)

    def turn():
        turns.append(len(got))
        if len(got) < 20:
            asyncio.get_running_loop().call_soon(turn)

    for uid in UIDS[:20]:
        assert lookup.get(uid, time.monotonic() + FAR_S, slow)
    turn()
    async with asyncio.timeout(20):
        while len(got) < 20:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.001)
    assert max(later - earlier for earlier, later in pairwise(turns)) == 1
    await lookup.close()


async def test_a_read_that_is_skipped_asks_a_silent_store_for_nothing(own_store):
    """Also while a key is rotated and each user has two names there."""
    lookup = await started(own_store, stall_s=60.0)
    lookup.former_of = lambda uid: bytes(reversed(range(16)))
    own_store.server.send_signal(signal.SIGSTOP)
    (line,) = lookup.link.lines
    while lookup.get(UIDS[0], time.monotonic() + FAR_S, lambda _: None):  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.002)
    asked = line.waiting
    assert not lookup.get(UIDS[0], time.monotonic() + FAR_S, lambda _: None)
    assert line.waiting == asked
    await lookup.close()
