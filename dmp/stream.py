"""Events -> real-time tags: what one consumer does with what a partition delivers.

    read entries -> for each user: record and marks -> add the acts that have no mark -> put both if nothing changed
                 -> acknowledge

**Exactly once.** The new state is computed here and put by a script that compares and sets on the user's slot
(`realtime.lua`): record and marks change together or not at all, and only if the record is still the one that was
read. So a consumer may die anywhere: what it had put is marked and is skipped when the entry is delivered again, what
it had not is done then. Two consumers with the same entries (one was thought dead) cannot both put: the slower one
finds another nonce, reads again, and finds the marks.

**Whom the stream cannot count exactly now** is put aside in the transaction that acknowledges their events
(`dmp.unsettled`), for the nightly batch: users with events that came later than `lateness_s` after they happened, or
that were delivered again after their marks may have gone; with more than `marks.MOST` live marks; with more tags than
a record holds; with a record that cannot be read, or a slot of a cluster whose move does not end, either of which must
stop nobody else's.
"""

import os
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import redis

from dmp import events, keys, marks, optout, realtime
from dmp.acts import Act, Understanding
from dmp.audiences import rearranged
from dmp.cluster import slot
from dmp.clustered import MOVING, node
from dmp.draft import Draft
from dmp.errors import BadEvents, CorruptRecord
from dmp.events import Behaviour
from dmp.realtime import Moment, Recent
from dmp.schema import Uid
from dmp.wire import encode

MAX_TIME_US = 2**53  # the year 2255
PRUNE_FROM = 32 * marks.BYTES  # below, old marks are not worth looking for
MOVE_PATIENCE_S, MOVE_PAUSE_S = 0.5, 0.02  # for a user between two servers: a move of their keys takes milliseconds
GIVE_UP_S = 60.0  # how long nobody else in such a slot is waited for
FLUSH_USERS = 128  # writes sent at a time, while the answers of further reads come in
_MGET = b"*4\r\n$4\r\nMGET\r\n" + b"".join(b"$%d\r\n%%b\r\n" % len(key) for key in keys.stream_keys(bytes(16)))
SCRIPT = (Path(__file__).parent / "realtime.lua").read_text()

Happened = tuple[Behaviour, Act]


class Judged(NamedTuple):
    """What the rules say of a user now. moments: what they remember. raised: {tag: unix second it ends}. audiences:
    {number of an audience: unix second the user leaves it, 0 for not in it}.
    """

    moments: Sequence[Moment]
    raised: Mapping[int, int]
    audiences: Mapping[int, int]


Watch = Callable[[Uid, Sequence[Moment], Sequence[Recent], Sequence[Happened]], Judged]
"""The rules over the stream, asked of a user with the moments in their record, their latest events, and those of these
that are new.

May be asked again about the same events when somebody else changed the record meanwhile, or a consumer died.
"""


class Entry(NamedTuple):
    """What was appended in one command. came_ms: when the store took it, unix milliseconds."""

    id: bytes
    came_ms: int
    records: Sequence[bytes]


class Counts(msgspec.Struct):
    """Events of a turn by what became of them, and what it took.

    applied: in a record now. duplicates: were before, under this id. late, surplus, unsure, unreadable: for the nightly
    batch, as told above. no_consent: may build no profile. opted_out: of users who want none, or were forgotten.
    broken: no event, or of a time before 1970. plain: say nothing about now. users: records written. conflicts: of
    these, put again. evicted: tags that had no room in a record any more. moving: for the nightly batch, of users whose
    slot was being moved.
    """

    applied: int = 0
    duplicates: int = 0
    late: int = 0
    surplus: int = 0
    unsure: int = 0
    no_consent: int = 0
    opted_out: int = 0
    broken: int = 0
    plain: int = 0
    users: int = 0
    conflicts: int = 0
    unreadable: int = 0
    evicted: int = 0
    moving: int = 0

    def add(self, other: "Counts") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class _Waiting(NamedTuple):
    """An act on its way into a record. mark: of its event; came_s: unix second."""

    act: Act
    mark: bytes
    came_s: int
    event: Behaviour


class Turn(NamedTuple):
    """What became of some entries. aside: users whom the nightly batch counts anew, once for each reason."""

    counts: Counts
    aside: Sequence[Uid]


class Processor:
    """Applies entries over one connection.

    client: of the store. lateness_s: see `dmp.stream.lateness_s`. watch: see `Watch`. forgotten: who must not become a
    user again by what was on its way when they were erased (P-71).
    """

    def __init__(
        self,
        client: redis.Redis,
        understand: Understanding,
        lateness_s: int,
        watch: Watch | None = None,
        forgotten: Container[Uid] = (),
    ) -> None:
        self.understand = understand
        self._client = client
        self._wires: dict[redis.ConnectionPool, redis.Connection] = {}
        self._given_up: dict[int, float] = {}  # {slot that is being moved: until when nobody waits for it}
        self._lateness_us = lateness_s * 1_000_000
        self._life_s = marks.life_s(lateness_s)
        self._watch, self._forgotten = watch, forgotten
        self._nonce = int.from_bytes(os.urandom(8), "big")  # counted up: no other writer will come upon the same
        self._sha = str(client.script_load(SCRIPT)).encode()

    def close(self) -> None:
        """Give the connections back."""
        self._disconnect()
        for pool, connection in self._wires.items():
            pool.release(connection)
        self._wires = {}

    def _disconnect(self) -> None:
        """Drop replies that nobody read: they must not be taken for the next ones."""
        for connection in self._wires.values():
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _wire(self, uid: Uid) -> redis.Connection:
        """The connection to the server that has a user."""
        pool = node(self._client, keys.realtime(uid)).connection_pool
        if pool not in self._wires:
            self._wires[pool] = pool.get_connection()
        return self._wires[pool]

    def apply(self, entries: Iterable[Entry], now_s: int, again: bool = False) -> Turn:
        """Put every event of these entries where it belongs; when this returns, that is done and may be acknowledged.

        again: they may have been applied before. now_s: our clock, unix seconds, for these. Raises
        redis.exceptions.RedisError; then some may be done, which does no harm.
        """
        counts = Counts()
        aside: list[Uid] = []
        waiting: dict[Uid, list[_Waiting]] = {}
        for entry in entries:
            unsure = again and now_s - entry.came_ms // 1000 > self._life_s
            for record in entry.records:
                self._sort(entry, record, unsure, waiting, counts, aside)
        done = False
        try:
            patient_until_s = time.monotonic() + MOVE_PATIENCE_S
            while waiting:
                moving: list[Uid] = []
                left = self._put(waiting, counts, aside, moving)
                counts.conflicts += len(left)
                if moving:
                    left += self._awaited(moving, patient_until_s)
                    for uid in set(moving).difference(left):
                        counts.moving += len(waiting[uid])
                        aside.append(uid)
                waiting = {uid: waiting[uid] for uid in left}
            done = True
        finally:
            if not done:
                self._disconnect()
        return Turn(counts, aside)

    def _awaited(self, moving: Sequence[Uid], patient_until_s: float) -> list[Uid]:
        """Those of users between two servers who are worth another try, after a pause."""
        now_s = time.monotonic()
        self._given_up = {number: until_s for number, until_s in self._given_up.items() if until_s > now_s}
        slots = {uid: slot(keys.realtime(uid)) for uid in moving}
        if now_s >= patient_until_s:
            self._given_up |= dict.fromkeys(slots.values(), now_s + GIVE_UP_S)
        awaited = [uid for uid in moving if slots[uid] not in self._given_up]
        if awaited:
            time.sleep(MOVE_PAUSE_S)
        return awaited

    def _sort(
        self,
        entry: Entry,
        record: bytes,
        unsure: bool,
        waiting: dict[Uid, list[_Waiting]],
        counts: Counts,
        aside: list[Uid],
    ) -> None:
        try:
            event = events.decode_behaviour(record)
        except BadEvents:
            counts.broken += 1
            return
        if len(event.uid) != 16 or not 0 <= event.time_us < MAX_TIME_US:
            counts.broken += 1
            return
        if not event.consent & events.CONSENT_PROFILE:
            counts.no_consent += 1
            return
        if event.uid in self._forgotten:
            counts.opted_out += 1
            return
        act = self.understand(event)
        if act is None:
            counts.plain += 1
        elif entry.came_ms * 1000 - event.time_us > self._lateness_us:
            counts.late += 1
            aside.append(event.uid)
        elif unsure:
            counts.unsure += 1
            aside.append(event.uid)
        else:
            one = _Waiting(act, marks.of(event), entry.came_ms // 1000, event)
            waiting.setdefault(event.uid, []).append(one)

    def _put(
        self, waiting: Mapping[Uid, Sequence[_Waiting]], counts: Counts, aside: list[Uid], moving: list[Uid]
    ) -> list[Uid]:
        """Read, add and write all users once; returns the users whose record somebody else changed meanwhile.

        moving: users whose keys are between two servers are added to it.
        """
        by_wire: dict[redis.Connection, dict[Uid, Sequence[_Waiting]]] = {}
        for uid, acts in waiting.items():
            by_wire.setdefault(self._wire(uid), {})[uid] = acts
        left = [uid for wire, some in by_wire.items() for uid in self._put_by(wire, some, counts, aside, moving)]
        if left:
            self._sha = str(self._client.script_load(SCRIPT)).encode()  # or the store had forgotten it
        return left

    def _put_by(
        self,
        wire: redis.Connection,
        waiting: Mapping[Uid, Sequence[_Waiting]],
        counts: Counts,
        aside: list[Uid],
        moving: list[Uid],
    ) -> list[Uid]:
        """As `_put`, of users that one server has."""
        send: Callable[[list[bytes]], None] = wire.send_packed_command
        send([b"".join([_MGET % keys.stream_keys(uid) for uid in waiting])])
        asked: list[tuple[Uid, Counts, list[Uid]]] = []
        commands: list[bytes] = []
        for uid, acts in waiting.items():
            of_user, beside = Counts(), list[Uid]()
            try:
                values = wire.read_response()
            except redis.exceptions.MovedError:  # has arrived: everything is looked up anew
                raise
            except MOVING:
                moving.append(uid)
                continue
            try:
                command = self._changed(uid, acts, values, of_user, beside)
            except CorruptRecord:  # broken, or of a later release: not ours to overwrite, and not for all to wait for
                counts.unreadable += len(acts)
                aside.append(uid)
                continue
            if command is None:
                counts.add(of_user)
                aside += beside
                continue
            asked.append((uid, of_user, beside))
            commands.append(command)
            if len(commands) == FLUSH_USERS:
                send([b"".join(commands)])
                commands = []
        if commands:
            send([b"".join(commands)])
        left = []
        for uid, of_user, beside in asked:
            if _reply(wire) == 1:
                counts.add(of_user)
                aside += beside
            else:
                left.append(uid)
        return left

    def _changed(
        self, uid: Uid, acts: Sequence[_Waiting], values: Any, counts: Counts, aside: list[Uid]
    ) -> bytes | None:
        """The command that puts a user's acts, or None when there is nothing to put."""
        record, held, audiences = values
        if audiences is not None and optout.marks_in(audiences):
            counts.opted_out += len(acts)
            return None
        if held is None:
            held = b""
        live = marks.live(held, acts[0].came_s) if len(held) >= PRUNE_FROM else held
        draft: Draft | None = None
        fresh: list[_Waiting] = []
        put: dict[bytes, int] = {}
        for one in acts:
            if put.get(one.mark, -1) >= one.came_s or marks.holds(live, one.mark, one.came_s):
                counts.duplicates += 1
            elif len(live) + marks.BYTES * len(put) >= marks.BYTES * marks.MOST:
                if not counts.surplus:  # one a turn will do: the batch counts all of a user, and robots never end
                    aside.append(uid)
                counts.surplus += 1
            else:
                if draft is None:
                    draft = Draft(None if record is None else realtime.decode(record))
                draft.add(one.act)
                put[one.mark] = one.came_s + self._life_s
                fresh.append(one)
        if draft is None:
            return None
        counts.applied += len(fresh)
        counts.users += 1
        memberships, leave_s = b"", 0
        if self._watch is not None:
            judged = self._watch(uid, draft.moments, draft.recent, [(one.event, one.act) for one in fresh])
            newest_s = draft.newest_us // 1_000_000
            draft.judge(judged.moments, {tag: ends_s for tag, ends_s in judged.raised.items() if ends_s > newest_s})
            memberships, leave_s = rearranged(audiences, judged.audiences, acts[-1].came_s)
        evicted_before = draft.evicted
        self._nonce = (self._nonce + 1) % 2**64
        new_marks = b"".join([marks.made(mark, until_s) for mark, until_s in put.items()])
        rewrite = 2 * len(live) < len(held)
        data = draft.finish(self._nonce.to_bytes(8, "big"))
        if draft.evicted > evicted_before:
            counts.evicted += draft.evicted - evicted_before
            aside.append(uid)
        return encode(
            b"EVALSHA", self._sha, b"3", *keys.stream_keys(uid),
            b"" if record is None else record[8:16], audiences or b"", data,
            draft.newest_us // 1_000_000 + realtime.IDLE_S,
            live + new_marks if rewrite else new_marks, b"SET" if rewrite else b"APPEND",
            self._life_s + marks.REDELIVERY_S, memberships, leave_s,
        )  # fmt: skip


def _reply(wire: redis.Connection) -> Any:
    """The next reply, None where the script is not known or the user is being moved; any other error is raised."""
    try:
        return wire.read_response()
    except (redis.exceptions.NoScriptError, *MOVING):
        return None
