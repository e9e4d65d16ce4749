"""`tagbid models bench`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def bench(
    data: Annotated[Path, typer.Option(help="folder of the real logs")] = Path("../shared/data"),
    json_out: Annotated[
        Path | None, typer.Option("--json", help="write the figures here, one JSON object a line")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="a part to run; repeatable [default: all]")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="at most so many rows or auctions [default: full size]")
    ] = None,
    seed: Annotated[int, typer.Option(help="of everything that is drawn")] = 1,
    seeds: Annotated[int | None, typer.Option(min=1, help="so many of them, in parts that take several")] = None,
    work: Annotated[
        Path, typer.Option(help="where long parts keep what is finished; a stopped run goes on there")
    ] = Path("var/bench"),
) -> None:
    """Measure what models and prices earn on real logs and seeded worlds, against baselines, with standard errors."""
    from models import bench as benchmark
    from models.figures import Options

    errors = Console(stderr=True)
    with errors.status("starting") as status:
        found = benchmark.run(
            Options(data, rows, seed, seeds, work),
            only or (),
            json_out,
            lambda name: status.update(f"measuring {name}"),
        )
    benchmark.print_table(benchmark.wide(), found)
