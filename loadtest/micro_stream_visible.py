"""How soon an event counts: from when it should have been sent to its being in the record that a bidder reads.

Collector, consumer and store are the processes an operator starts, on the cores there are; the sender shares them. What
all of that together carries is measured first, by a sender that never lets more than `MOST_AHEAD` events be accepted
and not applied: a faster one would only take the cores away from those who work. Then half of that rate is sent
open-loop, each request at its moment whatever became of those before, and the time counts from that moment.

Every request's first event is of a user nobody else's event is of: a probe. A process of its own looks for the probes
that are due, so that looking delays neither sending nor working.
"""

import http.client
import multiprocessing
import multiprocessing.connection
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from dmp import keys
from dmp.catalogue import open_catalogue
from dmp.pseudonym import KeyRing
from dmp.schema import Uid
from dmp.store import Store
from loadtest import driver, stage
from loadtest.load import Load
from loadtest.stage import Stage

BATCH = 100
MOST_AHEAD = 40 * BATCH
LOOK_S = 0.002
WINDOW = 64  # probes looked for at a time: they become visible in about the order they were sent
PATIENCE_S = 20.0
KEY = bytes(range(32))


class Visible(msgspec.Struct, frozen=True):
    """capacity_events_s: what sender, collector, consumer and store carry together on this machine. events_s: half of
    it, at which p50_us and p99_us were measured, from the intended send time; accepted_p99_us: the 202. unseen: probes
    that were not accepted or never came.
    """

    capacity_events_s: int
    events_s: int
    p50_us: int
    p99_us: int
    accepted_p99_us: int
    unseen: int


def measure(seconds: float) -> Visible:
    """seconds: of sending, for the capacity and again at half of it."""
    with tempfile.TemporaryDirectory(prefix="tagbid-visible-") as folder:
        root = Path(folder)
        on = Stage(root / "data", KEY, root / "campaigns.toml", root / "models")
        with stage.store(on) as store:
            catalogue, now_us = open_catalogue(on.folder), time.time_ns() // 1000
            catalogue.add_advertiser("bench", now_us)
            key = catalogue.issue_key("bench", now_us, ("events",))
            catalogue.close()
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            with stage.dmp(on) as collector, stage.streamer(on):
                capacity = _carried(store, on.dmp.stream.partitions, collector.url, headers, seconds)
                return _at(store, collector.url, headers, capacity, seconds)


def _carried(store: Store, partitions: int, url: str, headers: dict[str, str], seconds: float) -> float:
    """Events a second, from sent to applied."""
    client, host = store.sync(), urlsplit(url)
    line = http.client.HTTPConnection(host.hostname or "", host.port, timeout=30)
    bodies = [_body("carried", number) for number in range(500)]
    sent = number = 0
    began_s, warm = time.monotonic(), 0.25 * seconds
    first: tuple[float, int] | None = None
    while (now_s := time.monotonic()) - began_s < warm + seconds:
        applied = _applied(client, partitions)
        if first is None and now_s - began_s >= warm:
            first = (now_s, applied)
        if sent - applied > MOST_AHEAD:
            time.sleep(0.001)
            continue
        body = bodies[number % len(bodies)].replace(b"carried", b"%07d" % (number // len(bodies)))
        line.request("POST", "/v1/events", body, headers)
        answer = line.getresponse()
        answer.read()
        if answer.status == 202:
            sent += BATCH
        number += 1
    line.close()
    assert first is not None  # noqa: S101 - the loop lasts longer than its warm-up
    return (_applied(client, partitions) - first[1]) / (time.monotonic() - first[0])


def _at(store: Store, url: str, headers: dict[str, str], capacity: float, seconds: float) -> Visible:
    ring = KeyRing(KEY)
    rate = capacity / 2 / BATCH
    bodies = [_body("visible", number) for number in range(max(20, round(rate * seconds)))]
    probes = [ring.uid("cookie", _probe("visible", number)) or b"" for number in range(len(bodies))]
    due_ns: dict[int, int] = {}
    accepted_us: list[int] = []

    def answered(request: int, status: int, _: bytes, latency_us: int) -> None:
        if status == 202:
            due_ns[request] = time.monotonic_ns() - 1000 * latency_us
            accepted_us.append(latency_us)

    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    watcher = multiprocessing.get_context("spawn").Process(target=_watch, args=(store.url, probes, theirs), daemon=True)
    watcher.start()
    try:
        ours.recv()  # it looks now
        driver.play(
            Load(f"{url}/v1/events", bodies, rate, len(bodies) / rate, count=len(bodies), headers=headers,
                 patience_ms=10_000),
            on_answer=answered,
        )  # fmt: skip
        ours.send(None)
        seen_ns: dict[int, int] = ours.recv() if ours.poll(2 * PATIENCE_S) else {}
    finally:
        watcher.kill()
        watcher.join()
    waits_us = [(seen_ns[request] - since) // 1000 for request, since in due_ns.items() if request in seen_ns] or [-1]
    return Visible(
        capacity_events_s=round(capacity),
        events_s=round(rate * BATCH),
        p50_us=int(np.percentile(waits_us, 50)),
        p99_us=int(np.percentile(waits_us, 99)),
        accepted_p99_us=int(np.percentile(accepted_us or [-1], 99)),
        unseen=len(bodies) - len(due_ns.keys() & seen_ns.keys()),
    )


def _watch(url: str, probes: Sequence[Uid], line: "multiprocessing.connection.Connection[Any, Any]") -> None:
    """Look for the probes until the other side says that all were sent and none is left, or none comes any more."""
    client = Store(url).sync()
    seen_ns: dict[int, int] = {}
    waiting = list(range(len(probes)))
    all_sent, moved_s = False, time.monotonic()
    line.send(None)
    while waiting and not (all_sent and time.monotonic() - moved_s > PATIENCE_S):
        looked = waiting[:WINDOW]
        records: Any = client.mget([keys.realtime(probes[number]) for number in looked])
        now_ns = time.monotonic_ns()
        if found := {number for number, record in zip(looked, records, strict=True) if record is not None}:
            seen_ns |= dict.fromkeys(found, now_ns)
            waiting = [number for number in waiting[:WINDOW] if number not in found] + waiting[WINDOW:]
            moved_s = time.monotonic()
        if not all_sent and line.poll():
            line.recv()
            all_sent, moved_s = True, time.monotonic()
        time.sleep(LOOK_S)
    line.send(seen_ns)


def _applied(client: Any, partitions: int) -> int:
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        pipe.hget(keys.event_counts(partition), "applied")
    return sum(int(count or 0) for count in pipe.execute())


def _probe(name: str, batch: int) -> str:
    return f"probe-{name}-{batch:06}"


def _body(name: str, batch: int) -> bytes:
    """A hundred events, the first of a user of its own, the others of users who come back every 50 requests."""
    return msgspec.json.encode(
        [
            {
                "kind": "cart" if number % 10 == 0 else "view",
                "event_id": f"{name}-{batch}-{number}",
                "id": _probe(name, batch) if number == 0 else f"user-{(batch * BATCH + number) * 7919 % 5_000:06}",
                "id_type": "cookie",
                "gdpr": 0,
                "consent": 7,
                "category": ("Automotive", "Travel", "Music")[number % 3],
            }
            for number in range(BATCH)
        ]
    )
