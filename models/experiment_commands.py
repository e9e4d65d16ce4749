"""`tagbid models experiment …`: what experiments showed."""

import datetime
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp.errors import ConfigError

if TYPE_CHECKING:
    from models.experiment_report import Report

app = typer.Typer(no_args_is_help=True, help="Experiments: what the arms of a layer came to.")


@app.callback()
def experiment() -> None:
    """Experiments: what the arms of a layer came to."""


@app.command()
def report(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk) with bids and notices.")],
    layer: Annotated[str, typer.Option(help="`layer` of the experiment")],
    experiments: Annotated[
        Path | None, typer.Option(help="the experiments file, for the arms' shares [default: equal shares]")
    ] = None,
    since: Annotated[
        datetime.datetime | None, typer.Option(help="begin of the experiment, UTC; bids before it make CUPED possible")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Metrics per arm with 95 % intervals, p-values adjusted for their number, and the sample-ratio check.

    Exits with 1 when the numbers of units say that the comparison is not valid.
    """
    from models import experiment_report

    since_us = 0 if since is None else int(since.replace(tzinfo=datetime.UTC).timestamp() * 1e6)
    during, before = experiment_report.tables(bidlog, layer, since_us)
    shares = None if experiments is None else _shares(experiments, layer)
    if shares is not None:
        unknown = sorted(set(during) - set(shares))
        if unknown:
            raise ConfigError(
                str(experiments), [f"layer {layer!r} has no arm {arm!r}, the log does" for arm in unknown]
            )
    found = experiment_report.report(layer, during, before if since_us else None, shares)
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        _print(Console(), found)
    if not found.valid:
        raise typer.Exit(1)


def _shares(path: Path, layer: str) -> dict[str, float]:
    """Arm -> share of one layer. Raises ConfigError."""
    try:
        layers: list[dict[str, Any]] = tomllib.loads(path.read_text())["experiment"]
        return {arm["name"]: float(arm["share"]) for one in layers if one["layer"] == layer for arm in one["arms"]}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigError(str(path), [f"is no experiments file: {error!r}"]) from None


def _print(console: Console, found: "Report") -> None:
    arms = Table(title=f"layer {found.layer}")
    arms.add_column("")
    for arm in found.totals:
        arms.add_column(arm, justify="right")
    for column in next(iter(found.totals.values())):
        arms.add_row(column.replace("_", " "), *(f"{totals[column]:,.0f}" for totals in found.totals.values()))
    console.print(arms)
    verdict = (
        "as they should be" if found.valid else "[red]not those of the assignment: the comparison is invalid[/red]"
    )
    console.print(f"numbers of units are {verdict} (p = {found.srm_p:.3g})")
    table = Table("metric", "arm", "control", "value", "difference, 95 % interval", "p", "p, Holm")
    for line in found.comparisons:
        table.add_row(
            line.metric, line.arm, _number(line.control), _number(line.value),
            "" if line.low is None else f"{_number(line.difference)} ({_number(line.low)} to {_number(line.high)})",
            _number(line.p), _number(line.holm),
        )  # fmt: skip
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"
