"""`tagbid <room> <command>`: finds the room, imports nothing of the other rooms, prints errors for people.

Each room's `__main__` exposes `app`, a typer application. Only the room that was asked for is imported, so that
`tagbid bidder serve` starts without the heavy libraries of the batch rooms.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

from rich.console import Console

from dmp import commands

ROOMS: dict[str, str] = {
    "dmp": "users, tags, seeds and audiences: build, store, serve",
    "models": "features, training, look-alikes, evaluation, registry",
    "bidder": "answer OpenRTB requests; explain single bids",
    "loadtest": "demo, load, traffic, yardsticks",
}
"""{room: one line for `tagbid --help`}, in the order of the imports."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for an error its reader can act on, else the command's own."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    if not argv or argv[0] in ("-h", "--help"):
        _print_rooms(out)
        return 0
    if argv[0] in ("-V", "--version"):
        out.print(f"tagbid {metadata.version('tagbid')}")
        return 0
    if argv[0] not in ROOMS:
        err.print(f"tagbid: no room {argv[0]!r}; there are: {', '.join(ROOMS)}", markup=False)
        return commands.USAGE_ERROR
    if argv[:2] == ["models", "bench"]:
        _lend_parts()
    return commands.run(importlib.import_module(f"{argv[0]}.__main__").app, f"tagbid {argv[0]}", argv[1:])


def _lend_parts() -> None:
    """The parts of `tagbid models bench` that need the world or the bidder, which the models' room may not import."""
    from loadtest import click_bench, realtime_bench, refit_bench, replay_bench, training_bench, world_bench
    from models import bench

    bench.PARTS[replay_bench.PART] = replay_bench.figures
    bench.PARTS[click_bench.PART] = click_bench.figures
    bench.PARTS[world_bench.PART] = world_bench.figures
    bench.PARTS[world_bench.ADDITIVE_PART] = world_bench.additive
    bench.PARTS[world_bench.LEAK_PART] = world_bench.leak
    bench.PARTS[realtime_bench.PART] = realtime_bench.figures
    bench.PARTS[refit_bench.PART] = refit_bench.figures
    bench.PARTS[training_bench.PART] = training_bench.figures


def _print_rooms(out: Console) -> None:
    out.print("Usage: tagbid ROOM COMMAND [OPTIONS]\n", markup=False)
    for room, line in ROOMS.items():
        out.print(f"  {room:<10}{line}")
    out.print("\n`tagbid ROOM --help` lists the commands of a room.")
