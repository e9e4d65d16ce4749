"""A connection may say nothing, or take its time to say what it wants, only so long (S-03).

aiohttp ends a connection that is idle between two requests, never one whose first request does not come, or comes a
header at a time. So all connections are looked at from time to time: one on which no request has been in hand for too
long is closed. A request that is being answered has its own deadlines (`dmp.limits.body`).
"""

import asyncio
import time
from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

LOOKS = 4  # within the time a connection has


class Idle:
    """Knows which connections have a request in hand, and since when the others have none.

    idle_s: how long a connection may have none.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._in_hand: Counter[object] = Counter()
        self._since: dict[object, float] = {}

    def middleware(self) -> Middleware:
        """Marks requests as in hand."""

        @web.middleware
        async def mark(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            self._in_hand[connection] += 1
            try:
                return await handler(request)
            finally:
                self._in_hand[connection] -= 1
                if not self._in_hand[connection]:
                    del self._in_hand[connection]
                self._since[connection] = time.monotonic()

        return mark

    async def watch(self, server: web.Server) -> None:
        """Close what is idle for too long, until cancelled."""
        while True:
            await asyncio.sleep(self._idle_s / LOOKS)
            now_s = time.monotonic()
            here = server.connections
            self._since = {one: self._since.get(one, now_s) for one in here}
            for connection in here:
                if connection not in self._in_hand and now_s - self._since[connection] > self._idle_s:
                    connection.force_close()
