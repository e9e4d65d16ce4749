"""`tagbid dmp keys`: the keys of the pseudonyms."""

import time
from getpass import getuser
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp import audit, rotation
from dmp import config as configuration
from dmp.audit import Entry
from dmp.config import DmpConfig
from dmp.rotation import Key

app = typer.Typer(no_args_is_help=True, help="Keys of the pseudonyms: two readable at most, one that writes.")
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command("list")
def list_keys(config: ConfigFile = None, as_json: Json = False) -> None:
    """Show which keys are readable, by their ids."""
    _tell(rotation.readable(_data_dir(config)), as_json)


@app.command()
def rotate(config: ConfigFile = None, as_json: Json = False) -> None:
    """Write under a new key from now on, and go on reading under the present one. Restart what runs afterwards.

    Users are carried to their new pseudonyms by their next events. Leave the former key for as long as profiles live
    without an event (30 days), then retire it.
    """
    found = rotation.rotate(_data_dir(config))
    _audit(config, "rotate key", found[0])
    _tell(found, as_json)


@app.command()
def retire(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, config: ConfigFile = None) -> None:
    """Destroy the former key: what is still under it can never be linked to anybody again, refusals included."""
    if not yes:
        typer.confirm(
            "Refusals and profiles of users not seen since the rotation are lost. Destroy the key?", abort=True
        )
    gone = rotation.retire(_data_dir(config))
    _audit(config, "retire key", gone)
    console.print(f"key {gone.id} is destroyed; restart what runs")


def _data_dir(config: Path | None) -> Path:
    return Path(configuration.load("dmp", DmpConfig, config).data_dir)


def _audit(config: Path | None, what: str, key: Key) -> None:
    audit.record(str(_data_dir(config)), Entry(time.time_ns() // 1000, getuser(), what, key.id))


def _tell(found: list[Key], as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    table = Table("key", "use")
    for key in found:
        table.add_row(key.id, key.use)
    console.print(table)
