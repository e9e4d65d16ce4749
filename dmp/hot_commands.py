"""`tagbid dmp hot`: topics that break out."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp import config as configuration
from dmp import store, trends
from dmp.config import DmpConfig

console = Console()


def hot(
    events: Annotated[
        Path | None, typer.Argument(help="Folder of event files; default: events in the data directory.")
    ] = None,
    publish: Annotated[bool, typer.Option(help="Tell the store, where trigger rules (`acted hot`) find them.")] = True,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Find categories and keywords whose rate broke out in the last whole hour: what, when, and among whom."""
    from dmp import hot as topics
    from dmp.offline import live_tags

    settings = configuration.load("dmp", DmpConfig, config)
    source = events or Path(settings.data_dir) / "events"
    now_us = time.time_ns() // 1000
    with store.open_store(settings) as tags:
        client = tags.sync()
        found = topics.find(source, now_us, live_tags(settings, client), settings.min_insight)
        if publish:
            trends.publish(client, found, now_us)
        client.close()
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
