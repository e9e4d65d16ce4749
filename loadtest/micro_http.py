"""What the DMP's door takes: events over HTTP per core, and tag lookups at half their capacity.

The server is `tagbid dmp serve` as an operator starts it, on a store of its own; CPU is what the server process used,
so that a sender beside it costs time and not the figure.
"""

import http.client
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from dmp import keys, realtime
from dmp.catalogue import open_catalogue
from dmp.codec import encode_profile
from dmp.pseudonym import KeyRing
from dmp.realtime import Parts
from dmp.schema import Tag
from dmp.taxonomy import INTERESTS
from loadtest import scrape, stage
from loadtest.stage import Running, Stage

KEY = bytes(range(32))
BATCH = 100
USERS = 20_000
TAGS_EACH, LATELY = 30, 8


class HttpFigures(msgspec.Struct, frozen=True):
    """http_events_per_core_s: per CPU second of the server; http_events_s: by the clock, one sender. lookup_capacity_s:
    users a second, asked for 100 at a time by one caller; lookup_cpu_us: the server's, of one such question;
    lookup_p50_us, lookup_p99_us: of one, asked at half that rate. store: what durability was on.
    """

    events: int
    http_events_per_core_s: int
    http_events_s: int
    lookups: int
    lookup_capacity_s: int
    lookup_cpu_us: int
    lookup_p50_us: int
    lookup_p99_us: int
    store: str = "append-only file, fsync every second"


def measure(events: int, questions: int, advance: Callable[[str, int], None] = lambda step, n: None) -> HttpFigures:
    """events: sent in batches of 100. questions: of 100 ids each, first as fast as they go, then at half the rate."""
    with tempfile.TemporaryDirectory(prefix="tagbid-http-") as folder:
        root = Path(folder)
        on = Stage(root / "data", KEY, root / "campaigns.toml", root / "models")
        with stage.store(on) as store:
            client = store.sync()
            _people(client, KeyRing(KEY))
            catalogue = open_catalogue(on.folder)
            catalogue.add_advertiser("bench", 1)
            key = catalogue.issue_key("bench", 1, scopes=("events", "tags"))
            catalogue.close()
            with stage.dmp(on) as server:
                line = _Line(server, key)
                for body in _bodies(20, "warm"):
                    line.post("/v1/events", body, 202)
                bodies = list(_bodies(events // BATCH, "e"))
                cpu_s, began_s = scrape.cpu_s([server.child.process.pid]), time.monotonic()
                for body in bodies:
                    line.post("/v1/events", body, 202)
                    advance("events", BATCH)
                took_s = time.monotonic() - began_s
                used_s = scrape.cpu_s([server.child.process.pid]) - cpu_s
                client.delete(*map(keys.events, range(on.dmp.stream.partitions)))
                asked = [_question(n) for n in range(questions)]
                cpu_s, began_s = scrape.cpu_s([server.child.process.pid]), time.monotonic()
                for question in asked:
                    line.post("/v1/tags:lookup", question, 200)
                    advance("lookups", BATCH)
                capacity_s = questions * BATCH / (time.monotonic() - began_s)
                lookup_cpu_s = scrape.cpu_s([server.child.process.pid]) - cpu_s
                latency_us = _paced(line, asked, capacity_s / BATCH / 2, advance)
            client.close()
    sent = len(bodies) * BATCH
    return HttpFigures(
        events=sent,
        http_events_per_core_s=round(sent / max(used_s, 1e-3)),
        http_events_s=round(sent / took_s),
        lookups=questions * BATCH,
        lookup_capacity_s=round(capacity_s),
        lookup_cpu_us=round(1e6 * lookup_cpu_s / questions),
        lookup_p50_us=int(np.percentile(latency_us, 50)),
        lookup_p99_us=int(np.percentile(latency_us, 99)),
    )


class _Line:
    """A connection that is kept open."""

    def __init__(self, server: Running, key: str) -> None:
        host = urlsplit(server.url)
        self._line = http.client.HTTPConnection(host.hostname or "", host.port, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def post(self, path: str, body: bytes, expected: int) -> None:
        self._line.request("POST", path, body, self._headers)
        answer = self._line.getresponse()
        told = answer.read()
        if answer.status != expected:
            raise RuntimeError(f"{path} answered {answer.status}: {told[:200]!r}")


def _paced(line: _Line, asked: list[bytes], rate: float, advance: Callable[[str, int], None]) -> list[int]:
    """Latencies in µs from the time a question should have been sent, so that a late answer delays nobody's clock."""
    began_s, latency_us = time.monotonic(), []
    for n, question in enumerate(asked):
        due_s = began_s + n / rate
        time.sleep(max(0.0, due_s - time.monotonic()))
        line.post("/v1/tags:lookup", question, 200)
        latency_us.append(int((time.monotonic() - due_s) * 1e6))
        advance("lookups at half the rate", BATCH)
    return latency_us


def _bodies(n: int, name: str) -> Iterator[bytes]:
    kinds = itertools.cycle(("view", "view", "view", "search", "cart"))
    categories = itertools.cycle(("travel", "fashion", "beauty", "food", "sports"))
    numbers = itertools.count()
    for _ in range(n):
        items: list[dict[str, Any]] = [
            {
                "kind": next(kinds),
                "event_id": f"{name}-{(number := next(numbers))}",
                "id": f"user-{number * 7919 % USERS}",
                "consent": 7,
                "category": next(categories),
                "site": "shop.example",
            }
            for _ in range(BATCH)
        ]
        yield msgspec.json.encode(items)


def _question(n: int) -> bytes:
    ids = [{"id": f"user-{(n * BATCH + i) * 7919 % USERS}", "gdpr": 0} for i in range(BATCH)]
    return msgspec.json.encode({"ids": ids})


def _people(client: Any, ring: KeyRing) -> None:
    """USERS users with TAGS_EACH long-term tags each; every second one did something lately, with LATELY tags."""
    client.set(keys.GENERATION, 1)
    now_us = time.time_ns() // 1000
    sums = dict.fromkeys(INTERESTS[:LATELY], (3.0, 3.0, 3.0))
    lately = realtime.encode(Parts(nonce=bytes(8), newest_us=now_us, sums=sums))
    record = encode_profile(1, [Tag(tag, 50, 20_000, 1) for tag in INTERESTS[:TAGS_EACH]])
    pipe = client.pipeline(transaction=False)
    for n in range(USERS):
        uid = ring.uid("cookie", f"user-{n}")
        if uid is not None:
            pipe.set(keys.profile(uid, 0), record)
            if n % 2:
                pipe.set(keys.realtime(uid), lately)
    pipe.execute()
