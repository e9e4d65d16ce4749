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

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import redis.exceptions

from dmp.link import Link
from dmp.wire import Line, encode

log = logging.getLogger("tagbid.bidder")
WAIT_MS = 100  # a replica in the same network answers within one or two
Told = Callable[[bool], None]


class Copies:
    """link: to a cluster, used by nobody else. counts: grants by what became of them."""

    def __init__(self, link: Link) -> None:
        self.counts = {"copied": 0, "alone": 0}
        self._link = link
        self._collected: dict[Line, list[tuple[bytes, Told]]] = {}
        self._missed: set[Line] = set()  # primaries whose replicas did not have it in time, the last time

    def wanted(self, key: bytes) -> bool:
        """Whether grants of a key's primary must wait for a replica: as soon as it has had one since we know it, and
        while we do not know who it is. What never had any has nothing that can take its place.
        """
        return self._link.has_replica(key) or (self._link.clustered and self._link.line(key) is None)

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
        if touched == [1] and isinstance(replicas, int):
            self._tell(line, copied)
        elif any(isinstance(reply, redis.exceptions.ResponseError) for reply in touched):
            self._link.doubt()  # the slot is elsewhere by now
        for _, told in asked:
            self._count(told, copied)  # who is told may ask again, and is collected like the others
        collected = self._collected.pop(line)
        if collected:
            self._ask(line, keep_s, collected)

    def _tell(self, line: Line, copied: bool) -> None:
        """Once for each time: campaigns that do not bid for want of a replica look like any others."""
        where = f"{line.node.host}:{line.node.port}"
        if copied and line in self._missed:
            self._missed.remove(line)
            log.warning("a replica of %s answers again: what it grants is bid with", where)
        elif not copied and line not in self._missed:
            self._missed.add(line)
            log.error(
                "no replica of %s has what it grants, so campaigns whose money it keeps bid with no more than they "
                "hold, and soon not at all: start a replica again or, if it shall have none, restart the bidders",
                where,
            )

    def _count(self, told: Told, copied: bool) -> None:
        self.counts["copied" if copied else "alone"] += 1
        told(copied)
