"""Commands to the tag store, be it one server or a cluster: each goes to the node that has the slot of its key.

A `Link` finds out at its first contact what the store is. Of a cluster it holds a `dmp.wire.Line` to every primary and
a table of slots. A node that says MOVED corrects the table at once and has it read again; ASK sends the one command on;
a lost line, and slots that nobody serves, have the table read again until it is whole. It is read from up to three
nodes, and the view of the latest epoch counts, so that a node that was cut off for a while convinces nobody. Keys of
nodes that are away are refused at once, all others go on.

redis-py's cluster client would not do here even off the bid path: the budget relies on replies that come in the
order of the store's work (`bidder.budget`), and a pool of connections a node does not keep it. That order holds
for one slot as long as no other node takes it; then a reply that is on its way from the old one may be overtaken.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import redis.exceptions

from dmp import cluster
from dmp.cluster import SLOTS, Node, Topology
from dmp.wire import CONNECT_TIMEOUT_S, Line, Waiter, encode, resolve

STALL_S = 1.0
REFRESH_S = 10.0  # how often a whole table is read again: only a move that nobody ran into would show
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5  # between readings of a table that is not whole
ASKED = 3  # nodes whose view is asked for
MOST_HOPS = 5  # of one command from node to node
AT_ONCE = 200  # keys of many that are asked for together: less than a millisecond's work
TRIES, TRY_AGAIN_S = 10, 0.02  # for commands whose keys are half moved
_ASKING = encode("ASKING")
_KEYLESS = frozenset({"PING", "SCRIPT", "CLUSTER", "INFO"})


class _View(msgspec.Struct, frozen=True):
    """What one node says of the cluster."""

    epoch: int
    topology: Topology


class _Sent:
    """A command on its way in a cluster, which may turn out to be a longer one."""

    __slots__ = ("command", "hops", "line", "link", "waiter")

    def __init__(self, link: "Link", line: Line, command: bytes, waiter: Waiter) -> None:
        self.link = link
        self.line = line
        self.command = command
        self.waiter = waiter
        self.hops = 0

    def __call__(self, reply: Any) -> None:
        if not isinstance(reply, redis.exceptions.ResponseError) or not self.link.redirected(self, reply):
            self.waiter(reply)


class _Several:
    """Replies to commands that are awaited as one."""

    def __init__(self, commands: int) -> None:
        self.done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._found: list[Any] = [None] * commands
        self._left = commands

    def take(self, place: int, reply: Any) -> None:
        self._found[place] = reply
        self._left -= 1
        if not self._left:
            resolve(self.done, self._found)


class Link:
    """The store, connected as long as there is one.

    url: as redis-py takes it, with commas between several addresses (`dmp.cluster.seeds`). stall_s: how long a server
    may say nothing while asked. counts: commands redirected, and readings of the table. Every failure of a command is
    a `redis.exceptions.RedisError`.
    """

    def __init__(self, url: str, stall_s: float = STALL_S) -> None:
        self.counts = {"moved": 0, "ask": 0, "read": 0}
        self._url = url
        self._stall_s = stall_s
        self._only: Line | None = None  # the line of a store of one server
        self._lines: dict[Node, Line] = {}
        self._opened: set[Line] = set()  # all that may hold a connection, those that only look for the store included
        self._table: list[Line | None] = [None] * SLOTS
        self._nodes: list[Node] = []  # all there were at the last reading, replicas included
        self._replicated: set[Line] = set()  # lines to primaries that have had a replica
        self._stale = asyncio.Event()
        self._known = asyncio.Event()
        self._pause_s = FIRST_PAUSE_S
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def lines(self) -> list[Line]:
        """One a server."""
        return list(self._lines.values()) if self._only is None else [self._only]

    @property
    def up(self) -> bool:
        """Whether any command is accepted right now."""
        return any(line.up for line in self.lines)

    @property
    def share_up(self) -> float:
        """The share of all keys whose server accepts commands right now."""
        if self._only is not None:
            return float(self._only.up)
        return sum(line is not None and line.up for line in self._table) / SLOTS

    @property
    def losses(self) -> int:
        return sum(line.losses for line in self.lines)

    def stuck(self) -> int:
        """How many commands wait for servers that may not answer at all."""
        return sum(line.waiting for line in self.lines if line.silent)

    async def start(self, timeout_s: float = 5.0) -> None:
        """Connect; raises TimeoutError when there is no answer in time, and keeps trying all the same."""
        self._do(self._keep_known())
        async with asyncio.timeout(timeout_s):
            await self._known.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(line.close() for line in self._opened))

    def line(self, key: bytes) -> Line | None:
        """Who has a key, as far as is known."""
        return self._only if self._only is not None else self._table[cluster.slot(key)]

    @property
    def clustered(self) -> bool:
        """Whether the store is a cluster; known once it was connected to."""
        return self._known.is_set() and self._only is None

    def has_replica(self, key: bytes) -> bool:
        """Whether the server of a key has had a replica at any time since this link knows it."""
        return self.line(key) in self._replicated

    def send(self, key: bytes, command: bytes, waiter: Waiter) -> bool:
        """Queue an encoded command for the server of a key; False (and `waiter` is never called) while it is away."""
        line = self.line(key)
        return line is not None and self.send_by(line, command, waiter)

    def send_by(self, line: Line, command: bytes, waiter: Waiter) -> bool:
        """As `send`, for who has looked at the line first."""
        return line.send(command, waiter if line is self._only else _Sent(self, line, command, waiter))

    async def execute(self, *parts: bytes | str | int) -> Any:
        """One command and its reply. Raises redis.exceptions.RedisError."""
        command = encode(*parts)
        reply = await self._reply(key_of(parts), command)
        for _ in range(TRIES):
            if not isinstance(reply, redis.exceptions.TryAgainError):
                break
            await asyncio.sleep(TRY_AGAIN_S)
            reply = await self._reply(key_of(parts), command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def values(self, names: Sequence[bytes]) -> list[Any]:
        """What GET says of each key, an Exception where it failed; thousands are asked for in turns of the loop."""
        found: list[Any] = []
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            several = _Several(len(part))
            for place, name in enumerate(part):
                if not self.send(name, encode("GET", name), partial(several.take, place)):
                    several.take(place, redis.exceptions.ConnectionError("the tag store does not answer"))
            found += await several.done
        return found

    async def evalsha(self, sha1: str, numkeys: int, *parts: bytes | str | int) -> Any:
        """As redis-py's method of this name."""
        return await self.execute("EVALSHA", sha1, numkeys, *parts)

    async def eval(self, script: str, numkeys: int, *parts: bytes | str | int) -> Any:
        """As redis-py's method of this name."""
        return await self.execute("EVAL", script, numkeys, *parts)

    async def everywhere(self, *parts: bytes | str | int) -> None:
        """One command on every server there is; raises the first redis.exceptions.RedisError of those that are up."""
        await asyncio.gather(*(line.execute(*parts) for line in self.lines if line.up or line is self._only))

    async def _reply(self, key: bytes | None, command: bytes) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiter = partial(resolve, future)
        if key is not None:
            asked = self.send(key, command, waiter)
        else:
            line = next((line for line in self.lines if line.up), None)
            asked = line is not None and line.send(command, waiter)
        return await future if asked else redis.exceptions.ConnectionError("the tag store does not answer")

    def doubt(self) -> None:
        """Have the table of slots read again: somebody who asked a line by itself was told that it is wrong."""
        self._stale.set()

    # ---- where slots are

    def redirected(self, sent: _Sent, error: redis.exceptions.ResponseError) -> bool:
        """Send a command to where a node says it belongs; False when it does not say so, or nobody is there."""
        if isinstance(error, redis.exceptions.ClusterDownError):
            self._stale.set()
        way = cluster.redirect(str(error), sent.line.node)
        if way is None or sent.hops == MOST_HOPS:
            return False
        sent.hops += 1
        sent.line = line = self._line_to(way.node)
        if way.ask:
            self.counts["ask"] += 1
            line.send(_ASKING, _nothing)
        else:
            self.counts["moved"] += 1
            self._table[way.slot] = line
            self._stale.set()
        return line.send(sent.command, sent)

    def _line_to(self, node: Node) -> Line:
        line = self._lines.get(node)
        if line is None:
            line = self._lines[node] = self._open(cluster.at(self._url, node), self._stale.set)
        return line

    def _open(self, url: str, lost: Callable[[], None] = lambda: None) -> Line:
        line = Line(url, self._stall_s, lost)
        self._opened.add(line)
        line.start()
        return line

    async def _keep_known(self) -> None:
        scouts = [self._open(url) for url in cluster.seeds(self._url)]
        first = await _first_up(scouts)
        while (view := await self._view(first)) is None:
            first = await _first_up(scouts)
        if isinstance(view, _View):
            self._adopt(view)
            with suppress(TimeoutError):  # a node that is away must not keep the others waiting
                async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
                    await asyncio.gather(*(line.connected.wait() for line in self.lines))
        else:
            self._only = first
        self._close(line for line in scouts if line is not self._only)
        self._known.set()
        while self._only is None:
            await self._until_stale()
            await self._read()
            await asyncio.sleep(FIRST_PAUSE_S)  # many may say the same

    async def _until_stale(self) -> None:
        """Wait until the table should be read again."""
        whole = self.share_up == 1.0
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S if whole else self._pause_s):
                await self._stale.wait()
        self._stale.clear()
        self._pause_s = FIRST_PAUSE_S if whole else min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _view(self, line: Line) -> _View | bool | None:
        """What a server says of its cluster; False when it is none of a cluster, None when it does not answer."""
        try:
            info, slots = await asyncio.gather(line.execute("CLUSTER", "INFO"), line.execute("CLUSTER", "SLOTS"))
            return _View(cluster.epoch(info), cluster.parse_slots(slots, line.node))
        except redis.exceptions.ResponseError:
            return False
        except (redis.exceptions.RedisError, ValueError):
            return None

    async def _read(self) -> None:
        """Ask some nodes for the table, and believe the one that knows most."""
        up = [line for line in self._lines.values() if line.up]
        scouts: list[Line] = []
        if not up:
            known = [cluster.at(self._url, node) for node in self._nodes]
            scouts = [self._open(url) for url in dict.fromkeys([*known, *cluster.seeds(self._url)])]
            up = [await _first_up(scouts)]
        asked = random.sample(up, min(ASKED, len(up)))
        views = [view for view in await asyncio.gather(*map(self._view, asked)) if isinstance(view, _View)]
        if views:
            self._adopt(max(views, key=lambda view: view.epoch))
        self._close(scouts)

    def _adopt(self, view: _View) -> None:
        self.counts["read"] += 1
        self._nodes = view.topology.nodes
        primaries = {node: self._line_to(node) for node in view.topology.primaries}
        self._replicated |= {primaries[one.primary] for one in view.topology.ranges if one.replicas}
        self._table = [None if owner is None else primaries[owner] for owner in view.topology.owners()]
        # A line that only ASK has led to has no slots yet: it goes when it has nothing to do, and comes again.
        idle = [node for node, line in self._lines.items() if node not in primaries and not line.waiting]
        self._close(self._lines.pop(node) for node in idle)

    def _close(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._do(self._end(line))

    async def _end(self, line: Line) -> None:
        await line.close()
        self._opened.discard(line)
        self._replicated.discard(line)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _first_up(lines: Collection[Line]) -> Line:
    """The first of some lines that is connected."""
    while True:
        for line in lines:
            if line.up:
                return line
        waits = [asyncio.create_task(line.connected.wait()) for line in lines]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def key_of(parts: Sequence[bytes | str | int]) -> bytes | None:
    """The first key of a command; None for one without.

    >>> key_of(("GET", "a")), key_of(("EVALSHA", "0" * 40, 1, b"b", "x")), key_of((b"PING",))
    (b'a', b'b', None)
    """
    verb = parts[0].decode() if isinstance(parts[0], bytes) else parts[0]
    at = 3 if verb in ("EVAL", "EVALSHA") else 1
    if verb in _KEYLESS or len(parts) <= at:
        return None
    key = parts[at]
    return key if isinstance(key, bytes) else str(key).encode()


def _nothing(_: Any) -> None:
    """A waiter that does not care."""
