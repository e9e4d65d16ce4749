"""A pipelined connection to one server of the tag store, and one that renews itself.

All commands of a loop turn go out in one write. Replies come back in the order of the commands, so what is learnt from
two replies is learnt in the order in which the server did the work. A connection on which nothing moves for `stall_s`
is dropped, everything waiting on it fails at once, and until a new one has answered a first command every further
command is refused at once: that is the circuit breaker, one a server. Replies are handed out one loop turn after they
were read, so that an error in whoever waits for one cannot take the connection along.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import hiredis
import redis.exceptions
from redis.connection import SSLConnection, parse_url

from dmp.cluster import Node

CONNECT_TIMEOUT_S = 0.25
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0  # between attempts to connect
TURN_S = 0.002  # of replies handed out in a loop turn: what arrives meanwhile is read, and shed if need be, in between
LOOK_AGAIN_S = 0.001  # a loop that stood still sees its timers before the replies that came meanwhile
SILENT_S = 0.1  # a server that has said nothing for so long while asked may not answer at all; less may be its turn

Waiter = Callable[[Any], None]
"""Called once with a command's reply; an Exception as reply is what went wrong."""

_ERRORS: dict[str, type[redis.exceptions.ResponseError]] = {
    "NOSCRIPT": redis.exceptions.NoScriptError,
    "TRYAGAIN": redis.exceptions.TryAgainError,
    "CLUSTERDOWN": redis.exceptions.ClusterDownError,
}


def _reply_error(text: str) -> redis.exceptions.ResponseError:
    return _ERRORS.get(text.partition(" ")[0], redis.exceptions.ResponseError)(text)


def encode(*parts: bytes | str | int) -> bytes:
    """A command in the store's protocol."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub allows one part only
    return packed


class Wire(asyncio.Protocol):
    """One connection's life.

    moved: when something last came, or was asked while nothing was due. silent: the server was asked and has said
    nothing for `SILENT_S`, by the last look at the socket: a loop that stood still is no silence of the server.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stall_s: float) -> None:
        self.lost: asyncio.Future[None] = loop.create_future()
        self.moved = time.monotonic()
        self.silent = False
        self.waiting: deque[Waiter] = deque()
        self._loop = loop
        self._stall_s = stall_s
        self._doubted = (0.0, 0.0)
        self._timer: asyncio.TimerHandle | None = None
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
            if self._timer is None:
                self._timer = self._loop.call_later(min(SILENT_S, self._stall_s), self._look)
        self._outbox.append(command)
        self.waiting.append(waiter)

    def _flush(self) -> None:
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(self._outbox))
        self._outbox.clear()

    def data_received(self, data: bytes) -> None:
        self.moved = time.monotonic()
        self.silent = False
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
        ready, until_s = self._ready, time.monotonic() + TURN_S
        try:
            while ready:
                waiter, reply = ready.popleft()
                waiter(reply)
                if time.monotonic() > until_s:
                    break
        finally:  # also when a waiter raised: the loop reports it, the others still get their replies
            if ready:
                self._loop.call_soon(self._deliver)

    # One timer a connection, that goes off when the oldest silence would be too long, and none while nothing is due.
    # What it finds counts when the next look finds the same.
    def _look(self) -> None:
        self._timer = None
        if not self.waiting or self.lost.done():
            return
        limit_s = self._stall_s if self.silent else min(SILENT_S, self._stall_s)
        left_s = self.moved + limit_s - time.monotonic()
        if left_s <= 0 and self._doubted == (self.moved, limit_s):
            if limit_s == self._stall_s:
                self.abort()
                return
            self.silent = True
            left_s += self._stall_s - limit_s
        elif left_s <= 0:
            self._doubted = (self.moved, limit_s)
        self._timer = self._loop.call_later(max(left_s, LOOK_AGAIN_S), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        error = redis.exceptions.ConnectionError("the connection to the tag store was lost")
        if not self._ready:
            self._loop.call_soon(self._deliver)
        self._ready.extend((waiter, error) for waiter in self.waiting)
        self.waiting.clear()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)


class Line:
    """A connection to one server that renews itself.

    url: as redis-py takes it: redis://, rediss://, unix://, with user, password and database. stall_s: how long the
    server may say nothing while asked. lost: called whenever the connection breaks or cannot be made. connected: set
    while there is one.
    """

    def __init__(self, url: str, stall_s: float, lost: Callable[[], None] = lambda: None) -> None:
        self.losses = 0
        self.connected = asyncio.Event()
        self._address: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        self.node = Node(self._address.get("host", "localhost"), self._address.get("port", 6379))
        self._stall_s = stall_s
        self._tell = lost
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether commands are accepted right now."""
        return self._wire is not None and not self._wire.lost.done()

    @property
    def waiting(self) -> int:
        """Commands without a reply."""
        wire = self._wire
        return len(wire.waiting) if wire is not None else 0

    @property
    def silent(self) -> bool:
        """Whether the server may not answer at all; False while the line is down."""
        return self._wire is not None and self._wire.silent

    def start(self) -> None:
        """Begin to connect, and never stop trying."""
        self._task = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.drop()

    def drop(self) -> None:
        """Give up the present connection and everything that waits on it."""
        if self._wire is not None:
            self._wire.abort()

    def send(self, command: bytes, waiter: Waiter) -> bool:
        """Queue an encoded command; False (and `waiter` is never called) while the line is down."""
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

    async def _greet(self, wire: Wire) -> None:
        """Log in, choose the database, and see that the server answers."""
        password, database = self._address.get("password"), self._address.get("db")
        if password:
            user = self._address.get("username")
            await self._ask(wire, ("AUTH", user, password) if user else ("AUTH", password))
        if database:
            await self._ask(wire, ("SELECT", database))
        await self._ask(wire, ("PING",))

    @staticmethod
    async def _ask(wire: Wire, parts: Sequence[bytes | str | int]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wire.send(encode(*parts), partial(resolve, future))
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            wire = Wire(loop, self._stall_s)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._connect(loop, wire)
                    await self._greet(wire)
                self._wire = wire
                self.connected.set()
                pause_s = FIRST_PAUSE_S
                await wire.lost
                self.losses += 1
            except (OSError, TimeoutError, redis.exceptions.RedisError):
                pass  # the reason does not matter to a bid; the state shows as `up`, and as `store_up` in /metrics
            finally:
                self.connected.clear()
                wire.abort()
            self._tell()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _connect(self, loop: asyncio.AbstractEventLoop, wire: Wire) -> None:
        path = self._address.get("path")
        if path is not None:
            await loop.create_unix_connection(lambda: wire, path)
            return
        await loop.create_connection(lambda: wire, self.node.host, self.node.port, ssl=tls_of(self._address))


def tls_of(address: Mapping[str, Any]) -> ssl.SSLContext | None:
    """How to talk to a rediss:// address, as redis-py would: it is checked who answers, unless its options say other.

    address: of `parse_url`. None for any other address. Raises OSError on certificates that cannot be used.
    """
    if address.get("connection_class") is not SSLConnection:
        return None
    context = ssl.create_default_context(cafile=address.get("ssl_ca_certs"), capath=address.get("ssl_ca_path"))
    if own := address.get("ssl_certfile"):
        context.load_cert_chain(own, address.get("ssl_keyfile"), address.get("ssl_password"))
    checks = address.get("ssl_cert_reqs", "required")
    context.check_hostname = address.get("ssl_check_hostname", True) and checks != "none"
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL}.get(checks, ssl.CERT_REQUIRED)
    return context


def resolve(future: "asyncio.Future[Any]", reply: Any) -> None:
    """A waiter that hands its reply to a future."""
    if not future.done():  # whoever awaited it may have given up
        future.set_result(reply)
