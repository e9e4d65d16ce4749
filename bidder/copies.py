"""Whether what a cluster was told is on more than one server: a lease counts once a replica of its primary has it.

A primary that dies takes along what its replica had not got yet; the replica that replaces it would grant the same
money again. So the growth of a lease is used only after `WAIT 1` said that a replica has it. WAIT holds up everything
behind it on its connection, so it has one of its own, to each primary; and because it speaks of what that connection
wrote, the day's key is touched first, which comes after the grant in the one stream that a replica is fed. While one
answer is awaited, further questions to the same primary are collected: one touch and one WAIT are good for all of them.

A replica that does not answer in `WAIT_MS` leaves the grant unused until the next top-up asks again: bid less, never
more. Where several replicas are behind, the one that is promoted may be another than the one that answered; clusters
prefer the one that is furthest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from dmp.link import Link
from dmp.wire import Line, encode

WAIT_MS = 100  # a replica in the same network answers within one or two
Told = Callable[[bool], None]


class Copies:
    """link: to a cluster, used by nobody else. counts: grants by what became of them."""

    def __init__(self, link: Link) -> None:
        self.counts = {"copied": 0, "alone": 0}
        self._link = link
        self._collected: dict[Line, list[tuple[bytes, Told]]] = {}

    def wanted(self, key: bytes) -> bool:
        """Whether the primary of a key has had a replica since we know it: without any, nothing can take its place."""
        return self._link.has_replica(key)

    def sure(self, key: bytes, keep_s: int, told: Told) -> None:
        """Ask whether all that was acknowledged about a key has reached a replica. keep_s: the key is kept so long."""
        line = self._link.line(key)
        if line is None:
            self._count(told, False)
        elif line in self._collected:
            self._collected[line].append((key, told))
        else:
            self._ask(line, keep_s, [(key, told)])

    def _ask(self, line: Line, keep_s: int, asked: list[tuple[bytes, Told]]) -> None:
        self._collected[line] = []
        touched: list[Any] = []  # past redirections: an answer about another server's writes would mean nothing
        sent = line.send(encode("EXPIRE", asked[0][0], keep_s), touched.append)
        if not (sent and line.send(encode("WAIT", 1, WAIT_MS), partial(self._answered, line, keep_s, asked, touched))):
            self._answered(line, keep_s, asked, touched, 0)

    def _answered(
        self, line: Line, keep_s: int, asked: list[tuple[bytes, Told]], touched: list[Any], replicas: Any
    ) -> None:
        copied = touched == [1] and isinstance(replicas, int) and replicas >= 1
        for _, told in asked:
            self._count(told, copied)  # who is told may ask again, and is collected like the others
        collected = self._collected.pop(line)
        if collected:
            self._ask(line, keep_s, collected)

    def _count(self, told: Told, copied: bool) -> None:
        self.counts["copied" if copied else "alone"] += 1
        told(copied)
