"""`tagbid dmp hot`: topics that break out."""

import signal
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import redis
import typer
from rich.console import Console
from rich.table import Table

from dmp import config as configuration
from dmp import store, trends
from dmp.config import DmpConfig
from dmp.errors import BadEvents, StoreUnavailable
from dmp.trends import Hot

console = Console()


def hot(
    events: Annotated[
        Path | None, typer.Argument(help="Folder of event files; default: events in the data directory.")
    ] = None,
    publish: Annotated[
        bool, typer.Option(help="Tell the store, where trigger rules (`acted hot`) and bidders find them.")
    ] = True,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until stopped.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks with --watch.")] = 600.0,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Find categories and keywords whose rate broke out in the last whole hour: what, when, and among whom.

    Campaigns with `hot = true` are shown on pages about these until they are over.
    """
    from dmp import hot as topics
    from dmp.offline import live_tags

    settings = configuration.load("dmp", DmpConfig, config)
    source = events or Path(settings.data_dir) / "events"
    stop, errors = threading.Event(), Console(stderr=True)
    if watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    with store.open_store(settings) as tags:
        client = tags.sync()
        try:
            while not stop.is_set():
                now_us = time.time_ns() // 1000
                try:
                    found = topics.find(source, now_us, live_tags(settings, client), settings.min_insight)
                    if publish:
                        trends.publish(client, found, now_us)
                except redis.RedisError as error:
                    if not watch:
                        raise StoreUnavailable(f"the tag store went away ({error}); run this again") from None
                    errors.print(f"waiting: the tag store does not answer ({error})", markup=False)
                except BadEvents as error:  # nothing archived yet
                    if not watch:
                        raise
                    errors.print(f"waiting: {error}", markup=False)
                else:
                    _show(found, as_json)
                if not watch or stop.wait(every):
                    break
        finally:
            client.close()


def _show(found: Sequence[Hot], as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    table = Table("topic", "z", "events", "usual", "users", "hot", "among them more often")
    for one in found:
        span = " to ".join(
            f"{datetime.fromtimestamp(us / 1e6, UTC):%d %b %H:%M}" for us in (one.since_us, one.until_us)
        )
        more = ", ".join(f"{name} +{lift} %" for name, lift in one.among.items())
        table.add_row(one.topic, f"{one.z:.1f}", f"{one.n:,}", f"{one.usual:g}", f"{one.users:,}", span, more)
    console.print(table)
    console.print(f"{len(found)} hot topics; times are UTC, users are rounded", highlight=False)
