"""`tagbid models landscape …`: what winning costs, learnt from the bid log."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp import config as configuration
from models.config import ModelsConfig

if TYPE_CHECKING:
    from models.landscape_refresh import Refresh

app = typer.Typer(no_args_is_help=True, help="Price landscapes: what winning costs, and what to bid in first price.")
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def train(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk) of bids, wins and losses.")],
    force: Annotated[bool, typer.Option(help="Publish even when the gate refuses.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Learn prices from wins, losses and prices told; judge on the latest bids; make it live if it is any good."""
    from models import landscape_train

    settings = configuration.load("models", ModelsConfig, config)
    with Console(stderr=True).status("reading the bid log") as status:
        data = landscape_train.observations(bidlog)
        status.update(f"learning from {len(data.y):,} bids")
        report = landscape_train.train(
            data, Path(settings.models_dir), now_us=time.time_ns() // 1000, force=force, threads=settings.threads
        )
    if as_json:
        typer.echo(msgspec.json.encode(report))
    else:
        _print(Console(), report.version, report.refused, report.metrics, report.counts)
    if report.version is None:
        raise typer.Exit(1)


@app.command()
def refresh(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk) of bids, wins and losses.")],
    watch: Annotated[bool, typer.Option(help="Go on until stopped.")] = False,
    every_s: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 600.0,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Compare the latest wins with what was expected, recalibrate, and stop believing the model where prices drifted.

    Exits with 1 while an exchange's model is not believed.
    """
    import signal
    import threading

    from dmp.errors import BadEvents
    from models import landscape_refresh

    root = Path(configuration.load("models", ModelsConfig, config).models_dir)
    errors, stop = Console(stderr=True), threading.Event()
    if watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    held = False
    while not stop.is_set():
        try:
            found = landscape_refresh.refresh(bidlog, root, now_us=time.time_ns() // 1000)
        except BadEvents as error:
            if not watch:
                raise
            errors.print(f"waiting: {error}", markup=False)
        else:
            held = any(drift.held for drift in found.drifts)
            if as_json:
                typer.echo(msgspec.json.encode(found))
            else:
                _print_refresh(Console(), found)
        if not watch or stop.wait(every_s):
            break
    if held:
        raise typer.Exit(1)


@app.command(name="list")
def list_versions(config: ConfigFile = None, as_json: Json = False) -> None:
    """The landscapes on disk, oldest first; the live one is marked."""
    from models import landscape, version_commands

    root = Path(configuration.load("models", ModelsConfig, config).models_dir)
    columns = {"win AUC": ("win_auc", ".4f"), "win log loss": ("win_log_loss", ".4f")}
    none = "no landscape (`tagbid models landscape train BIDLOG_DIR`)"
    version_commands.show(root, landscape.KIND, landscape.load, columns, none, as_json)


@app.command()
def rollback(
    version: Annotated[str | None, typer.Argument(help="Version to make live; default: the live one's parent.")] = None,
    config: ConfigFile = None,
) -> None:
    """Make an earlier landscape live again; bidders pick it up within a second or two."""
    from models import landscape

    root = Path(configuration.load("models", ModelsConfig, config).models_dir)
    Console().print(f"live: {landscape.rollback(root, version)}")


def _print_refresh(console: Console, found: "Refresh") -> None:
    for drift in found.drifts:
        told = f"{drift.exchange}: {drift.wins[0]:,} wins in {drift.bids[0]:,} bids, {drift.expected[0]:,.0f} expected"
        note = "; ALARM: not believed any more, its segments' ratios are bid" if drift.held else ""
        console.print(told + note, markup=False, soft_wrap=True)
    console.print(f"live: {found.version}" if found.version else "nothing to change", markup=False)


def _print(
    console: Console, version: str | None, refused: str, metrics: dict[str, float], counts: dict[str, int]
) -> None:
    table = Table(title=f"price landscape {version or 'not published'}", show_header=False)
    table.add_row("read", ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()))
    for name, value in metrics.items():
        table.add_row(name.replace("_", " "), f"{value:,.4f}")
    console.print(table)
    if refused:
        verb = "published against the gate" if version else "not published"
        console.print(f"[yellow]{verb}:[/yellow] {refused}" + ("" if version else "; --force publishes"))
