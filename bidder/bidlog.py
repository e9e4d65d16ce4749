"""The bid log: every bid as a `dmp.events` record, written by a thread, bounded, and never in a bid's way.

`put` appends to a list. The next turn of the loop, when the answers are out, has the records made, because what they
are made of is still in the cache then (10 us a bid, against 25 when it is left for `FLUSH_S`). Every `FLUSH_S` the
bytes go to the writer. Files are `bids-<start>-<pid>-<n>.mpk`, concatenated MessagePack, closed and
followed by a new one at `ROTATE_BYTES` or `ROTATE_S`. The writer syncs to disk every `SYNC_S`. A kill loses what was
not handed over yet (10 ms) and may leave a torn last record, which readers (`dmp.events.read`) take as the end. When
the disk does not keep up, records are dropped and counted.
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bidder.defects import DEFECTS

FLUSH_S = 0.01
SYNC_S = 1.0
ROTATE_BYTES = 64 * 1024**2
ROTATE_S = 600.0
MAX_WAITING = 20_000  # records: two seconds at 10,000 bids a second


class BidLog:
    """Appends events to segment files in a directory. failure: the last error of the disk, None while it works."""

    def __init__(
        self,
        directory: Path,
        max_waiting: int = MAX_WAITING,
        rotate_bytes: int = ROTATE_BYTES,
        report: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.written = 0
        self._overflow = 0  # by the loop
        self._lost = 0  # by the writer
        self._unmade = 0  # could not be made into bytes
        self._report = report
        self.failure: OSError | None = None
        self._directory = directory
        self._max_waiting = max_waiting
        self._rotate_bytes = rotate_bytes
        self._waiting: list[Callable[[], bytes]] = []
        self._made: list[bytes] = []
        self._handed = 0  # records given to the writer so far
        self._done = 0  # records the writer is finished with
        self._timer: asyncio.TimerHandle | None = None
        self._blocks: queue.SimpleQueue[tuple[bytes, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="bidlog", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._overflow + self._lost + self._unmade

    def put(self, make: Callable[[], bytes]) -> None:
        """Log the record that `make` will return; it is called after the answer to the bid is out."""
        waiting = self._waiting
        if len(waiting) + len(self._made) + self._handed - self._done >= self._max_waiting:
            self._overflow += 1
            return
        waiting.append(make)
        if len(waiting) == 1:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._make)
            if self._timer is None:
                self._timer = loop.call_later(FLUSH_S, self.flush)

    def _make(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._made += [make() for make in waiting]
        except DEFECTS:
            self._make_each(waiting)

    def _make_each(self, waiting: list[Callable[[], bytes]]) -> None:
        """Make one by one: a record that cannot be made is dropped, counted and told, its neighbours are kept."""
        for make in waiting:
            try:
                self._made.append(make())
            except DEFECTS as error:
                self._unmade += 1
                self._report(error)

    def flush(self) -> None:
        """Hand everything so far to the writer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._make()
        if self._made:
            self._handed += len(self._made)
            self._blocks.put((b"".join(self._made), len(self._made)))
            self._made = []

    def close(self) -> None:
        """Write everything out and end the thread."""
        self.flush()
        self._blocks.put(None)
        self._thread.join()

    def _write(self) -> None:
        file: BinaryIO | None = None
        number = size = 0
        opened_s = synced_s = time.monotonic()
        dirty = False
        while True:
            try:
                block = self._blocks.get(timeout=SYNC_S)
            except queue.Empty:
                block = (b"", 0)
            now_s = time.monotonic()
            try:
                if block is not None and block[0]:
                    if file is None:
                        number += 1
                        file = self._open(number)
                        size, opened_s = 0, now_s
                    _write_all(file, block[0])
                    size += len(block[0])
                    dirty = True
                    self.written += block[1]
                    self.failure = None
                ends = block is None or size >= self._rotate_bytes or now_s - opened_s >= ROTATE_S
                if file is not None and dirty and (ends or now_s - synced_s >= SYNC_S):
                    os.fsync(file.fileno())
                    synced_s, dirty = now_s, False
                if file is not None and ends:
                    file.close()
                    file = None
            except OSError as error:  # a full disk: give this block up, begin a new file with the next one
                self.failure = error
                self._lost += block[1] if block is not None else 0
                file, dirty = None, False
            if block is None:
                return
            self._done += block[1]

    def _open(self, number: int) -> BinaryIO:
        name = f"bids-{int(time.time() * 1000):013d}-{os.getpid()}-{number}.mpk"
        descriptor = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "wb", buffering=0)


def _write_all(file: BinaryIO, block: bytes) -> None:
    left = memoryview(block)
    while left:
        left = left[file.write(left) :]
