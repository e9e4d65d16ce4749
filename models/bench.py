"""`tagbid models bench`: the numbers models are judged by, in named parts, each figure with its standard error.

A part is a function of `models.figures.Options` that yields `Figure`s; it imports what it needs when it runs. What
drives the bidder (auction replay) lives in `loadtest`, which this room may not import: `tagbid` adds it to `PARTS`.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dmp.errors import TagbidError
from models.figures import Figure, Options, Part


class UnknownPart(TagbidError):
    """A name that is no part of the benchmark."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no part {name!r} in the benchmark; there are: {', '.join(PARTS)}")


def _offpolicy(options: Options) -> Iterable[Figure]:
    from models import open_bandit

    return open_bandit.figures(options)


def _shading(options: Options) -> Iterable[Figure]:
    from models import shading_bench

    return shading_bench.figures(options)


def _delay(options: Options) -> Iterable[Figure]:
    from models import delay_bench

    return delay_bench.figures(options)


PARTS: dict[str, Part] = {
    "delay": _delay,
    "shading": _shading,
    "offpolicy": _offpolicy,
}
"""{name: part}, in the order they run."""


def run(options: Options, only: Iterable[str], out: Path | None, told: Callable[[str], None]) -> list[Figure]:
    """Run parts (all when `only` is empty) and return their figures, also written to `out`, one JSON object a line.

    A line is written when its figure is found, so that a run that is stopped keeps what it has. told: called with the
    name of the part that begins. Raises UnknownPart before anything runs.
    """
    names = list(only) or list(PARTS)
    for name in names:
        if name not in PARTS:
            raise UnknownPart(name)
    found: list[Figure] = []
    if out is not None:
        write(out, ())
    for name in names:
        told(name)
        for figure in _timed(PARTS[name], options):
            found.append(figure)
            if out is not None:
                with out.open("ab") as file:
                    file.write(msgspec.json.encode(figure) + b"\n")
    return found


def write(out: Path, figures: Iterable[Figure]) -> None:
    """A file of figures, one JSON object a line."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(b"".join(msgspec.json.encode(figure) + b"\n" for figure in figures))


def _timed(part: Part, options: Options) -> Iterator[Figure]:
    """Figures with the seconds since the part began."""
    started_s = time.monotonic()
    for figure in part(options):
        about = figure.about | {"seconds": round(time.monotonic() - started_s, 1)}
        yield msgspec.structs.replace(figure, about=about)


def wide() -> Console:
    """Where the table is printed: the terminal, or 150 columns of a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=150)


def print_table(console: Console, figures: Iterable[Figure]) -> None:
    """One row a figure; a missed goal stands out."""
    table = Table("data", "metric", title="tagbid models bench")
    table.add_column("value ± standard error", justify="right", no_wrap=True)
    table.add_column("goal")
    for figure in figures:
        verdict = "" if figure.met is None else "met: " if figure.met else "[red]missed[/red]: "
        table.add_row(f"{figure.part}, {figure.data}", figure.metric, _number(figure), verdict + escape(figure.goal))
    console.print(table)


def _number(figure: Figure) -> str:
    return f"{figure.value:,.5g} ± {figure.se:.2g}" if figure.se else f"{figure.value:,.5g}"
