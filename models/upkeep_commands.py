"""`tagbid models upkeep`: a daily training and hourly refits, one at a time, until stopped.

Each is the command of its name in a process of its own: what it took of memory goes with it, and one that dies costs
itself alone. Publishing moves a pointer, so a process that is ended half-way has changed nothing.
"""

import fcntl
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console

from dmp import config as configuration
from dmp.errors import TagbidError
from models import artefacts, upkeep
from models.config import ModelsConfig
from models.upkeep import Job, Name

KIND = "response"
ENDINGS = {upkeep.PUBLISHED: "published", upkeep.REFUSED: "not published, the live model stays"}
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]


def keep_up(
    bidlog: Annotated[Path, typer.Argument(help="Folder of bid log files (*.mpk) of bids, impressions and clicks.")],
    archive: Annotated[Path | None, typer.Option(help="Folder of the event archive, as for `train`.")] = None,
    train_every_s: Annotated[float, typer.Option(min=1, help="Seconds from one training to the next.")] = 86_400.0,
    refit_every_s: Annotated[float, typer.Option(min=1, help="Seconds from one refit to the next.")] = 3_600.0,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Have each print its JSON, a line.")] = False,
) -> None:
    """Train daily and refit hourly, one at a time, until stopped; the gate holds as for `train` and `refit`.

    Goes on where it was when started again. What failed is counted, told, and tried again after ten minutes.
    """
    root = Path(configuration.load("models", ModelsConfig, config).models_dir)
    every_s: dict[Name, float] = {"train": train_every_s, "refit": refit_every_s}
    options = [str(bidlog)]
    for name, value in (("--archive", archive), ("--config", config)):
        options += [] if value is None else [name, str(value)]
    options += ["--json"] if as_json else []
    told = Console(stderr=True, soft_wrap=True)
    with _alone(root) as lock, _Runs(lock) as runs:
        jobs = upkeep.read(root)
        while not runs.stop.is_set():
            began_s = time.time()
            name, when_s = upkeep.next_of(jobs, every_s, artefacts.current(root, KIND) is not None, began_s)
            if when_s > began_s:
                told.print(f"next: {name} at {time.strftime('%F %T', time.gmtime(when_s))} UTC", markup=False)
                runs.stop.wait(when_s - began_s)
                continue
            code = runs.run([sys.executable, "-m", "models", name, *options])
            if code is None:
                break
            jobs = upkeep.after(jobs, name, began_s, code)
            upkeep.write(root, jobs)
            told.print(
                f"{name}: {ENDINGS.get(code, f'failed with exit code {code}')}; {_so_far(jobs[name])}", markup=False
            )


def _so_far(job: Job) -> str:
    return f"{job.published} published, {job.refused} refused, {job.errors} errors so far"


@contextmanager
def _alone(root: Path) -> Iterator[int]:
    """Hold the lock of a registry, a file descriptor. Raises TagbidError where somebody else does."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "upkeep.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TagbidError(f"another `tagbid models upkeep` works on {root}; one is enough, stop it first") from None
        yield lock.fileno()


class _Runs:
    """Processes one after the other, until a signal ends the one at work and sets `stop`.

    lock: is theirs too, so that one which outlives us still keeps others out.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self.stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: list[str]) -> int | None:
        """The exit code of a command; None when it was stopped."""
        with subprocess.Popen(command, pass_fds=[self._lock]) as self._process:  # noqa: S603 - our own command
            if self.stop.is_set():  # the signal came while it was being started
                self._process.terminate()
            code = self._process.wait()
        return None if self.stop.is_set() else code

    def _end(self, *_: object) -> None:
        self.stop.set()
        if self._process is not None:
            self._process.terminate()
