"""`tagbid <room> <command>`: finds the room, imports nothing of the other rooms, prints errors for people.

Each room's `__main__` exposes `app`, a typer application. Only the room that was asked for is imported, so that
`tagbid bidder serve` starts without the heavy libraries of the batch rooms.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

from rich.console import Console
from typer.main import get_command

from dmp.errors import TagbidError

ROOMS: dict[str, str] = {
    "dmp": "users, tags, seeds and audiences: build, store, serve",
    "models": "features, training, look-alikes, evaluation, registry",
    "bidder": "answer OpenRTB requests; explain single bids",
    "loadtest": "demo, load, traffic, yardsticks",
}
"""{room: one line for `tagbid --help`}, in the order of the imports."""

USAGE_ERROR = 2


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
        return USAGE_ERROR
    return run_room(argv[0], argv[1:])


def run_room(room: str, arguments: Sequence[str]) -> int:
    """Run `tagbid <room> <arguments>`; a TagbidError becomes its message on stderr and exit code 2."""
    try:
        command = get_command(importlib.import_module(f"{room}.__main__").app)
        command.main(args=list(arguments), prog_name=f"tagbid {room}")
    except TagbidError as error:
        Console(stderr=True, highlight=False).print(f"tagbid: {error}", markup=False, soft_wrap=True)
        return USAGE_ERROR
    except SystemExit as stop:  # typer ends every command so, with its exit code
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _print_rooms(out: Console) -> None:
    out.print("Usage: tagbid ROOM COMMAND [OPTIONS]\n", markup=False)
    for room, line in ROOMS.items():
        out.print(f"  {room:<10}{line}")
    out.print("\n`tagbid ROOM --help` lists the commands of a room.")
