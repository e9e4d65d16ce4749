"""A run for people: tables in the terminal, and one self-contained HTML page with plots."""

import html
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from loadtest import plot
from loadtest.load import Result

Cell = str | int | float | None
WIDE = 3  # tables of more columns take the whole width of the page
LATENCIES = (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9"), ("max", "max"))


class Table(msgspec.Struct, frozen=True):
    """head: column names; a column whose cells are all numbers is set to the right. note: one line below it."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""


class Figure(msgspec.Struct, frozen=True):
    """svg: finished markup of `loadtest.plot`."""

    title: str
    svg: str
    note: str = ""


class Tile(msgspec.Struct, frozen=True):
    """One number of the page's top row; bad: something a reader must not miss."""

    name: str
    value: str
    bad: bool = False


def show(cell: Cell) -> str:
    """A cell as text: thousands apart, at most four significant decimals, a dash for what is not known.

    >>> show(12345), show(0.5), show(None), show("x")
    ('12,345', '0.5', '-', 'x')
    """
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 10_000 else f"{cell:,.4g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def load_tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """The top row for a summary of `loadtest.summary`."""
    failed = sum(count for status, count in summary["statuses"].items() if status.startswith("5"))
    cpu, slow = summary["server_cpu_us_per_request"], summary["achieved_rate"] < 0.95 * summary["offered_rate"]
    return [
        Tile("requests", show(summary["requests"])),
        Tile("answers/s", show(summary["achieved_rate"]), bad=slow),
        Tile("bid rate", f"{summary['bid_rate']:.1%}"),
        Tile("p50", _microseconds(summary["latency_us"]["p50"])),
        Tile("p99", _microseconds(summary["latency_us"]["p99"])),
        Tile("p99.9", _microseconds(summary["latency_us"]["p999"])),
        Tile("late", show(summary["late"]), bad=summary["late"] > 0),
        Tile("unanswered", show(summary["unanswered"]), bad=summary["unanswered"] > 0),
        Tile("5xx", show(failed), bad=failed > 0),
        Tile("server CPU/request", "-" if cpu is None else f"{cpu:.3g} µs"),
    ]


def load_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Everything of a summary that is a table, leaving out the empty ones."""
    latency, lag = summary["latency_us"], summary["send_lag_us"]
    times = Table(
        "Latency",
        ("percentile", "answer", "send lag"),
        [(name, _microseconds(latency[key]), _microseconds(lag[key])) for key, name in LATENCIES],
        "From the intended send time; the lag is the generator's own delay, included in the latency.",
    )
    answers = [(f"status {status}", count) for status, count in summary["statuses"].items()]
    answers += [(f"no answer: {why.replace('_', ' ')}", count) for why, count in summary["errors"].items()]
    tables = [
        times,
        Table("Answers", ("what came back", "requests"), [*answers, ("later than tmax", summary["late"])]),
        Table("Reasons not to bid", ("reason", "requests"), list(summary["no_bid_reasons"].items())),
        Table(
            "Money offered",
            ("campaign", "bids", "mean CPM"),
            [(name, offer["bids"], offer["mean_cpm"]) for name, offer in summary.get("offers", {}).items()],
            f"Over {show(summary.get('bodies_checked', 0))} answers whose bodies were kept and checked.",
        ),
        Table("Answers an exchange would reject", ("fault", "times"), list(summary.get("body_problems", {}).items())),
    ]
    return [table for table in tables if table.rows]


def load_figures(result: Result) -> list[Figure]:
    return [
        Figure("Latency by percentile", plot.percentile_curve(result.latency_us[result.status > 0], result.lag_us)),
        Figure("Latency over time", plot.over_time(result)),
    ]


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    for table in tables:
        printed = RichTable(title=table.title, title_justify="left", title_style="bold")
        for column, name in enumerate(table.head):
            printed.add_column(name, justify="right" if _numeric(table, column) else "left")
        for row in table.rows:
            printed.add_row(*(show(cell) for cell in row))
        console.print(printed)
        if table.note:
            console.print(table.note, style="dim", markup=False)
        console.print()


def page(title: str, under: str, tiles: Sequence[Tile], cards: Sequence[Figure | Table]) -> str:
    """One HTML page that needs nothing from elsewhere. under: the line below the title."""
    template = string.Template(resources.files("loadtest").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        under=html.escape(under),
        tiles="".join(_tile(tile) for tile in tiles),
        cards="".join(_figure(card) if isinstance(card, Figure) else _table(card) for card in cards),
    )


def write(path: Path, text: str) -> None:
    """Put a report where it belongs, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    write(path, msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")


def _tile(tile: Tile) -> str:
    kind = "tile bad" if tile.bad else "tile"
    return f'<div class="{kind}"><dt>{html.escape(tile.name)}</dt><dd>{html.escape(tile.value)}</dd></div>'


def _figure(figure: Figure) -> str:
    return f'<section class="card"><h2>{html.escape(figure.title)}</h2>{figure.svg}{_note(figure.note)}</section>'


def _table(table: Table) -> str:
    kinds = [' class="number"' if _numeric(table, column) else "" for column in range(len(table.head))]
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, table.head, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{k}>{html.escape(show(c))}</td>" for k, c in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    kind = "card wide" if len(table.head) > WIDE else "card"
    return f'<section class="{kind}"><h2>{html.escape(table.title)}</h2>{body}{_note(table.note)}</section>'


def _note(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def _numeric(table: Table, column: int) -> bool:
    """A column right-aligned: past the first, and in every row a number, a duration or a share."""
    return column > 0 and all(row[column] is None or show(row[column])[:1] in "0123456789-+.$" for row in table.rows)


def _microseconds(value: int | None) -> str:
    return "-" if value is None else plot.microseconds(value)
