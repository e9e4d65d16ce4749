"""`tagbid models train`: from the bid log and the archive to published models in one command."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dmp import config as configuration
from models.config import ModelsConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.outcomes import Outcome
    from models.response import Report

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]


PARITY_ONE_IN = 4  # bids whose vector is computed again before a training


def train(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk) of bids, impressions and clicks.")],
    archive: Annotated[
        Path | None, typer.Option(help="Folder of the event archive; its conversions train what follows a click.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where joined days are kept for the next time; default: in models_dir.")
    ] = None,
    negatives: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1.0,
            help="Share of impressions without a click that train; default: five to a click from 100,000 on, else 1.",
        ),
    ] = None,
    shadow: Annotated[
        bool, typer.Option(help="Publish as the challenger: scored on a sample of live bids, decides nothing.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Publish even when the gate refuses.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that train the click model, from 2,000 clicks on.")
    ] = 1,
    dask: Annotated[
        str, typer.Option(help="Address of a Dask scheduler whose workers train, or 'local'; at least two --workers.")
    ] = "",
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Train models from the bid log, judge them on the latest impressions, make live what passes the gate.

    Exits with 1 when the click model was not published. Days that were joined before are not joined again.
    """
    from models import joining, outcomes, parity, response
    from models.distributed import Team

    team = Team(max(2, workers) if dask else workers, dask)
    settings = configuration.load("models", ModelsConfig, config)
    root = Path(settings.models_dir)
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        log = joining.frame_of(
            bidlog, cache or root / "cache", archive, click_wait_us=settings.click_wait_s * 1_000_000, tell=show
        )
        show(f"training on {len(log.frame):,} impressions", 0, 1 + len(outcomes.KINDS))
        skew = parity.check(bidlog, root, one_in=PARITY_ONE_IN)
        report = response.train(
            log.frame,
            root,
            now_us=time.time_ns() // 1000,
            force=force,
            threads=settings.threads,
            negatives=negatives,
            read=log.counts,
            parity=(skew.checked, skew.different) if skew.checked else None,
            shadow=shadow,
            team=team,
        )
        if team.workers > 1 and report.clicks[0] < response.FEW_CLICKS:
            errors.print(
                f"trained by one process: {report.clicks[0]:,} clicks, {response.FEW_CLICKS:,} are shared out",
                markup=False,
            )
        after = []
        if log.counts["attributed"] and not shadow:
            for n, kind in enumerate(outcomes.KINDS):
                show(f"training: {kind}", 1 + n, 1 + len(outcomes.KINDS))
                now_us = time.time_ns() // 1000
                after.append(
                    outcomes.train(
                        log.frame,
                        root,
                        kind,
                        now_us=now_us,
                        until_us=log.until_us,
                        threads=settings.threads,
                        force=force,
                    )
                )
    if as_json:
        typer.echo(msgspec.json.encode({"read": log.counts, **msgspec.to_builtins(report), "outcomes": after}))
    else:
        _print_report(report, log.counts, after)
    if report.version is None:
        raise typer.Exit(1)


def _print_report(report: "Report", read: "Mapping[str, int]", after: "Sequence[Outcome]") -> None:
    console = Console()
    metrics, base, linear = report.metrics, report.over_base, report.over_logistic
    table = Table(title=f"click model {report.version or 'not published'}", show_header=False)
    table.add_row("read", ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in read.items()))
    table.add_row("impressions (train, validation, test)", ", ".join(f"{n:,}" for n in report.rows))
    table.add_row("clicks (train, validation, test)", ", ".join(f"{n:,}" for n in report.clicks))
    if metrics.auc is not None and metrics.auc_se is not None:
        table.add_row("AUC", f"{metrics.auc:.4f} ± {metrics.auc_se:.4f}")
    table.add_row("log-loss gain over the constant click rate", f"{base.value:+.2%} ± {base.se:.2%}")
    table.add_row("log-loss gain over hashed logistic regression", f"{linear.value:+.2%} ± {linear.se:.2%}")
    if metrics.calibration is not None:
        table.add_row("predicted / observed clicks", f"{metrics.calibration:.3f} ({report.method})")
    table.add_row("trees", f"{report.trees}")
    table.add_row("strongest features", ", ".join(f"{n} {g:.0%}" for n, g in list(report.importance.items())[:6]))
    for warned in (check for check in report.checks if not check.blocks):
        table.add_row("look", f"{warned.name}: {warned.value}, {warned.limit}")
    for outcome in after:
        gained = "" if outcome.gain is None else f"gain {outcome.gain.value:+.2%} ± {outcome.gain.se:.2%}, "
        state = outcome.version or f"not published: {outcome.why}"
        table.add_row(f"{outcome.kind} model", f"{gained}{outcome.positives:,} conversions, {state}")
    console.print(table)
    if report.refused:
        verb = "published against the gate" if report.version else "not published"
        console.print(f"[yellow]{verb}:[/yellow] {report.refused}" + ("" if report.version else "; --force publishes"))
    elif report.version:
        console.print(f"`tagbid models card {report.version}` writes its card as a page")


def parity(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk).")],
    most: Annotated[int, typer.Option(min=1, help="Bids to check.")] = 10_000,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Compute logged feature vectors again from the log; exits with 1 when a single one differs."""
    from models import parity as skew

    found = skew.check(bidlog, Path(configuration.load("models", ModelsConfig, config).models_dir), most)
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        worst = "".join(f", {name} in {n:,}" for name, n in list(found.worst.items())[:5])
        unknown = f"; {found.unknown:,} of models that are gone" if found.unknown else ""
        Console().print(f"{found.different:,} of {found.checked:,} bids differ{worst}{unknown}", markup=False)
    if found.different:
        raise typer.Exit(1)
