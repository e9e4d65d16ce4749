"""`tagbid dmp ingest` and `tagbid dmp quarantine`: raw logs into event files, and the rows that became none."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dmp import config as configuration
from dmp import pseudonym
from dmp.config import DmpConfig
from dmp.errors import DmpError

if TYPE_CHECKING:
    from dmp.ingest import Report

console = Console()
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
IntoFolder = Annotated[Path, typer.Option(help="Folder of the event files; a run that was killed goes on there.")]
MappingName = Annotated[
    str, typer.Option(help="TOML file of what columns mean (dmp/mapping.py), or ipinyou, clickstream.")
]
quarantines = typer.Typer(no_args_is_help=True, help="Rows of raw logs that became no event.")


@contextmanager
def ingest_bar(files: list[Path]) -> "Iterator[Callable[[str, float, int], None]]":
    """A progress bar over logs by their bytes, with rows/s."""
    sizes = {str(path): path.stat().st_size for path in files}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=sum(sizes.values()))
        begun, rows = time.monotonic(), 0
        done = dict.fromkeys(sizes, 0.0)

        def show(file: str, share: float, count: int) -> None:
            nonlocal rows
            rows += count
            done[file] = share * sizes[file]
            rate = rows / max(0.001, time.monotonic() - begun)
            bar.update(task, description=f"{rows:,} rows, {rate:,.0f}/s", completed=sum(done.values()))

        yield show


def ingest_logs(
    paths: Annotated[list[Path], typer.Argument(help="Logs, or folders of them: Parquet, CSV(.gz), JSON lines(.gz).")],
    into: IntoFolder,
    mapping: MappingName = "clickstream",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Turn raw behaviour logs into event files for `build`; ids become pseudonyms, bad rows go to quarantine."""
    from dmp import ingest
    from dmp import mapping as mappings

    meant = mappings.load(mapping)
    files = ingest.found(paths)
    begun = time.monotonic()
    with ingest_bar(files) as show:
        report = ingest.ingest(files, into, meant, key_ring(config), time.time_ns() // 1000, show)
    tell_ingested(report, time.monotonic() - begun, into, as_json)


@quarantines.command("list")
def list_quarantine(
    into: IntoFolder,
    reason: Annotated[str, typer.Option(help="Only rows refused for this.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what was refused, why, and where it stands; ids and digits are disguised."""
    from dmp import journal, quarantine

    if reason and reason not in quarantine.REASONS:
        raise DmpError(f"no rows are refused for {reason!r}; reasons: {', '.join(quarantine.REASONS)}")
    steps = journal.quarantined(journal.read(into))
    counts: dict[str, int] = {}
    for step in steps:
        for name, count in step.bad.items():
            counts[name] = counts.get(name, 0) + count
    rows = quarantine.listed([journal.quarantine(into, step.n) for step in steps if not reason or reason in step.bad])
    shown = list(itertools.islice((row for row in rows if reason in ("", row.reason)), limit))
    if as_json:
        typer.echo(msgspec.json.encode({"reasons": counts, "rows": shown}))
        return
    summary = Table("reason", "rows", "meaning")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        summary.add_row(name, f"{count:,}", quarantine.REASONS[name])
    console.print(summary)
    table = Table("reason", "file", "row", "content")
    for row in shown:
        table.add_row(row.reason, Text(row.file), str(row.row), Text(row.raw))
    console.print(table)


@quarantines.command("replay")
def replay_quarantine(into: IntoFolder, mapping: MappingName, config: ConfigFile = None, as_json: Json = False) -> None:
    """Read the refused rows again from their logs, under a better mapping."""
    from dmp import ingest, journal
    from dmp import mapping as mappings

    meant = mappings.load(mapping)
    files = sorted({Path(step.file) for step in journal.quarantined(journal.read(into))})
    if gone := [str(path) for path in files if not path.exists()]:
        raise DmpError(f"{', '.join(gone)}: not there; a replay reads the rows, with their ids, from the log itself")
    begun = time.monotonic()
    with ingest_bar(files) as show:
        report = ingest.replay(into, meant, key_ring(config), time.time_ns() // 1000, show)
    tell_ingested(report, time.monotonic() - begun, into, as_json)


def key_ring(path: Path | None) -> pseudonym.KeyRing:
    return pseudonym.key_ring(configuration.load("dmp", DmpConfig, path).data_dir)


def tell_ingested(report: "Report", seconds: float, into: Path, as_json: bool) -> None:
    rate = report.rows / max(0.001, seconds)
    if as_json:
        told = msgspec.to_builtins(report) | {"seconds": round(seconds, 3), "rows_per_s": round(rate)}
        typer.echo(msgspec.json.encode(told))
        return
    console.print(
        f"{report.rows:,} rows of {report.files} files in {seconds:.1f} s ({rate:,.0f} rows/s): "
        f"{report.events:,} events, {report.duplicates:,} copies left out, "
        f"{sum(report.bad.values()):,} rows to quarantine"
        + (f"; {report.skipped} files were done before" if report.skipped else "")
    )
    for reason, rows in sorted(report.bad.items(), key=lambda item: -item[1]):
        console.print(f"  {reason}: {rows:,} (tagbid dmp quarantine list --into {into} --reason {reason})")
