"""`tagbid loadtest micro http`: the DMP's door."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

console = Console(highlight=False)


def http(
    events: Annotated[int, typer.Option(min=100, help="Events to send, 100 a request.")] = 200_000,
    questions: Annotated[int, typer.Option(min=10, help="Lookups of 100 users each.")] = 2_000,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
) -> None:
    """Events over HTTP per CPU second, and tag lookups at half their capacity."""
    from loadtest import micro_http

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks = {"events": bar.add_task("events", total=events)}

        def advance(step: str, n: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=questions * micro_http.BATCH)
            bar.advance(tasks[step], n)

        found = micro_http.measure(events, questions, advance)
    table = Table("figure", "value")
    for name, value in msgspec.structs.asdict(found).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
    console.print(table)
    if json_out is not None:
        json_out.write_text(json.dumps(msgspec.structs.asdict(found), indent=1) + "\n")
