"""`tagbid loadtest run`: traffic, a measured run against a bidder that is already there, and its report."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest import generator, report, scrape, summary
from loadtest.load import Load, Result, moments_us


class Server(msgspec.Struct, frozen=True):
    """How to look into the bidder: its metrics page ("" for none) and processes whose CPU time counts instead."""

    admin: str = ""
    pids: tuple[int, ...] = ()


def server(url: str, admin: str | None, pids: Sequence[int]) -> tuple[Server, list[str]]:
    """What can be measured, and what a reader should know about what cannot.

    admin: as asked for, None to try the default place, where nothing needs to be. Raises NoMetrics when what was asked
    for is not there.
    """
    scrape.cpu_s(pids)
    if admin is not None:
        scrape.metrics(admin)
        return Server(admin, tuple(pids)), []
    guess = scrape.admin_url(url)
    try:
        found = scrape.metrics(guess)
    except scrape.NoMetrics as error:
        return Server("", tuple(pids)), [f"{error}; reasons not to bid are unknown (--admin URL)"]
    return Server(guess, tuple(pids)), [] if scrape.CPU in found else [f"{guess} tells no CPU time"]


def measure(load: Load, watched: Server, notes: Sequence[str], console: Console) -> tuple[Result, dict[str, Any]]:
    """Run the load in a process of its own behind a progress bar; returns what came back, and its summary."""
    metrics_before, cpu_before = _look(watched)
    total = len(moments_us(load))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("answered"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        task = bar.add_task("requests", total=total)
        result = generator.play(load, on_tick=lambda _sent, done: bar.update(task, completed=done))
    metrics_after, cpu_after = _look(watched)
    spent_s = None if cpu_before is None or cpu_after is None else cpu_after - cpu_before
    told = summary.summarise(
        result, load.bodies, spent_s, scrape.no_bid_reasons(metrics_before, metrics_after), [*notes, *_doubts(result)]
    )
    return result, told


def publish(load: Load, result: Result, told: dict[str, Any], json_out: Path | None, html_out: Path | None) -> None:
    """Write the reports that were asked for."""
    if json_out is not None:
        report.write_json(json_out, told)
    if html_out is not None:
        arrivals = f"Poisson arrivals, seed {load.seed}" if load.poisson else "equal gaps"
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        under = f"{load.url} · {load.rate:,g} requests/s for {load.duration_s:g} s · {arrivals} · {when}"
        if told["notes"]:
            under += " · " + " · ".join(told["notes"])
        cards: list[report.Figure | report.Table] = [*report.load_figures(result), *report.load_tables(told)]
        report.write(html_out, report.page("Load test", under, report.load_tiles(told), cards))


def _look(watched: Server) -> tuple[dict[str, float], float | None]:
    metrics = scrape.metrics(watched.admin) if watched.admin else {}
    return metrics, scrape.cpu_s(watched.pids) if watched.pids else metrics.get(scrape.CPU)


def _doubts(result: Result) -> list[str]:
    """What makes the numbers doubtful."""
    lag, latency = summary.percentiles_us(result.lag_us)["p99"], summary.percentiles_us(result.latency_us)["p99"]
    if lag is not None and latency is not None and lag > max(1_000, latency // 2):
        return [f"the generator was late itself (p99 {lag} µs): the latencies are partly its own"]
    return []
