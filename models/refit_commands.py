"""`tagbid models refit`: hourly, between two trainings, new leaf values for the live click model."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from dmp import config as configuration
from models.config import ModelsConfig

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]


def refit(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk) of bids, impressions and clicks.")],
    archive: Annotated[
        Path | None, typer.Option(help="As for `train`, so that joined days are shared with it.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where joined days are kept for the next time; default: in models_dir.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Publish even when the gate refuses.")] = False,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Refresh the live click model's leaves from impressions since its data end; run it hourly between trainings.

    Impressions count by what they tell, half as much after a week, so an hour moves leaves a little; the level of all
    click rates follows about twenty times as fast. Publishes when normalised entropy gains more than 0.1 % on the
    newest third of the new impressions and the gate agrees; else exits with 1 and the live model stays.
    `tagbid models rollback` makes the model that was refitted live again.
    """
    from models import joining, refitting

    settings = configuration.load("models", ModelsConfig, config)
    root = Path(settings.models_dir)
    log = joining.frame_of(bidlog, cache or root / "cache", archive, click_wait_us=settings.click_wait_s * 1_000_000)
    found = refitting.refit(log.frame, root, now_us=time.time_ns() // 1000, force=force)
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        console = Console()
        console.print(
            f"refit of {found.parent} on {found.rows[0]:,} impressions with {found.clicks[0]:,} clicks, judged on "
            f"{found.rows[1]:,} with {found.clicks[1]:,}: gain {found.gain.value:+.2%} ± {found.gain.se:.2%}",
            markup=False,
        )
        console.print(f"live: {found.version}" if found.version else "not published", markup=False)
        if found.refused:
            console.print(f"the gate: {found.refused}", markup=False)
    if found.version is None:
        raise typer.Exit(1)
