"""Delivers an exchange's notices and a browser's calls to the bidder over a few kept-alive connections.

The calls of one impression go out in order on one connection, pipelined with those of others, because an exchange
does not wait for one notice before it sends the next. A call answered 5xx is repeated, as exchanges do.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from urllib.parse import urlsplit

import msgspec

PIPELINE = 32  # impressions whose calls are on the way on one connection
ATTEMPTS = 4
TIMEOUT_S = 15.0


class Call(msgspec.Struct, frozen=True):
    """One URL to fetch. kind: what is counted ("win", "billing", "impression", "click")."""

    kind: str
    url: str


Trip = tuple[Call, ...]
"""The calls of one impression, in order."""


class Courier:
    """A thread with an event loop; `deliver` may be called from the thread that made it.

    counts: {(kind, status)}; status 0 is a call that no attempt got an answer to.
    """

    def __init__(self, connections: int = 4) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._connections = connections
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="courier", daemon=True)
        self._thread.start()
        self._streams: dict[tuple[str, int], tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    def deliver(self, trips: Iterable[Trip]) -> Future[None]:
        """Send all calls; the future is done when each has an answer or has been given up."""
        return asyncio.run_coroutine_threadsafe(self._deliver([trip for trip in trips if trip]), self._loop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    async def _deliver(self, trips: Sequence[Trip]) -> None:
        share = [trips[i :: self._connections] for i in range(self._connections)]
        await asyncio.gather(*(self._run(line, part) for line, part in enumerate(share)))

    async def _run(self, line: int, trips: Sequence[Trip]) -> None:
        for start in range(0, len(trips), PIPELINE):
            calls = [call for trip in trips[start : start + PIPELINE] for call in trip]
            for attempt in range(ATTEMPTS):
                last = attempt == ATTEMPTS - 1
                calls = await self._exchange(line, calls, last)
                if not calls:
                    break
                await asyncio.sleep(0.05 * 2**attempt)

    async def _exchange(self, line: int, calls: Sequence[Call], last: bool) -> list[Call]:
        """Send calls on one connection; returns those to repeat, in order."""
        host = urlsplit(calls[0].url).netloc
        again: list[Call] = []
        done = 0
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await self._stream(host, line)
                writer.write(b"".join(_get(host, call.url) for call in calls))
                for call in calls:
                    status, keep = await _answer(reader)
                    done += 1
                    if status >= 500 and not last:
                        again.append(call)
                    else:
                        self.counts[call.kind, status] += 1
                    if not keep:
                        self._drop(host, line)
                        break
        except (OSError, EOFError, ValueError, TimeoutError):
            self._drop(host, line)
        unanswered = list(calls[done:])
        if last:
            self.counts.update((call.kind, 0) for call in unanswered)
            return []
        return again + unanswered

    async def _stream(self, host: str, line: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if (host, line) not in self._streams:
            name, _, port = host.rpartition(":")
            self._streams[host, line] = await asyncio.open_connection(name, int(port))
        return self._streams[host, line]

    def _drop(self, host: str, line: int) -> None:
        if stream := self._streams.pop((host, line), None):
            stream[1].close()

    async def _hang_up(self) -> None:
        for _, writer in self._streams.values():
            writer.close()
        self._streams.clear()


def _get(host: str, url: str) -> bytes:
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tagbid-loadtest\r\n\r\n".encode("ascii")


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """(status, whether the connection stays open); raises ValueError or EOFError on what is no answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = int(fields.get("content-length", "0"))
    if length:
        await reader.readexactly(length)
    return status, fields.get("connection", "").lower() != "close"
