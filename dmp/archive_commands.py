"""`tagbid dmp archive`: the event stream into Parquet files."""

import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from dmp import config as configuration
from dmp import store
from dmp.config import DmpConfig
from dmp.forgotten import Forgotten

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
        client = tags.sync(timeout_s=30)
        with archives.opened(folder, client, settings.stream.partitions, Forgotten(settings.data_dir)) as archive:
            start, since = archive.state, time.monotonic()
            if not once:
                typer.echo(f"ready {folder}")
            while not stop.is_set():
                new = archive.read(1 if once else BLOCK_MS)
                if archive.rows >= rows or (archive.rows and time.monotonic() - since >= seconds) or (once and not new):
                    archive.flush()
                    since = time.monotonic()
                if once and not new:
                    break
            archive.flush()
            done = archive.state
        client.close()
    new, broken = done.events - start.events, done.broken - start.broken
    if as_json:
        told = {"archived": new, "in_all": done.events, "broken": broken, "folder": str(folder)}
        typer.echo(msgspec.json.encode(told))
        return
    console.print(f"{new:,} events archived, {done.events:,} in all, in {folder}", markup=False)
    if broken:
        place = folder / archives.QUARANTINE
        console.print(f"{broken:,} records are no events: see {place}", style="yellow", markup=False)
