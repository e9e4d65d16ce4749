"""`tagbid loadtest replay`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def replay_command(
    bidlog: Annotated[
        Path | None, typer.Option(help="replay this bid log of ours (*.mpk) instead, campaign by campaign")
    ] = None,
    models_dir: Annotated[Path, typer.Option(help="whose landscape a replayed bid log is shaded by")] = Path(
        "var/models"
    ),
    data: Annotated[Path, typer.Option(help="folder that holds ipinyou_replay/")] = Path("../shared/data"),
    stream: Annotated[str, typer.Option(help="1458_first220k or 2259_80k")] = "1458_first220k",
    limit: Annotated[int | None, typer.Option(min=1_000, help="only the first so many auctions")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="write the figures here, one JSON object a line")
    ] = None,
) -> None:
    """Bid in real auctions again, with their order, prices and budgets: our pacing against published ways to bid.

    Of a bid log of ours: what the agent of today, with its landscape, makes of the log's auctions and of parts of its
    spend; and what higher or lower bids would have earned, from the prices that were varied by chance.
    """
    from loadtest import replay, replay_bench
    from models import bench

    if bidlog is not None:
        _own(bidlog, models_dir, json_out)
        return
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


def _own(bidlog: Path, models_dir: Path, json_out: Path | None) -> None:
    from loadtest import own_log
    from models import artefacts, bench, landscape

    land = None if artefacts.current(models_dir, landscape.KIND) is None else landscape.load(models_dir)
    errors = Console(stderr=True)
    with errors.status("reading the bid log") as status:
        auctions = own_log.read(bidlog)
        done = 0

        def show(n: int) -> None:
            nonlocal done
            done += n
            status.update(f"{done:,} auctions replayed")

        found = list(own_log.figures(auctions, land, landscape.CONSTANT, show))
    if json_out is not None:
        bench.write(json_out, found)
    bench.print_table(bench.wide(), found)
    errors.print(f"shaded by {'no landscape' if land is None else land.version}", markup=False)
