"""Users for the bid path: one write a server for all reads of a loop turn, no wait past a deadline.

Measured with 30 tags a user (CPython 3.11, uvloop, unix socket; us of CPU per read):

    reads in a loop turn                       1     2     8    32
    here                                    14.6   9.2   5.2   4.1
    redis-py, one MGET for the turn         47.9  29.0   9.9   6.0
    redis-py, pipeline of one MGET a user   59.3  39.8  20.4  14.2

At the one or two reads a turn of a bidder at half load the difference is as much as deciding a bid costs.

A user's keys are one slot, so that in a cluster one read is one command, too. While a slot moves from node to node a
user may be half here and half there; then the keys are asked for one by one.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import redis.exceptions
from msgspec import Struct

from dmp import codec, keys
from dmp.errors import CorruptRecord
from dmp.link import Link
from dmp.schema import NOBODY, Uid, User
from dmp.wire import LOOK_AGAIN_S, Line, Waiter, encode

POLL_S = 1.0  # how often the live generation is read
STALL_S = 0.18  # bids that cannot have the user should not be made to wait for it either
BEHIND_S = 0.005  # a timer that goes off so late was kept waiting
MOST_STUCK = 64  # reads that wait for a server that may not answer: more would be taken for load (`bidder.overload`)


_MGET = encode("MGET", *keys.user_keys(bytes(16))).replace(keys.text(bytes(16)), b"%b")
"""The command with places for what stands for the user in the five keys, whose lengths never change: five times
`dmp.keys.text` of the pseudonym."""


class _Read(Struct, eq=False):
    """One user being read. callback is None once it has been called."""

    lookup: "Lookup"
    uid: Uid
    deadline_s: float
    callback: Callable[[User | None], None] | None

    def __call__(self, reply: Any) -> None:
        callback = self.callback
        if callback is None:
            return
        if isinstance(reply, redis.exceptions.TryAgainError):
            _OneByOne(self)
            return
        self.callback = None
        callback(self.lookup.decode(reply))


class _OneByOne:
    """A user whose slot is being moved: each key is asked for where it is now."""

    def __init__(self, read: _Read) -> None:
        self._read = read
        names = keys.user_keys(read.uid)
        self._values: list[Any] = [None] * len(names)
        self._left = len(names)
        link = read.lookup.link
        for place, name in enumerate(names):
            if not link.send(name, encode("GET", name), partial(self._take, place)):
                self._take(place, redis.exceptions.ConnectionError("the tag store does not answer"))

    def _take(self, place: int, value: Any) -> None:
        self._values[place] = value
        self._left -= 1
        if not self._left:
            self._read(next((value for value in self._values if isinstance(value, Exception)), self._values))


class _Joined:
    """A user who may still be known under the pseudonym of a former key: the replies for both, then as one.

    Without one of them nothing is told: a refusal may be in it.
    """

    def __init__(self, read: _Read) -> None:
        self._read = read
        self._replies: dict[str, Any] = {}

    def take(self, which: Literal["own", "former"], reply: Any) -> None:
        self._replies[which] = reply
        if len(self._replies) == 2:
            own, former = self._replies["own"], self._replies["former"]
            if isinstance(own, Exception) or isinstance(former, Exception):
                self._read(redis.exceptions.ConnectionError("one of a user's two records could not be read"))
            else:
                self._read(codec.joined(own, former))


class Lookup:
    """Reads users for bids. counts: reads by how they ended. stall_s: as of `Link`. former_of: while a key is rotated,
    the pseudonym under the former one (`dmp.pseudonym.KeyRing.former_of`); both are read in the same write then.
    """

    former_of: Callable[[Uid], Uid | None] | None = None

    def __init__(self, url: str, stall_s: float = STALL_S) -> None:
        self.link = Link(url, stall_s)
        self.generation = 0
        self.counts = {"hit": 0, "miss": 0, "late": 0, "error": 0, "skipped": 0}
        self._now_s = int(time.time())
        self._reads: deque[_Read] = deque()
        self._wake_s = math.inf
        self._looks_again = False
        self._timer: asyncio.TimerHandle | None = None
        self._poll: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float = 5.0) -> None:
        """As `Link.start`; the live generation is known afterwards, unless its node of a cluster is away."""
        await self.link.start(timeout_s)
        with suppress(redis.exceptions.RedisError):
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
        name = keys.text(uid)
        line = self.link.line(b"{%b}" % name)  # the part of its keys that says which server has them
        read = _Read(self, uid, deadline_s, callback)
        if line is None or (line.waiting >= MOST_STUCK and line.silent) or not self._ask(line, name, read):
            self.counts["skipped"] += 1
            return False
        self._reads.append(read)
        if deadline_s < self._wake_s:
            self._wake(deadline_s)
        return True

    def _ask(self, line: Line, name: bytes, read: _Read) -> bool:
        """Send a read, beside it one of the former pseudonym's values where there is one; False when that cannot be."""
        waiter: Waiter = read
        if self.former_of is not None and (former := self.former_of(read.uid)) is not None:
            both, other = _Joined(read), keys.text(former)
            if not self.link.send(b"{%b}" % other, _MGET % ((other,) * 5), partial(both.take, "former")):
                return False
            waiter = partial(both.take, "own")
        return self.link.send_by(line, _MGET % (name, name, name, name, name), waiter)

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
        now_s = time.monotonic() + 0.001  # loop timers have a resolution of 1 ms
        if now_s - self._wake_s > BEHIND_S and not self._looks_again:
            self._looks_again = True  # the loop stood still: replies that came meanwhile have not been read yet
            self._timer = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._expire)
            return
        self._timer, self._wake_s, self._looks_again = None, math.inf, False
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
