"""`tagbid dmp advertisers` and `tagbid dmp seeds`: who may use the door, their keys, and their uploads."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from dmp import config as configuration
from dmp.config import DmpConfig
from dmp.errors import DmpError

if TYPE_CHECKING:  # loads SQLAlchemy, which only the commands that need it should wait for
    from dmp.catalogue import Catalogue

console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SCOPES = ("seeds", "events", "events.link", "tags", "tags.longterm", "tags.realtime", "tags.audiences")
_SCOPES = ", ".join(SCOPES)
advertisers = typer.Typer(no_args_is_help=True, help="Who may upload: advertisers and their API keys.")
seed_files = typer.Typer(no_args_is_help=True, help="Audience seeds.")


@contextmanager
def catalogue_of(path: Path | None) -> "Iterator[Catalogue]":
    from dmp.catalogue import open_catalogue

    catalogue = open_catalogue(Path(configuration.load("dmp", DmpConfig, path).data_dir))
    try:
        yield catalogue
    finally:
        catalogue.close()


@advertisers.command("add")
def add_advertiser(
    advertiser: Annotated[str, typer.Argument(metavar="ID", help="Letters, digits, '_', '-', '.'.")],
    config: ConfigFile = None,
) -> None:
    """Add an advertiser and print its first API key, which is shown this once."""
    with catalogue_of(config) as catalogue:
        now_us = time.time_ns() // 1000
        catalogue.add_advertiser(advertiser, now_us)
        typer.echo(catalogue.issue_key(advertiser, now_us))


@advertisers.command("key")
def add_key(
    advertiser: Annotated[str, typer.Argument(metavar="ID")],
    days: Annotated[int, typer.Option(min=0, help="Days until it expires; 0: when revoked.")] = 0,
    scope: Annotated[list[str] | None, typer.Option(help=f"What it opens: {_SCOPES}; default seeds.")] = None,
    config: ConfigFile = None,
) -> None:
    """Print another API key of an advertiser, which is shown this once."""
    wanted = scope or ["seeds"]
    if unknown := set(wanted) - set(SCOPES):
        raise DmpError(f"no scope {', '.join(sorted(unknown))}; there are {_SCOPES}")
    with catalogue_of(config) as catalogue:
        now_us = time.time_ns() // 1000
        expires_us = now_us + days * 86_400_000_000 if days else 0
        typer.echo(catalogue.issue_key(advertiser, now_us, tuple(wanted), expires_us))


@advertisers.command("revoke")
def revoke_key(
    advertiser: Annotated[str, typer.Argument(metavar="ID")],
    key: Annotated[str, typer.Argument(help="The key, or its first nine characters.")],
    config: ConfigFile = None,
) -> None:
    """Revoke an API key; the next request with it is refused."""
    with catalogue_of(config) as catalogue:
        if not catalogue.revoke_keys(advertiser, key, time.time_ns() // 1000):
            raise DmpError(f"advertiser {advertiser!r} has no valid key that begins like this")


@seed_files.command("upload")
def upload_seed(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV of ids, plain or gzipped.")],
    advertiser: Annotated[str, typer.Option(help="Whose seed it is.")],
    name: Annotated[str, typer.Option(help="Name of the audience to grow.")],
    key: Annotated[str, typer.Option(envvar="TAGBID_KEY", help="API key; better given as TAGBID_KEY.")],
    url: Annotated[str, typer.Option(help="Where `tagbid dmp serve` listens.")] = "http://127.0.0.1:8100",
    id_type: Annotated[str, typer.Option(help="Type of all ids, for a file without the column id_type.")] = "",
    share_pct: Annotated[float, typer.Option(help="Size of the look-alike, per cent of the known users.")] = 5.0,
    include_seed: Annotated[bool, typer.Option(help="Make the seed's users members too.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a seed to a running server; `tagbid models expand` grows it into an audience."""
    from dmp.upload import upload

    query = {"name": name, "share_pct": str(share_pct), "include_seed": str(include_seed).lower()}
    if id_type:
        query["id_type"] = id_type
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=file.stat().st_size)
        told = asyncio.run(upload(file, url, key, advertiser, query, lambda size: bar.advance(task, size)))
    if as_json:
        typer.echo(msgspec.json.encode(told))
        return
    console.print(
        f"{told['audience']}: {told['uploaded']:,} lines, {told['invalid']:,} invalid, about {told['matched']:,} "
        f"known users (match rate {told['match_rate']:.0%}); {told['state']}"
    )
    for warning in told["warnings"]:
        console.print(f"[yellow]{warning}[/yellow]")
