"""Child processes that die with us, and that say when they are ready.

The kernel sends a child SIGKILL when the thread that started it ends, however it ends (Linux parent-death signal),
so start children from the main thread. On other systems a watcher thread in the child would be needed; there we
only clean up on a regular exit.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dmp.errors import TagbidError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildFailed(TagbidError):
    """A process of ours ended or never became ready; carries the end of what it printed."""


class Child:
    """One running command. log: where its output goes; name: how messages call it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def check(self) -> None:
        """Raise ChildFailed when the process has ended."""
        if self.process.poll() is not None:
            raise ChildFailed(f"{self.name} ended with status {self.process.returncode}; {self.tail()}")

    def tail(self, characters: int = 1_500) -> str:
        text = self.log.read_text(errors="replace").strip() if self.log.exists() else ""
        return f"the end of {self.log}:\n{text[-characters:]}" if text else f"{self.log} is empty"


@contextlib.contextmanager
def started(
    name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None, stop_s: float = 10.0
) -> Iterator[Child]:
    """Run a command with its output in `log`; on leaving, SIGTERM, then SIGKILL after stop_s seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            preexec_fn=_die_with_parent(os.getpid()),
        )
    try:
        yield Child(name, process, log)
    finally:
        process.terminate()
        try:
            process.wait(stop_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(child: Child, ready: Callable[[], bool], timeout_s: float = 30.0, every_s: float = 0.05) -> None:
    """Poll `ready` until it is true; raises ChildFailed when the child ends or the time is up."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        child.check()
        if time.monotonic() > deadline:
            raise ChildFailed(f"{child.name} was not ready within {timeout_s:.0f} s; {child.tail()}")
        time.sleep(every_s)


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    libc = _LIBC
    if libc is None:
        return None

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the signal was armed
            os._exit(1)

    return arm
