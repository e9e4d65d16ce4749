import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from dmp.store import Store
from tests.dmp.doors import GENEROUS, Door, open_door
from tests.dmp.test_collect import an_item

IDLE_S = 0.3


@asynccontextmanager
async def an_impatient_door(root: Path, store: Store, idle_s: float = IDLE_S) -> AsyncIterator[Door]:
    async with open_door(root, store, msgspec.structs.replace(GENEROUS, idle_s=idle_s)) as door:
        yield door


async def closed(door: Door, said: bytes, then: bytes = b"") -> bool:
    """Whether the door ends a connection on which `said` stands, and `then` is added again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.rpartition(":")[2]))
    writer.write(said)

    async def drip() -> None:
        while True:
            writer.write(then)
            await asyncio.sleep(IDLE_S / 10)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(30):
            while await reader.read(1_000):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        dripping.cancel()
        writer.close()
    return True


@pytest.mark.rule("S-03")
@pytest.mark.parametrize(
    ("said", "then"),
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n", b""),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    ],
    ids=["silent", "half a head", "headers that drip", "after an answer"],
)
async def test_a_connection_without_a_request_is_closed(tmp_path: Path, store: Store, said: bytes, then: bytes) -> None:
    async with an_impatient_door(tmp_path, store) as door:
        assert await closed(door, said, then)


async def test_a_request_that_takes_longer_than_that_is_answered(tmp_path: Path, store: Store) -> None:
    async with an_impatient_door(tmp_path, store) as door:
        arrived = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"["
            await asyncio.sleep(3 * IDLE_S)  # the time is what is tested
            arrived.set()
            yield msgspec.json.encode(an_item()) + b"]"

        headers = {"Authorization": f"Bearer {door.key('events')}"}
        status, _, _ = await door.ask("POST", "/v1/events", slowly(), headers)
        assert (status, arrived.is_set()) == (202, True)
