"""`tagbid dmp brushing`: fake orders and acts of machines, in a trial with known fakes and in one's own events."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Fake orders and acts of machines.")
console = Console()
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def rules(as_json: Json = False) -> None:
    """List what is looked for."""
    from dmp.brushing import RULES

    if as_json:
        typer.echo(msgspec.json.encode(RULES))
        return
    table = Table("code", "version", "severity", "P(fake) alone", "what is seen")
    for rule in RULES:
        table.add_row(rule.code, str(rule.version), rule.severity, f"{rule.p:.2f}", rule.what)
    console.print(table)


@app.command()
def trial(
    orders: Annotated[int, typer.Option(min=2_000, help="About how many honest orders.")] = 30_000,
    seed: Annotated[int, typer.Option(help="Another market.")] = 1,
    as_json: Json = False,
) -> None:
    """Plant five kinds of fraud in a simulated market and measure how much of it is found."""
    from dmp.brushing_trial import trial as run

    with console.status("judging orders"):
        found = run(orders, seed)
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    table = Table("fraud", "found", title=f"{found.orders:,} orders, {found.fakes:,} of them fake")
    for kind, share in found.recall.items():
        table.add_row(kind, f"{share:.1%}")
    table.add_row("all", f"{found.recall_all:.1%}")
    table.add_row("honest orders called fake", f"{found.false_positive_rate:.2%}")
    console.print(table)
    told = Table("code", "fakes", "honest orders")
    for code, (fakes, honest) in found.codes.items():
        told.add_row(code, f"{fakes:,}", f"{honest:,}")
    console.print(told)


@app.command()
def scan(
    events: Annotated[Path, typer.Argument(help="Parquet event file, or a folder of them.")], as_json: Json = False
) -> None:
    """Tell which findings a build would have on these events; changes nothing."""
    from dmp.offline import doubted

    with console.status("judging events"):
        used, found = doubted(events, time.time_ns() // 1000)
    if as_json:
        typer.echo(msgspec.json.encode({"events": used, "doubted": found}))
        return
    table = Table("codes", "events", title=f"{used:,} events are used")
    for codes, n in sorted(found.items(), key=lambda item: -item[1]):
        table.add_row(codes, f"{n:,}")
    console.print(table)
