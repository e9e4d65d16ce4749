"""`tagbid dmp stream`: the consumers that turn events into real-time tags, and how they are doing."""

import multiprocessing
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import msgspec
import redis
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dmp import config as configuration
from dmp import keys, streams
from dmp.clustered import node
from dmp.config import DmpConfig
from dmp.consumer import work
from dmp.rules import load
from dmp.store import Store, open_store
from dmp.stream import Counts

app = typer.Typer(invoke_without_command=True, help="Events into real-time tags.")
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, a line each time.")]
RESTART_S = 1.0  # a consumer that dies is replaced, but no faster than this


class Status(msgspec.Struct, frozen=True):
    """All partitions together. at_ms: unix milliseconds. counts: events by what became of them, ever. behind_ms: of the
    partition that is furthest behind. consumers: alive.
    """

    at_ms: int
    consumers: int
    behind_ms: int
    waiting: int
    pending: int
    late_waiting: int
    counts: Counts
    partitions: tuple[streams.Lag, ...]


def status_of(client: redis.Redis, partitions: int, now_ms: int) -> Status:
    """What the store says of the stream now."""
    lags = tuple(streams.lag(node(client, keys.events(p)), p, now_ms) for p in range(partitions))
    counts = Counts()
    for partition in range(partitions):
        stored = client.hgetall(keys.event_counts(partition))
        counts.add(Counts(**{name: int(stored.get(name.encode(), 0)) for name in Counts.__struct_fields__}))
    return Status(
        at_ms=now_ms,
        consumers=int(client.zcard(keys.CONSUMERS)),
        behind_ms=max(lag.behind_ms for lag in lags),
        waiting=sum(lag.waiting for lag in lags),
        pending=sum(lag.pending for lag in lags),
        late_waiting=sum(lag.late for lag in lags),
        counts=counts,
        partitions=lags,
    )


@app.callback()
def stream(
    context: typer.Context,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Consumer processes.")] = 1,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two lines about how it goes.")] = 10.0,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Turn events into real-time tags until stopped; any number of these may run, here and elsewhere."""
    if context.invoked_subcommand is not None:
        return
    settings = configuration.load("dmp", DmpConfig, config)
    if settings.stream.rules:
        load(Path(settings.stream.rules))  # wrong ones are told here, once, and not by every consumer
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with open_store(settings) as store:
        client = store.sync()
        pool = [_started(store, settings) for _ in range(workers)]
        try:
            before, next_s = Counts(), time.monotonic() + every
            while not stop.wait(min(every, RESTART_S)):  # the dead are replaced soon, however seldom we tell
                pool = [one if one.is_alive() else _replaced(one, store, settings) for one in pool]
                if time.monotonic() >= next_s:
                    before, next_s = _tell(client, settings, before, every, as_json), next_s + every
        finally:
            for one in pool:
                one.terminate()
            for one in pool:
                one.join(10)


@app.command()
def status(config: ConfigFile = None, as_json: Json = False) -> None:
    """How far behind the stream is, and what became of the events so far."""
    settings = configuration.load("dmp", DmpConfig, config)
    with open_store(settings) as store:
        found = status_of(store.sync(), settings.stream.partitions, time.time_ns() // 1_000_000)
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    table = Table("partition", "waiting", "pending", "behind", "late", "held")
    for lag in found.partitions:
        behind = f"{lag.behind_ms / 1000:,.1f} s" if lag.behind_ms else ""
        table.add_row(
            str(lag.partition),
            *(f"{n:,}" for n in (lag.waiting, lag.pending)),
            behind,
            f"{lag.late:,}",
            f"{lag.length:,}",
        )
    console.print(table)
    became = ", ".join(
        f"{n:,} {name.replace('_', ' ')}" for name, n in msgspec.structs.asdict(found.counts).items() if n
    )
    console.print(f"{found.consumers} consumers; events so far: {became or 'none'}", highlight=False)


@app.command("settle")
def settle_command(
    folder: Annotated[
        Path | None, typer.Option("--from", help="The archive; default: events in the data directory.")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Count from the archive what the stream could not: late events, bursts. For every night, beside the consumers."""
    from dmp import decisions, settle
    from dmp.acts import understanding

    settings = configuration.load("dmp", DmpConfig, config)
    understand = understanding(decisions.replay(decisions.read(decisions.decisions_file(settings.data_dir))))
    columns = (TextColumn("settling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with open_store(settings) as store, Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        found = settle.settle(
            store.sync(timeout_s=30.0),
            folder or Path(settings.data_dir) / "events",
            settings.stream.partitions,
            understand,
            settings.stream.lateness_s,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        console.print(f"{found.users:,} users settled, {found.waiting:,} wait", highlight=False)


def _started(store: Store, settings: DmpConfig) -> BaseProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=work, args=(store.url, settings), daemon=True)
    process.start()
    return process


def _replaced(dead: BaseProcess, store: Store, settings: DmpConfig) -> BaseProcess:
    Console(stderr=True).print(f"a consumer ended with {dead.exitcode}; another takes its place", style="red")
    return _started(store, settings)


def _tell(client: redis.Redis, settings: DmpConfig, before: Counts, seconds: float, as_json: bool) -> Counts:
    """One line about how it goes; returns the counts told."""
    try:
        found = status_of(client, settings.stream.partitions, time.time_ns() // 1_000_000)
    except redis.exceptions.RedisError as error:
        Console(stderr=True).print(
            f"the tag store does not answer ({error}); waiting for it", style="red", markup=False
        )
        return before
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        sys.stdout.flush()
    else:
        rate = (found.counts.applied - before.applied) / seconds if before.applied else 0.0
        console.print(
            f"{rate:,.0f} events/s, {found.waiting + found.pending:,} entries waiting, "
            f"{found.behind_ms / 1000:.1f} s behind, {found.late_waiting:,} for the nightly batch",
            highlight=False,
        )
    return found.counts
