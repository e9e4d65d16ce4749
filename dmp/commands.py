"""Runs a room's commands for people: an error they can act on is its message and exit code 2, not a traceback."""

import traceback
from collections.abc import Sequence

import typer
from rich.console import Console
from typer.main import get_command

from dmp.errors import TagbidError

USAGE_ERROR = 2
DEFECT = 70  # as in sysexits.h; Python's own would be 1, which commands end with to say no


def run(app: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, 2 for a TagbidError, 70 for a defect, else the command's own.

    name: how usage lines call the program, such as "tagbid dmp".
    """
    try:
        get_command(app).main(args=list(arguments), prog_name=name)
    except TagbidError as error:
        Console(stderr=True, highlight=False).print(f"tagbid: {error}", markup=False, soft_wrap=True)
        return USAGE_ERROR
    except SystemExit as stop:  # typer ends every command so, with its exit code
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:  # noqa: BLE001 - the end of a process, whatever it is: told in full
        traceback.print_exc()
        return DEFECT
    return 0
