"""`tagbid dmp archive`: the event stream into Parquet files."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import redis
import typer
from rich.console import Console

from dmp import config as configuration
from dmp import store
from dmp.config import DmpConfig
from dmp.errors import StoreUnavailable
from dmp.forgotten import Forgotten
from dmp.outages import FIRST_PAUSE_S, LONGEST_PAUSE_S, passes

if TYPE_CHECKING:  # loads pyarrow, which only the command itself should wait for
    from dmp.archive import Archive

console = Console()
BLOCK_MS = 200


def archive(
    into: Annotated[
        Path | None, typer.Option(help="Folder of event files; default: events in the data directory.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Write files after so many events ...")] = 50_000,
    seconds: Annotated[float, typer.Option(min=0, help="... or after so many seconds, whatever is first.")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Archive what is there now, and end.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write collected events to Parquet files for `build`, each once whatever crashes, until Ctrl-C or SIGTERM."""
    from dmp import archive as archives

    settings = configuration.load("dmp", DmpConfig, config)
    folder = into or Path(settings.data_dir) / "events"
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with store.open_store(settings) as tags:
        start: archives.State | None = None
        done, pause_s = archives.State(), FIRST_PAUSE_S
        while True:
            try:
                with _opened(tags, folder, settings) as archive:
                    if not once:
                        typer.echo(f"ready {folder}")
                    start, pause_s = start or archive.state, FIRST_PAUSE_S
                    try:
                        _work(archive, stop, rows, seconds, once)
                    finally:
                        done = archive.state
                break
            except redis.RedisError as error:
                if once or not passes(error):
                    raise StoreUnavailable(f"the tag store failed ({error}); nothing is lost: archive again") from None
                # What was read and not archived is owed to us still, and is read again first.
                why = f"the tag store does not answer ({error}); looking again in {pause_s:.1f} s"
                Console(stderr=True).print(why, style="red", markup=False, soft_wrap=True)
                if stop.wait(pause_s):
                    break
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    before = start or done
    new, broken = done.events - before.events, done.broken - before.broken
    if as_json:
        told = {"archived": new, "in_all": done.events, "broken": broken, "folder": str(folder)}
        typer.echo(msgspec.json.encode(told))
        return
    console.print(f"{new:,} events archived, {done.events:,} in all, in {folder}", markup=False)
    if broken:
        place = folder / archives.QUARANTINE
        console.print(f"{broken:,} records are no events: see {place}", style="yellow", markup=False)


@contextlib.contextmanager
def _opened(tags: store.Store, folder: Path, settings: DmpConfig) -> "Iterator[Archive]":
    from dmp import archive as archives

    with (
        contextlib.closing(tags.sync(timeout_s=30)) as client,
        archives.opened(folder, client, settings.stream.partitions, Forgotten(settings.data_dir)) as archive,
    ):
        yield archive


def _work(archive: "Archive", stop: threading.Event, rows: int, seconds: float, once: bool) -> None:
    """Archive until told to stop, or until nothing is left."""
    since = time.monotonic()
    while not stop.is_set():
        new = archive.read(1 if once else BLOCK_MS)
        if archive.rows >= rows or (archive.rows and time.monotonic() - since >= seconds) or (once and not new):
            archive.flush()
            since = time.monotonic()
        if once and not new:
            break
    archive.flush()
