"""Several commands over the event loop's own connection to the tag store, in one write, and all their replies.

A thread with a client of its own would have to fight the loop for the interpreter: at half load that alone makes an
answer wait for tens of milliseconds.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis.exceptions

from dmp.link import Link, key_of
from dmp.wire import encode

Command = Sequence[bytes | str | int]


async def ask_all(link: Link, commands: Sequence[Command]) -> list[Any]:
    """The replies to commands, in their order; each names its key first.

    Raises redis.exceptions.RedisError when the store cannot be asked, fails, or refuses one; the others may be done.
    """
    replies = await ask_each(link, commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def ask_each(link: Link, commands: Sequence[Command]) -> list[Any]:
    """As `ask_all`, with the redis.exceptions.RedisError of a command in its reply's place."""
    if not commands:
        return []
    replies: list[Any] = [None] * len(commands)
    left = len(commands)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(place: int, reply: Any) -> None:
        nonlocal left
        replies[place] = reply
        left -= 1
        if not left and not done.done():  # whoever asked may have given up
            done.set_result(None)

    for place, command in enumerate(commands):
        if not link.send(key_of(command) or b"", encode(*command), partial(take, place)):
            take(place, redis.exceptions.ConnectionError("the tag store does not answer"))
    await done
    return replies
