from collections.abc import AsyncIterator

import pytest
import redis

from dmp.asked import ask_all, ask_each
from dmp.link import Link
from dmp.store import Store


@pytest.fixture
async def link(store: Store) -> AsyncIterator[Link]:
    opened = Link(store.url)
    await opened.start()
    yield opened
    await opened.close()


async def test_replies_come_in_the_order_of_the_commands(link: Link) -> None:
    commands = [(b"SET", f"k{n}", n) for n in range(200)] + [(b"GET", f"k{n}") for n in range(200)]
    assert (await ask_all(link, commands))[200:] == [str(n).encode() for n in range(200)]
    assert await ask_all(link, []) == []


async def test_a_refused_command_is_told_and_the_others_are_done(link: Link, client: redis.Redis) -> None:
    commands = [(b"SET", "a", 1), (b"LPUSH", "a", 1), (b"SET", "b", 2)]
    first, second, third = await ask_each(link, commands)
    assert (first, third) == (b"OK", b"OK")
    assert isinstance(second, redis.exceptions.ResponseError)
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await ask_all(link, commands)
    assert (client.get("a"), client.get("b")) == (b"1", b"2")


async def test_without_a_connection_every_command_fails_at_once(store: Store) -> None:
    never_started = Link(store.url)
    with pytest.raises(redis.exceptions.ConnectionError):
        await ask_all(never_started, [(b"PING",), (b"PING",)])
