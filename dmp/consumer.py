"""`tagbid dmp stream`: consumers that share the partitions of the event stream and survive each other's deaths.

A partition is worked on by one consumer at a time, so that a user's events are taken in the order they came and
nobody's writes collide: the consumer holds a lease (`owner:{e<p>}`) and renews it. Each takes its share, partitions /
consumers alive, and gives back what is more. When one dies, its leases run out after LEASE_S and the next owner first
claims and applies what was delivered to the dead and not acknowledged, then goes on with what is new. A lease is about
work, not about truth: should two consumers hold one, `dmp.stream` still counts once.
"""

import contextlib
import gc
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterable
from multiprocessing import connection
from pathlib import Path
from typing import Any

import redis

from dmp import decisions, keys, streams, unsettled
from dmp.acts import understanding
from dmp.clustered import MOVING, node
from dmp.config import DmpConfig
from dmp.detect import watcher
from dmp.forgotten import Forgotten
from dmp.outages import passes
from dmp.rules import Rules, load
from dmp.store import Store
from dmp.stream import Counts, Entry, Processor, Watch
from dmp.streams import TAGS

log = logging.getLogger("tagbid.dmp")

LEASE_S, BEAT_S = 1.5, 0.3
TRIM_S = 1.0
TURN_EVENTS = 2_048  # about what a turn takes: some 100 ms, far less than a lease
MOST_ENTRIES = 2_048
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.02  # between looks when nothing came
RETRY_PAUSE_S = 0.2
COUNTS_TTL_S = 30 * 86_400
FORGET_CONSUMER_MS = 3_600_000

# A lease: take it when nobody has it or we do. KEYS: 1 lease. ARGV: 1 our name, 2 milliseconds.
_TAKE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return owner and 1 or 2
"""
_GIVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
# Who is alive, by the store's clock. KEYS: 1 consumers. ARGV: 1 our name, 2 seconds after which one is taken for dead.
_BEAT = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
redis.call('ZADD', KEYS[1], string.format('%.3f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.3f', now - tonumber(ARGV[2])))
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])
"""
# Drop the names of consumers that are gone for long and owe nothing. KEYS: 1 stream. ARGV: 1 group, 2 milliseconds.
_TIDY = """
for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {}
  for i = 1, #one, 2 do about[one[i]] = one[i + 1] end
  if about['pending'] == 0 and about['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about['name'])
  end
end
"""


class Consumer:
    """One consumer: `run` works until told to stop, and outlives the store's restarts.

    name: unique among consumers. groups: whose acknowledgement trimming waits for. totals: since the start. held: turns
    that a partition was left alone in, because its slot of a cluster is being moved.
    """

    def __init__(
        self, store: Store, config: DmpConfig, watch: Watch | None = None, groups: Iterable[str] = streams.GROUPS
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.totals = Counts()
        self.held = 0
        self.owned: set[int] = set()
        self._store, self._config, self._watch, self._groups = store, config, watch, tuple(groups)
        self._per_entry = float(streams.MAX_ENTRY_RECORDS)
        self._decided = _Decided(decisions.decisions_file(config.data_dir))
        self._next_beat_s = self._next_trim_s = self._lease_ends_s = 0.0
        self._next_claim_s: dict[int, float] = {}
        self._held_until_s: dict[int, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then give the partitions back."""
        while not stop.is_set():
            try:
                self._work(stop)
            except redis.exceptions.RedisError as error:
                if not passes(error):
                    raise
                self.owned.clear()  # what was on its way is claimed when the partition is taken again
                stop.wait(RETRY_PAUSE_S)

    def _work(self, stop: threading.Event) -> None:
        client = self._store.sync()
        try:
            streams.ensure_groups(client, self._config.stream.partitions)
            processor = Processor(
                client,
                understanding(self._decided.read()),
                self._config.stream.lateness_s,
                self._watch,
                Forgotten(self._config.data_dir),
            )
            self._next_beat_s, pause_s = 0.0, FIRST_PAUSE_S
            while not stop.is_set():
                now_s = time.monotonic()
                if now_s >= self._next_beat_s:
                    self._beat(client, processor)
                    self._next_beat_s = now_s + BEAT_S
                worked = 0
                for partition in sorted(self.owned):
                    if time.monotonic() > self._lease_ends_s:
                        break
                    if now_s < self._held_until_s.get(partition, 0.0):
                        continue
                    try:
                        worked += self._turn(client, processor, partition)
                        self._held_until_s.pop(partition, None)
                    except redis.exceptions.MovedError:  # has arrived: everything is looked up anew
                        raise
                    except MOVING as error:
                        self._hold(partition, error)
                if now_s >= self._next_trim_s:
                    for partition in self.owned - self._held_until_s.keys():
                        streams.trim(node(client, keys.events(partition)), partition, self._groups)
                    self._next_trim_s = now_s + TRIM_S
                pause_s = FIRST_PAUSE_S if worked else min(2 * pause_s, LONGEST_PAUSE_S)
                if not worked:
                    stop.wait(pause_s)
            for partition in self.owned:
                client.eval(_GIVE, 1, keys.event_owner(partition), self.name)
            client.zrem(keys.CONSUMERS, self.name)
            self.owned.clear()
        finally:
            client.close()

    def _beat(self, client: redis.Redis, processor: Processor) -> None:
        """Say that we live, renew leases, take what is free up to our share, give back what is more."""
        began_s = time.monotonic()
        alive = int(client.eval(_BEAT, 1, keys.CONSUMERS, self.name, str(LEASE_S)))
        share = -(-self._config.stream.partitions // alive)
        held: set[int] = set()
        for partition in sorted(range(self._config.stream.partitions), key=lambda p: p not in self.owned):
            owner = keys.event_owner(partition)
            if len(held) == share:
                if partition in self.owned:
                    client.eval(_GIVE, 1, owner, self.name)
                continue
            taken = int(client.eval(_TAKE, 1, owner, self.name, str(round(LEASE_S * 1000))))
            if taken:
                held.add(partition)
                if partition not in self.owned:
                    self._next_claim_s[partition] = 0.0
        self.owned = held
        self._lease_ends_s = began_s + LEASE_S
        if (decided := self._decided.changed()) is not None:
            processor.understand = understanding(decided)

    def _hold(self, partition: int, error: redis.exceptions.RedisError) -> None:
        """Leave a partition alone for a moment; what was read of it is claimed in its next turn."""
        if partition not in self._held_until_s:
            log.warning(
                "partition %d of the event stream waits until its slot has moved (%s); a move that was abandoned is "
                "ended by `redis-cli --cluster fix`", partition, error,
            )  # fmt: skip
        self.held += 1
        self._held_until_s[partition] = time.monotonic() + RETRY_PAUSE_S
        self._next_claim_s[partition] = 0.0

    def _turn(self, client: redis.Redis, processor: Processor, partition: int) -> int:
        """Apply and acknowledge what the partition has, up to about TURN_EVENTS; returns how many events it was."""
        now_s = time.monotonic()
        if now_s >= self._next_claim_s[partition]:
            # Freshly taken: all that others left. Later: what a consumer took that had lost its lease without noticing.
            self._claim(client, processor, partition, 0 if not self._next_claim_s[partition] else 2 * LEASE_S)
            self._next_claim_s[partition] = time.monotonic() + 2 * LEASE_S
        count = max(1, min(MOST_ENTRIES, int(TURN_EVENTS / self._per_entry)))
        key = keys.events(partition)
        found: Any = node(client, key).xreadgroup(TAGS, self.name, {key: ">"}, count=count)
        if not found:
            return 0
        entries = _entries(found[0][1])
        self._apply(client, processor, partition, entries, again=False)
        events = sum(len(entry.records) for entry in entries)
        self._per_entry = max(1.0, (self._per_entry + 3 * events / len(entries)) / 4)
        return events

    def _claim(self, client: redis.Redis, processor: Processor, partition: int, idle_s: float) -> None:
        start: Any = b"0-0"
        at = node(client, keys.events(partition))
        while True:
            claimed: Any = at.xautoclaim(keys.events(partition), TAGS, self.name, round(idle_s * 1000), start, count=64)
            start = claimed[0]
            entries = _entries(entry for entry in claimed[1] if entry[1] is not None)
            if entries:
                self._apply(client, processor, partition, entries, again=True)
            if start == b"0-0":
                break
        at.eval(_TIDY, 1, keys.events(partition), TAGS, str(FORGET_CONSUMER_MS))

    def _apply(
        self, client: redis.Redis, processor: Processor, partition: int, entries: list[Entry], again: bool
    ) -> None:
        turn = processor.apply(entries, int(time.time()), again)
        pipe = client.pipeline(transaction=True)  # one slot: acknowledged, set aside and counted together
        unsettled.add(pipe, partition, turn.aside)
        for name in turn.counts.__struct_fields__:
            if more := getattr(turn.counts, name):
                pipe.hincrby(keys.event_counts(partition), name, more)
        pipe.expire(keys.event_counts(partition), COUNTS_TTL_S)
        pipe.xack(keys.events(partition), TAGS, *(entry.id for entry in entries))
        pipe.execute()
        self.totals.add(turn.counts)


def work(url: str, config: DmpConfig) -> None:
    """A consumer as a child process: works until SIGTERM, or until its parent is gone."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel, stop), daemon=True).start()
    rules = load(Path(config.stream.rules)) if config.stream.rules else Rules()
    store = Store(url)
    gc.freeze()  # a full collection that walks all that was loaded holds up the stream for tens of ms
    with contextlib.closing(store.sync()) as client:
        Consumer(store, config, watcher(rules, client) if rules.rules else None).run(stop)


def _follow(sentinel: int, stop: threading.Event) -> None:
    connection.wait([sentinel])
    stop.set()


def _entries(raw: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[Entry]:
    return [Entry(name, streams.parse_id(name.decode())[0], tuple(fields.values())) for name, fields in raw]


class _Decided:
    """People's decisions on labels, read again when their log has grown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: int | None = None

    def read(self) -> Any:
        self._seen = self._size()
        return decisions.replay(decisions.read(self._path))

    def changed(self) -> Any:
        """The decisions when there are others than last time, else None."""
        return None if self._size() == self._seen else self.read()

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0
