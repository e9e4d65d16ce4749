"""What a figure was measured on, so that two of them can be compared."""

import os
import platform
import subprocess
from pathlib import Path

import msgspec

from models import forest

ROOT = Path(__file__).parents[1]


class Machine(msgspec.Struct, frozen=True):
    """kernel: what scores, "c" or "numpy"."""

    cpu: str
    cores: int
    python: str
    kernel: str


class Commit(msgspec.Struct, frozen=True):
    """hash: "" outside a checkout. modified: files differ from it, so the hash does not say all."""

    hash: str
    modified: bool


def machine() -> Machine:
    """The one we are on."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        kernel="numpy" if forest.kernel() is None else "c",
    )


def commit(folder: Path = ROOT) -> Commit:
    """What is checked out in `folder`."""
    found = _git(folder, "rev-parse", "--show-toplevel", "HEAD")
    # An installed copy inside somebody else's checkout is not at that checkout's commit.
    if found is None or Path(found[0]) != folder.resolve():
        return Commit("", modified=False)
    return Commit(found[1], modified=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))


def _git(folder: Path, *arguments: str) -> list[str] | None:
    """Lines of git's answer, None without git or outside a checkout."""
    try:
        found = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.splitlines()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
