"""The bid path's connection to the tag store: one write for all reads of a loop turn, no wait past a deadline.

`Link` is one pipelined connection. Replies come back in the order of the commands, so what is learnt from two
replies is learnt in the order in which the store did the work; the budget relies on that. A connection on which
nothing moves for `stall_s` is dropped, everything waiting on it fails at once, and until a new one has answered
a first command every further command is refused at once: that is the circuit breaker. Replies are handed out one
loop turn after they were read, so that an error in whoever waits for one cannot take the connection along.

`Lookup` reads users over a link. Measured with 30 tags a user (CPython 3.11, uvloop, unix socket; us of CPU per read):

    reads in a loop turn                       1     2     8    32
    here                                    14.6   9.2   5.2   4.1
    redis-py, one MGET for the turn         47.9  29.0   9.9   6.0
    redis-py, pipeline of one MGET a user   59.3  39.8  20.4  14.2

At the one or two reads a turn of a bidder at half load the difference is as much as deciding a bid costs.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis
import redis.exceptions
from redis.connection import SSLConnection, parse_url

from dmp import codec, keys
from dmp.errors import CorruptRecord
from dmp.schema import NOBODY, Uid, User

CONNECT_TIMEOUT_S = 0.25
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0  # between attempts to connect
AT_ONCE = 16  # replies handed out in a loop turn: what arrives meanwhile is read, and shed if need be, in between
WATCH_S = 0.05  # how often a link looks whether anything moves
POLL_S = 1.0  # how often the live generation is read

Waiter = Callable[[Any], None]
"""Called once with a command's reply; an Exception as reply is what went wrong."""


def _reply_error(text: str) -> redis.exceptions.RedisError:
    if text.startswith("NOSCRIPT"):
        return redis.exceptions.NoScriptError(text)
    return redis.exceptions.ResponseError(text)


def encode(*parts: bytes | str | int) -> bytes:
    """A command in the store's protocol."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub allows one part only
    return packed


class _Wire(asyncio.Protocol):
    """One connection's life."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: asyncio.Future[None] = loop.create_future()
        self.moved = time.monotonic()
        self.waiting: deque[Waiter] = deque()
        self._loop = loop
        self._outbox: list[bytes] = []
        self._ready: deque[tuple[Waiter, Any]] = deque()
        self._reader = hiredis.Reader(protocolError=redis.exceptions.ConnectionError, replyError=_reply_error)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream protocol gets a stream transport

    def send(self, command: bytes, waiter: Waiter) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        if not self.waiting:
            self.moved = time.monotonic()
        self._outbox.append(command)
        self.waiting.append(waiter)

    def _flush(self) -> None:
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(self._outbox))
        self._outbox.clear()

    def data_received(self, data: bytes) -> None:
        self.moved = time.monotonic()
        gets, waiting, ready = self._reader.gets, self.waiting, self._ready
        idle = not ready
        self._reader.feed(data)
        try:
            while (reply := gets()) is not False:
                ready.append((waiting.popleft(), reply))
        except (redis.exceptions.ConnectionError, IndexError):  # not our protocol, or a reply nobody asked for
            self.abort()
        if idle and ready:
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        ready = self._ready
        try:
            for _ in range(min(AT_ONCE, len(ready))):
                waiter, reply = ready.popleft()
                waiter(reply)
        finally:  # also when a waiter raised: the loop reports it, the others still get their replies
            if ready:
                self._loop.call_soon(self._deliver)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        error = redis.exceptions.ConnectionError("the connection to the tag store was lost")
        if not self._ready:
            self._loop.call_soon(self._deliver)
        self._ready.extend((waiter, error) for waiter in self.waiting)
        self.waiting.clear()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)


class Link:
    """A connection to the store that renews itself.

    url: as redis-py takes it: redis://, rediss://, unix://, with user, password and database. stall_s: how long the
    store may say nothing while asked. Every failure of a command is a `redis.exceptions.RedisError`.
    """

    def __init__(self, url: str, stall_s: float = 1.0) -> None:
        self.losses = 0
        self._address: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        self._stall_s = stall_s
        self._wire: _Wire | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def up(self) -> bool:
        """Whether commands are accepted right now."""
        return self._wire is not None and not self._wire.lost.done()

    def silent_s(self, now_s: float) -> float:
        """How long the store has been asked and has said nothing; 0 when nothing is due or the link is down."""
        wire = self._wire
        return now_s - wire.moved if wire is not None and wire.waiting else 0.0

    async def start(self, timeout_s: float = 5.0) -> None:
        """Connect; raises TimeoutError when there is no answer in time, and keeps trying all the same."""
        connected = asyncio.Event()
        self._tasks = [asyncio.create_task(self._keep_connected(connected)), asyncio.create_task(self._watch())]
        async with asyncio.timeout(timeout_s):
            await connected.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._wire is not None:
            self._wire.abort()

    def send(self, command: bytes, waiter: Waiter) -> bool:
        """Queue an encoded command; False (and `waiter` is never called) while the link is down."""
        wire = self._wire
        if wire is None or wire.lost.done():
            return False
        wire.send(command, waiter)
        return True

    async def execute(self, *parts: bytes | str | int) -> Any:
        """One command and its reply. Raises redis.exceptions.RedisError."""
        wire = self._wire
        if wire is None or wire.lost.done():
            raise redis.exceptions.ConnectionError("the tag store does not answer")
        return await self._ask(wire, parts)

    async def evalsha(self, sha1: str, numkeys: int, *parts: bytes | str | int) -> Any:
        """As redis-py's method of this name."""
        return await self.execute("EVALSHA", sha1, numkeys, *parts)

    async def eval(self, script: str, numkeys: int, *parts: bytes | str | int) -> Any:
        """As redis-py's method of this name."""
        return await self.execute("EVAL", script, numkeys, *parts)

    async def _greet(self, wire: _Wire) -> None:
        """Log in, choose the database, and see that the store answers."""
        password, database = self._address.get("password"), self._address.get("db")
        if password:
            user = self._address.get("username")
            await self._ask(wire, ("AUTH", user, password) if user else ("AUTH", password))
        if database:
            await self._ask(wire, ("SELECT", database))
        await self._ask(wire, ("PING",))

    @staticmethod
    async def _ask(wire: _Wire, parts: Sequence[bytes | str | int]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wire.send(encode(*parts), partial(_resolve, future))
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _keep_connected(self, connected: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            wire = _Wire(loop)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._connect(loop, wire)
                    await self._greet(wire)
                self._wire = wire
                connected.set()
                pause_s = FIRST_PAUSE_S
                await wire.lost
                self.losses += 1
            except (OSError, TimeoutError, redis.exceptions.RedisError):
                pass  # the reason does not matter to a bid; the state shows as `up`, and as `store_up` in /metrics
            finally:
                wire.abort()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _connect(self, loop: asyncio.AbstractEventLoop, wire: _Wire) -> None:
        path = self._address.get("path")
        if path is not None:
            await loop.create_unix_connection(lambda: wire, path)
            return
        host, port = self._address.get("host", "localhost"), self._address.get("port", 6379)
        tls = self._address.get("connection_class") is SSLConnection
        await loop.create_connection(lambda: wire, host, port, ssl=tls or None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            wire = self._wire
            if wire is not None and wire.waiting and time.monotonic() - wire.moved > self._stall_s:
                wire.abort()


def _resolve(future: "asyncio.Future[Any]", reply: Any) -> None:
    if not future.done():  # whoever awaited it may have given up
        future.set_result(reply)


def _mget(uid: Uid) -> bytes:
    return _MGET % keys.user_keys(uid)


_MGET = b"*6\r\n$4\r\nMGET\r\n" + b"".join(b"$%d\r\n%%b\r\n" % len(key) for key in keys.user_keys(bytes(16)))
"""The command with places for a user's five keys, whose lengths never change."""


class _Read:
    """One user being read. callback is None once it has been called."""

    __slots__ = ("callback", "deadline_s", "lookup")

    def __init__(self, lookup: "Lookup", deadline_s: float, callback: Callable[[User | None], None]) -> None:
        self.lookup = lookup
        self.deadline_s = deadline_s
        self.callback: Callable[[User | None], None] | None = callback

    def __call__(self, reply: Any) -> None:
        callback = self.callback
        if callback is not None:
            self.callback = None
            callback(self.lookup.decode(reply))


class Lookup:
    """Reads users for bids. counts: reads by how they ended.

    stall_s is short: bids that cannot have the user should not be made to wait for it either.
    """

    def __init__(self, url: str, stall_s: float = 0.25) -> None:
        self.link = Link(url, stall_s)
        self.generation = 0
        self.counts = {"hit": 0, "miss": 0, "late": 0, "error": 0, "skipped": 0}
        self._now_s = int(time.time())
        self._reads: deque[_Read] = deque()
        self._wake_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._poll: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float = 5.0) -> None:
        """As `Link.start`; the live generation is known afterwards."""
        await self.link.start(timeout_s)
        await self._read_generation()
        self._poll = asyncio.create_task(self._follow_generation())

    async def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await self.link.close()

    def get(self, uid: Uid, deadline_s: float, callback: Callable[[User | None], None]) -> bool:
        """Read a user; `callback` gets it once, or None when the store failed or had not answered by `deadline_s`.

        deadline_s: on the clock of time.monotonic. False when the store cannot be asked now: then there is no call.
        A user the store knows nothing of is `NOBODY`, not None.
        """
        read = _Read(self, deadline_s, callback)
        if not self.link.send(_mget(uid), read):
            self.counts["skipped"] += 1
            return False
        self._reads.append(read)
        if deadline_s < self._wake_s:
            self._wake(deadline_s)
        return True

    def decode(self, reply: Any) -> User | None:
        """The user in a reply; None for an error or a record of a version this release does not know."""
        if isinstance(reply, Exception):
            self.counts["error"] += 1
            return None
        if reply == _NOTHING:
            self.counts["miss"] += 1
            return NOBODY
        try:
            user = codec.decode_user(reply, self.generation, self._now_s)
        except CorruptRecord:
            self.counts["error"] += 1
            return None
        self.counts["hit"] += 1
        return user

    # One timer for all reads, set for the earliest deadline and moved only when it goes off: at a deadline of 80 ms
    # that is about twelve timers a second, not one a read. Answered reads leave when it goes off, so the queue
    # holds what was asked within one deadline.
    def _wake(self, deadline_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake_s = deadline_s
        pause_s = max(0.0, deadline_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._expire)

    def _expire(self) -> None:
        self._timer, self._wake_s = None, math.inf
        now_s = time.monotonic() + 0.001  # loop timers have a resolution of 1 ms
        left = [read for read in self._reads if read.callback is not None]
        self._reads = deque(read for read in left if read.deadline_s > now_s)
        if self._reads:
            self._wake(min(read.deadline_s for read in self._reads))
        late = deque(read for read in left if read.deadline_s <= now_s)
        self.counts["late"] += len(late)
        self._tell_late(late)

    def _tell_late(self, late: deque[_Read]) -> None:
        try:
            while late:
                callback, late[0].callback = late[0].callback, None
                late.popleft()
                if callback is not None:
                    callback(None)
        finally:
            if late:
                asyncio.get_running_loop().call_soon(self._tell_late, late)

    async def _follow_generation(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._read_generation()
            except redis.exceptions.RedisError:
                continue  # keep the generation we know; records newer than it stay invisible

    async def _read_generation(self) -> None:
        self._now_s = int(time.time())
        self.generation = int(await self.link.execute("GET", keys.GENERATION) or 0)


_NOTHING = [None] * 5
