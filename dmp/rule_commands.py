"""`tagbid dmp rules`: trigger rules over the stream."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp import config as configuration
from dmp import rules, taxonomy
from dmp.config import DmpConfig
from dmp.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Trigger rules over the event stream.")
console = Console()


@app.callback()
def group() -> None:
    """Trigger rules over the event stream."""


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="TOML file of rules; default: stream.rules of the settings.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Check trigger rules; names every problem and exits with 2 if there is one."""
    named = file or Path(configuration.load("dmp", DmpConfig, config).stream.rules or "")
    if named == Path():
        raise ConfigError("rules", ["no file: name one, or set stream.rules in the table [dmp]"])
    found = rules.load(named)
    if as_json:
        told = [{"name": one.name, "raise": effect(one), "for_s": one.for_us // 1_000_000} for one in found.rules]
        typer.echo(msgspec.json.encode({"rules": told, "zone": found.zone}))
        return
    table = Table("rule", "raises", "for")
    for one in found.rules:
        table.add_row(one.name, effect(one), f"{one.for_us // 1_000_000:,} s")
    console.print(table)
    console.print(f"{len(found.rules)} rules, no problem; hours are of {found.zone}", markup=False)


def effect(rule: rules.Rule) -> str:
    return rule.audience or taxonomy.tag_name(rule.tag)
