"""`tagbid loadtest …`: the commands of this room."""

import sys

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Plays the exchange and the audience.")


@app.callback()
def room() -> None:
    """Plays the exchange and the audience: load, traffic, demo, yardsticks."""


if __name__ == "__main__":
    from loadtest.cli import run_room

    sys.exit(run_room("loadtest", sys.argv[1:]))
