"""The driver in a process of its own, so that it never takes turns with the server or a progress bar for one core.

The job goes in by file, the result comes back by file, and a few shared bytes say how far it is. The child dies
with its parent.
"""

import mmap
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dmp.errors import TagbidError
from loadtest import children, driver
from loadtest.load import Load, Result

_PROGRESS = struct.Struct("<QQ")  # sent, done
_POLL_S = 0.05
_ARRAYS = ("due_us", "lag_us", "latency_us", "status", "bid", "tmax_us")


def play(load: Load, on_tick: Callable[[int, int], None] = lambda _sent, _done: None) -> Result:
    """As `driver.play`, in a child process; on_tick is called here, in the parent.

    Raises TagbidError with the child's message when the load could not be sent.
    """
    with tempfile.TemporaryDirectory(prefix="tagbid-load-") as folder:
        job, progress = Path(folder, "job"), Path(folder, "progress")
        job.write_bytes(msgspec.msgpack.encode(load))
        progress.write_bytes(bytes(_PROGRESS.size))
        command = [sys.executable, "-m", "loadtest.generator", folder]
        with progress.open("r+b") as file, mmap.mmap(file.fileno(), _PROGRESS.size) as shared:
            with children.started("load generator", command, Path(folder, "log")) as child:
                while child.process.poll() is None:
                    on_tick(*_PROGRESS.unpack(shared[:]))
                    time.sleep(_POLL_S)
                if (complaint := Path(folder, "complaint")).exists():
                    raise TagbidError(complaint.read_text())
                if child.process.returncode:
                    child.check()
            on_tick(*_PROGRESS.unpack(shared[:]))
        return unpack(Path(folder, "result").read_bytes())


def pack(result: Result) -> bytes:
    fields = msgspec.structs.asdict(result)
    return msgspec.msgpack.encode({**fields, **{name: fields[name].tobytes() for name in _ARRAYS}})


def unpack(data: bytes) -> Result:
    fields: dict[str, Any] = msgspec.msgpack.decode(data, strict=False)
    return Result(**{**fields, **{name: np.frombuffer(fields[name], np.int64) for name in _ARRAYS}})


def _main(folder: Path) -> None:
    load = msgspec.msgpack.decode((folder / "job").read_bytes(), type=Load)
    with (folder / "progress").open("r+b") as file, mmap.mmap(file.fileno(), _PROGRESS.size) as shared:

        def tell(sent: int, done: int) -> None:
            shared[:] = _PROGRESS.pack(sent, done)

        try:
            result = driver.play(load, on_tick=tell)
        except TagbidError as error:
            (folder / "complaint").write_text(str(error))
            return
    (folder / "result").write_bytes(pack(result))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
