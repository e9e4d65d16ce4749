"""`tagbid loadtest replay`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def replay_command(
    data: Annotated[Path, typer.Option(help="folder that holds ipinyou_replay/")] = Path("../shared/data"),
    stream: Annotated[str, typer.Option(help="1458_first220k or 2259_80k")] = "1458_first220k",
    limit: Annotated[int | None, typer.Option(min=1_000, help="only the first so many auctions")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="write the figures here, one JSON object a line")
    ] = None,
) -> None:
    """Bid in real auctions again, with their order, prices and budgets: our pacing against published ways to bid."""
    from loadtest import replay, replay_bench
    from models import bench

    if stream not in replay_bench.STREAMS:
        raise replay.NoReplay(f"no stream {stream!r}; there are: {', '.join(replay_bench.STREAMS)}")
    log = replay.read(data, stream, replay_bench.STREAMS[stream], limit)
    whole = len(log.click) // replay.EPISODE * replay.EPISODE
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("auctions", total=whole * len(replay.FRACTIONS) * len(replay_bench.AGENTS))
        decides = stream == replay_bench.DECIDES
        found = list(replay_bench.of_log(log, decides=decides, progress=lambda n: bar.advance(task, n)))
    if json_out is not None:
        bench.write(json_out, found)
    console = bench.wide()
    bench.print_table(console, found)
    console.print(replay_bench.reading(found[-1]))
