"""From an event to a tag, timed: `tagbid loadtest micro stream`.

Five parts, each on a store of its own: events through the processor; events over HTTP in batches of 100; how soon an
event is in the record a bidder reads, at half of what the machine carries; tag lookups at half of what it answers;
consumers killed every second. Events per core are per second of CPU time, so that others on the machine matter little;
what the machine carries or answers is by the clock, in the same run as the latencies at half of it.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from dmp import archive, keys, realtime, realtime_batch, streams
from dmp.acts import understanding
from dmp.config import DmpConfig, StreamConfig
from dmp.store import Store, open_store
from dmp.stream import Counts, Entry, Processor
from loadtest import micro_http, micro_stream_visible
from loadtest.machine import Commit, Machine, commit, machine
from loadtest.micro_stream_crash import Crashes, crash_test, equal
from loadtest.micro_stream_world import batches, happened, users
from loadtest.scrape import cpu_s

TURN_ENTRIES = 8  # of 256 events: as a consumer that is behind takes them
PEOPLE = 20_000


class Figures(msgspec.Struct, frozen=True):
    """What was measured.

    stream_events_per_core_s: events into tags per CPU second of the processor, AOF everysec; with_store: of processor
    and store together. http_*, lookup_*: see `loadtest.micro_http`; lookup_users_s is the half of the capacity at which
    the latencies are. visible_*: see `loadtest.micro_stream_visible`; -1 when none was seen.
    batch_stream_mismatches: users whose record from the archive is another than the stream's.
    """

    commit: Commit
    machine: Machine
    at: str
    scale: float
    stream_events_per_core_s: int
    stream_events_per_core_s_with_store: int
    stream_users_per_turn: float
    record_bytes_p50: int
    http_events_per_core_s: int
    visible_capacity_events_s: int
    visible_events_s: int
    visible_p50_us: int
    visible_p99_us: int
    visible_unseen: int
    lookup_users_s: int
    lookup_p50_us: int
    lookup_p99_us: int
    crash_test: Crashes
    batch_stream_mismatches: int


def run(scale: float, say: Console) -> Figures:
    """scale: 1 is a million events under kills, and in proportion for the other parts."""
    with TemporaryDirectory(prefix="tagbid-stream-") as folder:
        home = Path(folder)
        say.print("processor")
        with _store(home / "processor") as (store, config):
            stream = _processor(store, config, max(4_000, round(400_000 * scale)))
            say.print("archive and batch")
            differing = _differing(store, config, home / "archive")
        say.print("HTTP and lookups")
        http = micro_http.measure(max(5_000, round(200_000 * scale)), max(20, round(500 * scale)))
        say.print("visibility")
        visible = micro_stream_visible.measure(max(2.0, 20 * scale))
        say.print("crash test")
        with _store(home / "crash") as (store, config):
            events = max(5_000, round(1_000_000 * scale))
            crashes = crash_test(store, config, events, max(200, events // 20))
    return Figures(
        commit=commit(),
        machine=machine(),
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        scale=scale,
        **stream,
        visible_capacity_events_s=visible.capacity_events_s,
        visible_events_s=visible.events_s,
        visible_p50_us=visible.p50_us,
        visible_p99_us=visible.p99_us,
        visible_unseen=visible.unseen,
        http_events_per_core_s=http.http_events_per_core_s,
        lookup_users_s=http.lookup_capacity_s // 2,
        lookup_p50_us=http.lookup_p50_us,
        lookup_p99_us=http.lookup_p99_us,
        crash_test=crashes,
        batch_stream_mismatches=differing,
    )


def table(found: Figures) -> Table:
    """The figures for people."""
    shown = Table("", "", "aim", title=f"{found.at}, {found.machine.cpu}, scale {found.scale:g}")
    crash = found.crash_test
    for name, value, aim in (
        ("events into tags, per core and second", f"{found.stream_events_per_core_s:,}", "20,000"),
        ("the same, the store's CPU counted too", f"{found.stream_events_per_core_s_with_store:,}", ""),
        ("users a turn; bytes of a record, p50", f"{found.stream_users_per_turn:,.0f}; {found.record_bytes_p50:,}", ""),
        ("events over HTTP, per core and second", f"{found.http_events_per_core_s:,}", "10,000"),
        ("events a second that all parts carry together", f"{found.visible_capacity_events_s:,}", ""),
        (f"sent to visible at half, {found.visible_events_s:,}/s, p50", f"{found.visible_p50_us / 1000:,.1f} ms", ""),
        ("the same, p99", f"{found.visible_p99_us / 1000:,.1f} ms", "1,000 ms"),
        (f"lookup of 100 users, {found.lookup_users_s:,} users/s, p50", f"{found.lookup_p50_us / 1000:,.2f} ms", ""),
        ("the same, p99", f"{found.lookup_p99_us / 1000:,.2f} ms", "5 ms"),
        (f"{crash.events:,} events, {crash.kills} kills: wrong users", str(crash.mismatches), "0"),
        ("redelivered events found done", f"{crash.redelivered:,}", ""),
        ("users whose batch differs from the stream", str(found.batch_stream_mismatches), "0"),
    ):
        shown.add_row(name, value, aim)
    return shown


@contextlib.contextmanager
def _store(home: Path) -> Iterator[tuple[Store, DmpConfig]]:
    with open_store(DmpConfig(data_dir=str(home))) as store:
        assert store.server is not None  # noqa: S101 - a new folder has no other server
        yield store, DmpConfig(data_dir=str(home), redis_url=store.url, stream=StreamConfig(partitions=1))


def _processor(store: Store, config: DmpConfig, events: int) -> dict[str, Any]:
    client = store.sync(timeout_s=30.0)
    people = users(PEOPLE, 1)
    streams.ensure_groups(client, 1)
    now_us = time.time_ns() // 1000
    for batch in batches(happened(people, events, now_us, 1), 8_192):
        streams.append_events(client, batch, 1, now_us)
    assert store.server is not None  # noqa: S101 - see _store
    processor = Processor(client, understanding({}), config.stream.lateness_s)
    counts, turns, key = Counts(), 0, keys.events(0)
    before_s, store_before_s = time.process_time(), cpu_s([store.server.pid])
    while True:
        found: Any = client.xreadgroup(streams.TAGS, "bench", {key: ">"}, count=TURN_ENTRIES)
        if not found:
            break
        entries = [
            Entry(name, streams.parse_id(name.decode())[0], tuple(fields.values())) for name, fields in found[0][1]
        ]
        counts.add(processor.apply(entries, int(time.time())).counts)
        client.xack(key, streams.TAGS, *(entry.id for entry in entries))
        turns += 1
    own_s, store_s = time.process_time() - before_s, cpu_s([store.server.pid]) - store_before_s
    processor.close()
    sizes = [int(client.strlen(keys.realtime(uid))) for uid in people[:1_000]]
    return {
        "stream_events_per_core_s": round(counts.applied / own_s),
        "stream_events_per_core_s_with_store": round(counts.applied / (own_s + store_s)),
        "stream_users_per_turn": round(counts.users / turns, 1),
        "record_bytes_p50": round(statistics.median(size for size in sizes if size)),
    }


def _differing(store: Store, config: DmpConfig, folder: Path) -> int:
    """Users whose record the batch makes otherwise from the archive of the same events."""
    client = store.sync(timeout_s=30.0)
    with archive.opened(folder, client, 1) as it:
        while it.read(1):
            pass
        it.flush()
    understand, wrong = understanding({}), 0
    for uid, rows in realtime_batch.read(folder).items():
        expected = realtime_batch.record(
            realtime_batch.counted(rows, understand, config.stream.lateness_s, late_too=False)
        )
        data: Any = client.get(keys.realtime(uid))
        wrong += not equal(None if data is None else realtime.parts(realtime.decode(data)), expected)
    return wrong


def write(found: Figures, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
