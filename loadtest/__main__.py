"""`tagbid loadtest …`: the commands of this room."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dmp import commands
from dmp import config as files
from dmp.errors import TagbidError
from loadtest import micro_http_commands
from loadtest.config import LoadtestConfig
from loadtest.replay_commands import replay_command

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Plays the exchange and the audience.")
traffic_app = typer.Typer(no_args_is_help=True, help="OpenRTB requests in files.")
app.add_typer(traffic_app, name="traffic")
micro_app = typer.Typer(invoke_without_command=True, help="What each step of one bid costs, in process.")
app.add_typer(micro_app, name="micro")


app.command("replay")(replay_command)


@app.command("run")
def run_command(
    url: Annotated[str, typer.Option(help="where to POST, http://host:port/path")],
    requests: Annotated[Path, typer.Option(help="OpenRTB JSONL(.gz), or Parquet of recorded requests")],
    rate: Annotated[float | None, typer.Option(help="requests per second")] = None,
    duration: Annotated[float | None, typer.Option(help="seconds")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the report here as JSON")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="write the report here as one page")] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="Poisson arrivals instead of equal gaps")] = False,
    seed: Annotated[int | None, typer.Option(help="of Poisson arrivals")] = None,
    connections: Annotated[int | None, typer.Option(help="opened before the first request")] = None,
    max_connections: Annotated[int | None, typer.Option(help="bound when all are busy")] = None,
    tmax: Annotated[int | None, typer.Option(help="time limit, ms, of every request (default: its own tmax)")] = None,
    admin: Annotated[str | None, typer.Option(help="the bidder's admin URL (default: same host, next port)")] = None,
    pid: Annotated[list[int] | None, typer.Option(help="measure this process's CPU instead; repeatable")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'Name: value' sent with each request; repeatable")] = None,
    limit: Annotated[int | None, typer.Option(help="use only the first so many requests of the file")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="tagbid.toml")] = None,
) -> None:
    """Send requests at a fixed rate, whatever comes back, and report latency, answers and reasons.

    The requests of the file are repeated as needed. Latency counts from when a request should have been sent.
    """
    from loadtest import measure, report, traffic
    from loadtest.load import Load

    settings = files.load("loadtest", LoadtestConfig, config_file)
    console = Console(highlight=False)
    bodies = traffic.read(requests, limit)
    rate = settings.rate if rate is None else rate
    duration = settings.duration_s if duration is None else duration
    load = Load(
        url=url,
        bodies=bodies,
        rate=rate,
        duration_s=duration,
        poisson=poisson,
        seed=settings.seed if seed is None else seed,
        connections=settings.connections if connections is None else connections,
        max_connections=settings.max_connections if max_connections is None else max_connections,
        tmax_ms=traffic.tmax_ms(bodies, settings.tmax_ms) if tmax is None else tmax,
        patience_ms=settings.patience_ms,
        keep_every=max(1, round(rate * duration / settings.sample)) if settings.sample else 0,
        headers=_headers(header or []),
    )
    watched, notes = measure.server(url, admin, pid or [])
    result, told = measure.measure(load, watched, notes, Console(stderr=True))
    report.print_tables(console, report.load_tables(told))
    cpu = told["server_cpu_us_per_request"]
    console.print(
        f"{told['achieved_rate']:,.0f} answers/s of {told['offered_rate']:,.0f} offered, "
        f"bid rate {told['bid_rate']:.1%}, server CPU {'not measured' if cpu is None else f'{cpu:.1f} µs'} per request"
    )
    for note in told["notes"]:
        console.print(f"Note: {note}", markup=False)
    measure.publish(load, result, told, json_out, html_out)


@app.command("bench")
def bench_command(
    json_out: Annotated[Path, typer.Option("--json", help="write the figures here")] = Path("var/bench/latest.json"),
    work: Annotated[Path, typer.Option(help="folder for the servers' state; emptied first")] = Path("var/bench/work"),
    rounds: Annotated[int, typer.Option(min=1, help="turns of each server")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="of load in each turn")] = 4.0,
    campaigns: Annotated[int, typer.Option(min=1, help="campaigns all servers decide about")] = 100,
    users: Annotated[int, typer.Option(min=100, help="users with tags in the store")] = 100_000,
    drill_s: Annotated[float, typer.Option("--overload", min=1, help="seconds of twice the possible load")] = 60.0,
) -> None:
    """Measure the bidder against the same job done the obvious way: CPU per request, ratios, latency."""
    from loadtest import bench

    console = Console(highlight=False)
    bench.print_tables(console, bench.run(json_out, work, rounds, seconds, campaigns, users, console, drill_s))
    console.print(f"figures in {json_out}", markup=False)


micro_app.command("http")(micro_http_commands.http)


@micro_app.callback()
def micro_command(
    ctx: typer.Context,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
    campaigns: Annotated[list[int] | None, typer.Option(min=1, help="portfolio sizes [default: 100, 1000]")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="each does every step once")] = 15,
) -> None:
    """Time each step of one bid; figures are stored in var/bench/micro with commit and machine."""
    if ctx.invoked_subcommand is not None:
        return
    from loadtest import micro

    micro.print_tables(Console(highlight=False), micro.run(json_out, campaigns or [100, 1_000], rounds))


@micro_app.command("dmp")
def micro_dmp_command(
    json_out: Annotated[Path | None, typer.Option("--json", help="write the figures here")] = None,
    scale: Annotated[float, typer.Option(min=0.001, help="of every size; the goals are meant at 1")] = 1.0,
    only: Annotated[list[str] | None, typer.Option(help="read, ingest, bitmaps, publish or tags; repeatable")] = None,
) -> None:
    """Measure the DMP's batch side: tags, publishing, reads, bitmaps, ingest; every figure beside its goal."""
    from loadtest import micro_dmp

    micro_dmp.print_table(Console(highlight=False), micro_dmp.run(json_out, scale, only or []))


@micro_app.command("stream")
def micro_stream_command(
    json_out: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
    scale: Annotated[float, typer.Option(min=0.001, help="1 = a million events under kills")] = 1.0,
) -> None:
    """Time events on their way to tags, kill consumers, and compare stream and batch."""
    from loadtest import micro_stream

    found = micro_stream.run(scale, Console(stderr=True))
    Console(highlight=False).print(micro_stream.table(found))
    if json_out is not None:
        micro_stream.write(found, json_out)


@micro_app.command("privacy")
def micro_privacy_command(
    strings: Annotated[int, typer.Option(min=1, help="distinct consent strings")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="times each part is timed")] = 9,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the figures here as JSON")] = None,
) -> None:
    """Time privacy decisions: on consent strings never seen before, and on remembered ones."""
    from loadtest import micro_privacy

    made = micro_privacy.run(json_out, strings, rounds, Console(stderr=True))
    Console(highlight=False).print(micro_privacy.table(made))


@micro_app.command("compare")
def micro_compare_command(
    before: Annotated[str, typer.Argument(help="a stored file, or a commit that was timed")],
    after: Annotated[str, typer.Argument(help="likewise")],
) -> None:
    """Print two runs with their ratios."""
    from loadtest import micro

    micro.print_comparison(Console(highlight=False), micro.read(micro.find(before)), micro.read(micro.find(after)))


@app.command("demo")
def demo_command(
    data: Annotated[Path | None, typer.Option(help="folder of real logs to play instead of a simulated world")] = None,
    out: Annotated[Path, typer.Option(help="where reports and everything made on the way go")] = Path("var/demo"),
) -> None:
    """Everything in one command: events, tags, a click model, a seed, bids, and what they earned."""
    console = Console(highlight=False)
    if data is None:
        from loadtest import demo

        demo.run(out, console)
    else:
        from loadtest import demo_data

        demo_data.run(data, out, console)


@traffic_app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="JSONL(.gz), a .parquet file or a folder of them")],
    out: Annotated[Path, typer.Argument(help="something.jsonl or something.jsonl.gz")],
    limit: Annotated[int | None, typer.Option(help="only the first so many requests")] = None,
) -> None:
    """Write traffic of any kind this room reads as JSONL."""
    from loadtest import traffic

    count = traffic.convert(source, out, limit)
    Console(highlight=False).print(f"{count:,} requests in {out}", markup=False)


def _headers(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not line.isprintable():
            raise TagbidError(f"--header {line!r}: write 'Name: value'")
        found[name.strip()] = value.strip()
    return found


if __name__ == "__main__":
    sys.exit(commands.run(app, "tagbid loadtest", sys.argv[1:]))
