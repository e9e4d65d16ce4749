"""Open-loop load: every request is sent at its moment, whatever happened to those before.

A closed loop waits for answers and so sends less exactly when the server is slow, which hides the slowness
("coordinated omission"). Here the send times are drawn before the run and latency counts from them: a request that
the generator itself, or a busy connection, kept waiting is charged for the wait. HTTP/1.1 requests are not
pipelined: a request takes a free connection, else opens one up to a bound, else is counted as `no_connection`.

A saturated generator would look like a slow server, so each send's lag behind its moment is reported too.
"""

import gc
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dmp.errors import TagbidError
from loadtest import poller, wire
from loadtest.load import Ints, Load, Result, moments_us
from loadtest.poller import FOREVER_NS, WRITE

OnAnswer = Callable[[int, int, bytes, int], None]
"""(request number, status, body, latency in µs); called within the loop, so be quick."""
OnTick = Callable[[int, int], None]
"""(requests sent, requests answered or given up); called at most every 50 ms."""

LEAD_NS = 20_000_000  # between the last preparation and the first send
TICK_NS = 50_000_000
_RECEIVE_BYTES = 262_144
_PENDING, _FAILED = -1, -2


class Unreachable(TagbidError):
    """Nobody answers where the load should go."""


def run(
    url: str,
    bodies: Sequence[bytes],
    rate: float,
    duration_s: float,
    on_answer: OnAnswer | None = None,
    on_tick: OnTick | None = None,
    **options: Any,
) -> Result:
    """`play` a Load spelled out; options: its further fields."""
    return play(Load(url, bodies, rate, duration_s, **options), on_answer, on_tick)


def play(load: Load, on_answer: OnAnswer | None = None, on_tick: OnTick | None = None) -> Result:
    """Send everything, wait for what comes back; raises Unreachable when not even one connection opens.

    Uses one core while it lasts; give it a process of its own (`loadtest.generator`) when the server is in this one.
    """
    if not load.bodies:
        raise TagbidError("no requests to send: the traffic is empty")
    if load.connections < 1 or load.max_connections < 1:
        raise TagbidError("connections and max_connections must be at least 1")
    sender = _Sender(load, moments_us(load), on_answer, on_tick)
    collected = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would delay sends by milliseconds; the loop makes no cycles
    try:
        return sender.play()
    finally:
        sender.close()
        if collected:
            gc.enable()


class _Connection:
    """request: number of the one in flight, -1 when idle. unsent: the rest of it the socket did not take yet."""

    __slots__ = ("received", "request", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = -1
        self.received = b""
        self.unsent = b""


class _Sender:
    """The connections and the loop of one run."""

    def __init__(self, load: Load, moments: Ints, on_answer: OnAnswer | None, on_tick: OnTick | None) -> None:
        self.load = load
        self.moments = moments
        self.where = wire.target(load.url)
        self.payloads = [wire.post(self.where, body, load.headers) for body in load.bodies]
        self.on_answer = on_answer
        self.on_tick = on_tick
        self.n = len(moments)
        self.due: list[int] = []
        self.lag = array("q", bytes(8 * self.n))
        self.latency = array("q", [_PENDING]) * self.n
        self.status = array("q", bytes(8 * self.n))
        self.bid = array("q", bytes(8 * self.n))
        self.bodies: dict[int, bytes] = {}
        self.errors: Counter[str] = Counter()
        self.done = 0
        self.opened = 0
        self.poller = poller.open_poller()
        self.connections: dict[int, _Connection] = {}
        self.free: list[_Connection] = []
        self.family = socket.AF_INET
        self.address: Any = None

    def play(self) -> Result:
        for _ in range(min(self.load.connections, self.load.max_connections)):
            self._connect_and_wait()
        cpu_started = time.process_time()
        first = time.monotonic_ns() + LEAD_NS
        self.due = (self.moments * 1000 + first).tolist()
        self._loop()
        finished = time.monotonic_ns()
        limits = self.load.tmax_ms
        tmax_ms = np.full(1, limits) if isinstance(limits, int) else np.asarray(limits)
        return Result(
            due_us=self.moments,
            lag_us=np.frombuffer(self.lag, np.int64) // 1000,
            latency_us=np.maximum(np.frombuffer(self.latency, np.int64), -1),
            status=np.frombuffer(self.status, np.int64),
            bid=np.frombuffer(self.bid, np.int64),
            tmax_us=np.resize(tmax_ms * 1000, self.n).astype(np.int64),
            bodies=self.bodies,
            errors=dict(self.errors),
            opened=self.opened,
            duration_s=self.load.duration_s if self.load.count is None else self.n / self.load.rate,
            elapsed_s=max((finished - first) / 1e9, self.load.duration_s if self.load.count is None else 1e-9),
            cpu_s=time.process_time() - cpu_started,
        )

    def close(self) -> None:
        for connection in self.connections.values():
            connection.sock.close()
        self.connections.clear()
        self.poller.close()

    def _loop(self) -> None:
        clock, due, n, wait = time.monotonic_ns, self.due, self.n, self.poller.wait
        connections, latency, send, receive = self.connections, self.latency, self._send, self._receive
        patience_ns = self.load.patience_ms * 1_000_000
        following = oldest = 0  # next request to send; first one not known to be done
        next_ns = due[0] if n else FOREVER_NS
        tick_ns = 0
        while self.done < n:
            now = clock()
            while now >= next_ns:
                send(following, now)
                following += 1
                next_ns = due[following] if following < n else FOREVER_NS
                now = clock()
            while oldest < following and (latency[oldest] != _PENDING or due[oldest] + patience_ns <= now):
                if latency[oldest] == _PENDING:
                    self._give_up(oldest)
                oldest += 1
            if self.on_tick is not None and now >= tick_ns:
                self.on_tick(following, self.done)
                tick_ns = now + TICK_NS
            if self.done >= n:
                break
            until_ns = min(next_ns, due[oldest] + patience_ns) if oldest < following else next_ns
            for descriptor, events in wait(until_ns):
                connection = connections.get(descriptor)
                if connection is None:
                    continue  # the timer, or a connection dropped a moment ago
                if events & WRITE:
                    self._flush(connection)
                if events & ~WRITE and connection.sock.fileno() >= 0:
                    receive(connection)
                now = clock()
                while now >= next_ns:  # answers may wait, sends may not
                    send(following, now)
                    following += 1
                    next_ns = due[following] if following < n else FOREVER_NS
                    now = clock()
        if self.on_tick is not None:
            self.on_tick(following, self.done)

    def _send(self, request: int, now: int) -> None:
        self.lag[request] = now - self.due[request]
        payload = self.payloads[request % len(self.payloads)]
        while True:
            if self.free:
                connection = self.free.pop()
            else:
                opened = self._connect()
                if opened is None:
                    self._fail(request, "no_connection")
                    return
                connection = opened
            try:
                sent = connection.sock.send(payload)
            except BlockingIOError:
                sent = 0
            except OSError:  # closed under us while idle: nothing was sent, so another may carry it
                self._drop(connection)
                continue
            break
        connection.request = request
        if sent < len(payload):
            connection.unsent = payload[sent:]
            self.poller.want_write(connection.sock, wanted=True)

    def _flush(self, connection: _Connection) -> None:
        """Send what the socket did not take before; also where a connect that was under way ends."""
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(connection, "refused" if isinstance(error, ConnectionRefusedError) else "closed")
            return
        connection.unsent = connection.unsent[sent:]
        if not connection.unsent:
            self.poller.want_write(connection.sock, wanted=False)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(connection, "refused" if isinstance(error, ConnectionRefusedError) else "closed")
            return
        arrived = time.monotonic_ns()
        request = connection.request
        if request < 0:  # the server ended an idle connection, or says something nobody asked
            self._drop(connection)
            if data:
                self.errors["unasked"] += 1
            return
        received = connection.received + data if connection.received else data
        if not received:
            self._lose(connection, "closed")
            return
        try:
            answer = wire.parse(received, ended=not data)
        except wire.BadAnswer:
            self._lose(connection, "closed" if not data else "bad_answer")
            return
        if answer is None:
            connection.received = received
            return
        latency_us = (arrived - self.due[request]) // 1000
        self.latency[request] = latency_us
        self.status[request] = answer.status
        self.done += 1
        body = answer.body
        if body:
            self.bid[request] = answer.status == 200 and b'"impid"' in body
        every = self.load.keep_every
        if every and request % every == 0:
            self.bodies[request] = body
        connection.request = -1
        connection.received = b""
        if answer.keep and answer.size == len(received) and not connection.unsent:
            self.free.append(connection)
        else:
            self._drop(connection)
        if self.on_answer is not None:
            self.on_answer(request, answer.status, body, latency_us)

    def _connect(self) -> _Connection | None:
        """A connection under way, None at the bound or when the system has no more to give."""
        if len(self.connections) >= self.load.max_connections:
            return None
        try:
            sock = socket.socket(self.family, socket.SOCK_STREAM)
        except OSError:
            return None
        sock.setblocking(False)
        try:
            sock.connect(self.address)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return None
        return self._admit(sock)

    def _connect_and_wait(self) -> None:
        try:
            sock = socket.create_connection((self.where.host, self.where.port), timeout=self.load.patience_ms / 1000)
        except OSError as error:
            raise Unreachable(f"{self.load.url}: {error}; is the bidder running?") from None
        self.family, self.address = sock.family, sock.getpeername()
        self.free.append(self._admit(sock))

    def _admit(self, sock: socket.socket) -> _Connection:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(sock)
        self.connections[sock.fileno()] = connection
        self.poller.watch(sock)
        self.opened += 1
        return connection

    def _drop(self, connection: _Connection) -> None:
        """Forget a connection; it may be in the free list or carry a request, which is the caller's to settle."""
        if connection in self.free:
            self.free.remove(connection)
        del self.connections[connection.sock.fileno()]
        self.poller.forget(connection.sock)
        connection.sock.close()

    def _lose(self, connection: _Connection, why: str) -> None:
        """The connection ended; the request it carried, if any, stays unanswered."""
        request = connection.request
        self._drop(connection)
        if request >= 0:
            self._fail(request, why)

    def _give_up(self, request: int) -> None:
        for connection in list(self.connections.values()):
            if connection.request == request:
                self._drop(connection)
        self._fail(request, "timeout")

    def _fail(self, request: int, why: str) -> None:
        self.errors[why] += 1
        self.latency[request] = _FAILED
        self.done += 1
