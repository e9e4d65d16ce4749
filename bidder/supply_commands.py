"""`tagbid bidder supply`: learn from the bid log when auctions come."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from bidder.config import BidderConfig
from dmp import config as configuration


def supply(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk).")],
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Learn in which hours of a week auctions come, for spend plans; once a day, bidders take it up by themselves."""
    from bidder import supply_week

    models_dir = Path(configuration.load("bidder", BidderConfig, config).models_dir)
    with Console(stderr=True).status("reading the bid log"):
        week = supply_week.learn(supply_week.load(models_dir), bidlog, time.time_ns() // 1000)
    supply_week.save(models_dir, week)
    if as_json:
        typer.echo(msgspec.json.encode(week))
        return
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    for name, hours in zip(names, week.hours, strict=True):
        told = f"{sum(hours):,.0f} auctions, most at {hours.index(max(hours)):02d} h UTC" if hours else "not known yet"
        Console().print(f"{name}: {told}", markup=False)
