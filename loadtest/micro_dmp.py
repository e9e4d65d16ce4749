"""What the DMP's batch side costs: `tagbid loadtest micro dmp`. Tags, publishing, reads, bitmaps, ingest.

Each part makes its own synthetic data of the sizes the goals speak of (times `--scale`), in folders of its own, with a
store of its own. Yardsticks run in the same process, right before what they are compared with.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dmp.errors import TagbidError
from loadtest import micro_dmp_bitmaps, micro_dmp_ingest, micro_dmp_publish, micro_dmp_read, micro_dmp_tags
from loadtest.machine import Commit, Machine, commit, machine

Step = Callable[[str], None]
Part = Callable[[float, Path, Step], dict[str, Any]]


def _tags(scale: float, work: Path, step: Step) -> dict[str, Any]:
    return micro_dmp_tags.measure(max(2_000, round(micro_dmp_tags.EVENTS * scale)), work, step)


PARTS: dict[str, Part] = {
    "tags": _tags,
    "read": micro_dmp_read.measure,
    "ingest": micro_dmp_ingest.measure,
    "bitmaps": micro_dmp_bitmaps.measure,
    "publish": micro_dmp_publish.measure,
}

GOALS: dict[str, tuple[str, float]] = {
    "tags_over_hand_sql": ("<=", 1.5),
    "tags_peak_mb": ("<=", 6_000),
    "cost_20m_over_2m": ("<=", 1.3),
    "publish_over_raw_set": (">=", 0.5),
    "gib_per_million_users": ("<=", 1.0),
    "swap_memory_ratio_all": ("<=", 2.1),
    "swap_memory_ratio_fifth": ("<=", 1.3),
    "read_p99_us": ("<=", 1_000),
    "size_expression_ms": ("<=", 10),
    "overlap_ms": ("<=", 1),
    "tgi_ms": ("<=", 100),
    "ingest_rows_per_s": (">=", 300_000),
}
"""What each figure should be. Figures without a goal are printed too."""


class Run(msgspec.Struct, frozen=True):
    """One run as stored. figures: by key, plain numbers; details: {part: all it measured, sizes too}."""

    commit: Commit
    machine: Machine
    at: str
    scale: float
    figures: dict[str, float]
    details: dict[str, dict[str, Any]]


def run(out: Path | None, scale: float, only: Sequence[str]) -> Run:
    """Measure the parts named, all by default. scale: of every size; goals are meant at 1."""
    if unknown := [name for name in only if name not in PARTS]:
        raise TagbidError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = [name for name in PARTS if not only or name in only]
    details: dict[str, dict[str, Any]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(chosen))
        for name in chosen:
            begun = time.monotonic()
            with TemporaryDirectory(prefix="tagbid-micro-dmp-") as folder:
                details[name] = PARTS[name](scale, Path(folder), partial(_show, bar, task, name))
            details[name]["part_seconds"] = round(time.monotonic() - begun, 1)
            bar.advance(task)
    figures = {
        key: value
        for found in details.values()
        for key, value in found.items()
        if isinstance(value, int | float) and key != "part_seconds"
    }
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    done = Run(commit(), machine(), at, scale, figures, details)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(msgspec.json.format(msgspec.json.encode(done), indent=1) + b"\n")
    return done


def _show(bar: Progress, task: TaskID, part: str, what: str) -> None:
    bar.update(task, description=f"{part}: {what}")


def print_table(console: Console, done: Run) -> None:
    """Every figure, with its goal where it has one."""
    title = f"DMP at scale {done.scale:g}, {done.machine.cpu}, {done.machine.cores} cores, {done.at}"
    table = Table("", "measured", "goal", "", title=title)
    for key, value in sorted(done.figures.items(), key=lambda item: (item[0] not in GOALS, item[0])):
        sign, goal = GOALS.get(key, ("", 0.0))
        met = {"<=": value <= goal, ">=": value >= goal}.get(sign)
        verdict = "" if met is None else "met" if met else "[red]missed[/red]"
        table.add_row(
            key, f"{value:,.4g}" if value < 1_000 else f"{value:,.0f}", f"{sign} {goal:,g}" if sign else "", verdict
        )
    console.print(table)
    console.print(
        "seconds by part: " + ", ".join(f"{name} {found['part_seconds']}" for name, found in done.details.items())
    )
