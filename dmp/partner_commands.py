"""`tagbid dmp partners`: whose tags a build takes in, and whether they may run."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp import config as configuration
from dmp.config import DmpConfig
from dmp.errors import DmpError

app = typer.Typer(no_args_is_help=True, help="Partners whose tags a build takes in.")
console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command("list")
def list_partners(config: ConfigFile = None, as_json: Json = False) -> None:
    """List the partners' folders, and what is wrong with those that will not run."""
    from dmp import partner

    root = partner.partners_folder(configuration.load("dmp", DmpConfig, config).data_dir)
    told = []
    for name in partner.names(root):
        try:
            found = partner.load(root, name)
            told.append(
                {"partner": name, "kind": found.manifest.kind, "declares": found.manifest.declares, "wrong": ()}
            )
        except partner.PartnerRefused as refused:
            told.append({"partner": name, "kind": "", "declares": (), "wrong": refused.problems})
    if as_json:
        typer.echo(msgspec.json.encode(told))
        return
    table = Table("partner", "kind", "tags of its own", "wrong", title=str(root))
    for row in told:
        table.add_row(str(row["partner"]), str(row["kind"]), ", ".join(row["declares"]), "; ".join(row["wrong"]))
    console.print(table, markup=False)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="The partner's folder in data_dir/partners.")],
    config: ConfigFile = None,
) -> None:
    """Check one partner; exits 2 and tells everything that is wrong, the hash of its file for one."""
    from dmp import partner

    root = partner.partners_folder(configuration.load("dmp", DmpConfig, config).data_dir)
    if name not in partner.names(root):
        raise DmpError(f"no partner {name!r} in {root}; there are: {', '.join(partner.names(root)) or 'none'}")
    found = partner.load(root, name)
    typer.echo(f"{name}: {found.manifest.kind} {found.manifest.file} may run")
