"""The models' commands."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import msgspec
import redis
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dmp import commands
from dmp import config as configuration
from dmp.audiences import Audience, told
from dmp.config import DmpConfig
from dmp.errors import StoreUnavailable
from models import (
    experiment_commands,
    landscape_commands,
    live_commands,
    refit_commands,
    registry_commands,
    train_commands,
    upkeep_commands,
)
from models.bench_commands import bench
from models.config import ModelsConfig

app = typer.Typer(no_args_is_help=True, help="Click models and look-alike audiences.")
console = Console()
errors = Console(stderr=True)
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
app.command()(bench)
app.add_typer(landscape_commands.app, name="landscape")
app.add_typer(experiment_commands.app, name="experiment")
app.command()(registry_commands.card)
app.command()(registry_commands.shadow)
app.command()(train_commands.train)
app.command()(refit_commands.refit)
app.command(name="upkeep")(upkeep_commands.keep_up)
app.command()(train_commands.parity)
app.command()(live_commands.calibrate)


@app.callback()
def models() -> None:
    """Click models and look-alike audiences."""


@app.command()
def expand(
    watch: Annotated[bool, typer.Option(help="Keep looking for new seeds until stopped.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Grow every pending seed into an audience and make it live."""
    from dmp.catalogue import open_catalogue
    from dmp.store import open_store
    from models import expand as job

    dmp = configuration.load("dmp", DmpConfig, config)
    settings = configuration.load("models", ModelsConfig, config)
    stop = threading.Event()
    if watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with open_store(dmp) as store, Progress(*columns, console=errors, transient=True) as bar:
        catalogue, client = open_catalogue(Path(dmp.data_dir)), store.sync()
        task = bar.add_task("", visible=False)

        def show(audience: str, done: int, total: int) -> None:
            bar.update(task, description=audience, completed=done, total=total, visible=True)

        work = job.Job(catalogue, client, dmp, settings, lambda: time.time_ns() // 1000, show)
        told_before = ""
        try:
            while not stop.is_set():
                problem = ""
                try:
                    for audience in job.run(work):
                        _print(audience, as_json)
                except job.NoGeneration as error:
                    if not watch:
                        raise
                    problem = str(error)
                except redis.RedisError as error:
                    if not watch:
                        raise StoreUnavailable(f"the tag store went away ({error}); run this again") from None
                    problem = f"the tag store does not answer ({error})"
                if problem != told_before:
                    told_before = problem
                    errors.print(f"waiting: {problem}" if problem else "working again", markup=False)
                if not watch or stop.wait(settings.watch_s):
                    break
        finally:
            client.close()
            catalogue.close()


@app.command(name="list")
def list_versions(config: ConfigFile = None, as_json: Json = False) -> None:
    """The click models on disk, oldest first; the live one is marked."""
    from models import registry, version_commands
    from models.response import KIND

    root = Path(configuration.load("models", ModelsConfig, config).models_dir)
    columns = {"AUC": ("auc", ".4f"), "log-loss gain": ("log_loss_gain", "+.2%")}
    none = "no model (`tagbid models train BIDLOG_DIR`)"
    version_commands.show(root, KIND, lambda r, v: registry.load(r, KIND, v), columns, none, as_json)


@app.command()
def rollback(
    version: Annotated[str | None, typer.Argument(help="Version to make live; default: the live one's parent.")] = None,
    config: ConfigFile = None,
) -> None:
    """Make an earlier click model live again; bidders pick it up within a second or two."""
    from models import registry
    from models.response import KIND

    root = Path(configuration.load("models", ModelsConfig, config).models_dir)
    console.print(f"live: {registry.rollback(root, KIND, version)}")


def _print(audience: Audience, as_json: bool) -> None:
    if as_json:
        line = {
            "audience": audience.id,
            "state": audience.state,
            "message": audience.message,
            "members": told(audience.members),
            "report": audience.report,
        }
        typer.echo(msgspec.json.encode(line))
        return
    console.print(f"[bold]{audience.id}[/bold] {audience.state} {audience.message}")
    if audience.state == "live":
        report = audience.report
        recall = ", ".join(f"{share:.0%} in the top {depth} %" for depth, share in report["recall"].items())
        console.print(
            f"  {told(audience.members):,} members of {report['base']:,} users; of the hidden fifth: {recall}"
        )
        for warning in report["warnings"]:
            console.print(f"  [yellow]{warning}[/yellow]")


if __name__ == "__main__":
    sys.exit(commands.run(app, "tagbid models", sys.argv[1:]))
