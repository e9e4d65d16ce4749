"""`tagbid dmp preference`: how well preferences foretell what people do next."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from dmp.errors import DmpError

if TYPE_CHECKING:  # loads Arrow and DuckDB, which only the command itself should wait for
    from dmp.preference_trial import Measured

app = typer.Typer(no_args_is_help=True, help="Instant preference: long-term taste and the session, mixed.")
console = Console()


@app.command()
def evaluate(
    events: Annotated[Path | None, typer.Argument(help="Event files, or a folder of them.")] = None,
    by: Annotated[str, typer.Option(help="What is liked: item or category.")] = "category",
    days: Annotated[int, typer.Option(min=1, help="How many of the last days are foretold.")] = 1,
    simulate: Annotated[int, typer.Option(min=0, help="Use so many people of a world of moods instead.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure recall@20 and NDCG@20 of the next day's items: the mix against its parts and popularity."""
    from dmp import preference_trial

    if (events is None) == (not simulate):
        raise DmpError("name event files, or say --simulate N")
    named: Literal["item", "category"] | None = "item" if by == "item" else "category" if by == "category" else None
    if named is None:
        raise DmpError(f"--by {by!r} is neither item nor category")
    with console.status("foretelling"):
        if events is None:
            acts = preference_trial.drifting(simulate)
        else:
            acts = preference_trial.acts_of(events, time.time_ns() // 1000, named)
        told = preference_trial.evaluate(acts, preference_trial.last_days(acts, days))
    if as_json:
        typer.echo(msgspec.json.encode(told))
        return
    table = Table(
        "", "recall@20", "NDCG@20", "mix has more recall", "and NDCG", title=f"{told.people:,} people, 95 % intervals"
    )
    for arm in told.recall:
        ours = told.mix_over.get(arm), told.ndcg_mix_over.get(arm)
        table.add_row(arm, *map(_interval, (told.recall[arm], told.ndcg[arm], *ours)))
    console.print(table)


def _interval(measured: "Measured | None") -> str:
    return "" if measured is None else f"{measured.mean:.4f} ({measured.low:.4f} to {measured.high:.4f})"
