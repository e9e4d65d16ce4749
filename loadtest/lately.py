"""What the people of the world do right now, sent to the collector as a shop's server would send it.

Some of them want something today that two weeks of history do not tell. They are told about event by event over HTTP;
how long it takes from an acknowledged event until a bidder reads it in the user's record is measured on the way.
"""

import http.client
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import numpy as np
import redis

from dmp import keys, realtime, streams
from dmp.catalogue import open_catalogue
from dmp.errors import TagbidError
from dmp.events import CONSENT_ALL
from dmp.schema import Realtime, Uid
from loadtest import children, stage, world
from loadtest.behaviour import KINDS, Behaviours
from loadtest.stage import Stage
from loadtest.world import VERTICALS, World

SOURCE = "shop"
BATCH = 100
RATE = 4_000.0  # events a second: half of what a busy machine of two cores takes, so that nothing queues
PROBE_EVERY = 4  # batches: one event of them is waited for
TIMEOUT_S = 30.0


class Sent(msgspec.Struct, frozen=True):
    """events: acknowledged. seconds: until the last was. latency_us: from acknowledged to readable, of the probes."""

    events: int
    seconds: float
    latency_us: tuple[int, ...]

    def percentile(self, q: float) -> int | None:
        """Microseconds; None without a probe."""
        return int(np.percentile(self.latency_us, q)) if self.latency_us else None


def send(on: Stage, earth: World, acts: Behaviours, uids: Sequence[Uid], advance: Callable[[int], None]) -> Sent:
    """Send acts through the stage's collector and stream; returns once the bidder can read all of them.

    uids: pseudonyms in the order of the world. The stage's store must be open. Raises TagbidError when an event is
    refused or not readable in time.
    """
    catalogue = open_catalogue(on.folder)
    try:
        catalogue.add_advertiser(SOURCE, time.time_ns() // 1000)
        key = catalogue.issue_key(SOURCE, time.time_ns() // 1000, scopes=("events",))
    finally:
        catalogue.close()
    bodies = [msgspec.json.encode(items) for items in batches(earth, acts)]
    with stage.store(on) as store, stage.streamer(on), stage.dmp(on) as collector, _Probe(store.sync()) as probe:
        host = urlsplit(collector.url)
        line = http.client.HTTPConnection(host.hostname or "", host.port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        began = time.monotonic()
        for n, body in enumerate(bodies):
            time.sleep(max(0.0, began + n * BATCH / RATE - time.monotonic()))
            line.request("POST", "/v1/events", body, headers)
            answer = line.getresponse()
            told = msgspec.json.decode(answer.read())
            if answer.status != 202 or told["refused"]:
                raise TagbidError(f"the collector answered {answer.status} to good events: {told}")
            if n % PROBE_EVERY == 0 or n == len(bodies) - 1:
                last = min((n + 1) * BATCH, len(acts.user)) - 1
                probe.wait_for(uids[int(acts.user[last])], int(acts.time_us[last]))
            advance(told["accepted"])
        seconds = time.monotonic() - began
        line.close()
        latency_us = probe.done()
        children.wait_until(collector.child, lambda: probe.drained(on.dmp.stream.partitions), TIMEOUT_S)
    return Sent(len(acts.user), round(seconds, 2), latency_us)


def batches(earth: World, acts: Behaviours) -> list[list[dict[str, Any]]]:
    """Acts as the collector takes them, BATCH a request."""
    items = []
    columns = (acts.user, acts.kind, acts.vertical, acts.time_us, acts.site, acts.value_micros)
    for n, (user, kind, vertical, time_us, site, value) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        id_type, raw = world.raw_id(earth, user)
        item = {
            "kind": KINDS[kind][0],
            "event_id": f"now-{n}",
            "id": raw,
            "id_type": id_type,
            "time_us": time_us,
            "consent": CONSENT_ALL,
            "category": VERTICALS[vertical][0],
        }
        if site >= 0:
            item["site"] = world.domain(earth, site)
        if value:
            item["value_micros"] = value
        items.append(item)
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


class _Probe:
    """Waits, in a thread of its own, until events can be read in their users' records."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._wanted: SimpleQueue[tuple[Uid, int, float] | None] = SimpleQueue()
        self._latency_us: list[int] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted.put(None)
        self._thread.join(TIMEOUT_S)
        self._client.close()

    def wait_for(self, uid: Uid, time_us: int) -> None:
        """The user's event of that time has just been acknowledged."""
        self._wanted.put((uid, time_us, time.monotonic()))

    def drained(self, partitions: int) -> bool:
        """Whether the stream holds nothing that is not in a record yet."""
        lags = [streams.lag(self._client, partition, time.time_ns() // 1_000_000) for partition in range(partitions)]
        return not any(lag.waiting or lag.pending for lag in lags)

    def done(self) -> tuple[int, ...]:
        """Every wait in µs; raises TagbidError when one was in vain."""
        wanted = self._wanted
        wanted.put(None)
        self._thread.join(TIMEOUT_S)
        if self._thread.is_alive() or not wanted.empty():
            raise TagbidError(f"an acknowledged event was not in its user's record after {TIMEOUT_S:.0f} s")
        return tuple(self._latency_us)

    def _look(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            uid, time_us, since_s = wanted
            while time.monotonic() - since_s < TIMEOUT_S:
                record: Any = self._client.get(keys.realtime(uid))
                if record is not None and realtime.last_seen_us(realtime.decode(record)) >= time_us:
                    self._latency_us.append(int((time.monotonic() - since_s) * 1e6))
                    break
                time.sleep(0.001)


def records(client: redis.Redis, uids: Sequence[Uid]) -> dict[Uid, Realtime]:
    """The real-time records of those users who have one."""
    found: dict[Uid, Realtime] = {}
    for start in range(0, len(uids), BATCH):
        part = uids[start : start + BATCH]
        values: Any = client.mget([keys.realtime(uid) for uid in part])
        found |= {uid: realtime.decode(data) for uid, data in zip(part, values, strict=True) if data is not None}
    return found


def copy(client: redis.Redis, of: Mapping[Uid, Realtime]) -> None:
    """Give users these records in another store."""
    pipe = client.pipeline(transaction=False)
    for uid, record in of.items():
        pipe.set(keys.realtime(uid), record.data, ex=realtime.IDLE_S)
    pipe.execute()
