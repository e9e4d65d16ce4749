"""Several bidder processes on one port, and one in reserve: `tagbid bidder serve --workers N`.

The kernel spreads connections over the workers (SO_REUSEPORT). Workers are forks of one process that has loaded
everything (`bidder.nursery`). Each connects and then stands by until it is told to serve; one more than needed is kept
standing by, so that a worker that dies is replaced by a line on a pipe. The supervisor owns the tag store when it is
embedded, watches the workers, and answers the admin port for all of them.

A worker's standard input is its lifeline: `serve` lets it serve, its end (the supervisor's death, however sudden)
lets it finish what has arrived and leave. SIGTERM and SIGINT do the same to all.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from asyncio import StreamReader
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path

import aiohttp
from aiohttp import web

from bidder import admin, nursery
from bidder.config import BidderConfig
from bidder.merge import Merged
from bidder.metrics import Metrics
from bidder.sockets import bound, url_of
from bidder.tokens import load_keys
from dmp.errors import TagbidError
from dmp.pseudonym import load_key

log = logging.getLogger("tagbid.bidder")
PREPARED, SERVE = "prepared", "serve"  # what worker and supervisor say
POLL_S = 1.0  # how often brief metrics are collected: what a worker counts after the last time is lost with it
SCRAPE_S = 1.0
PAGE_S = 5.0  # for a whole page, which a busy worker makes between bids
SHORT_LIFE_S = 5.0  # a worker that ends sooner would end again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
LEAVE_S = 15.0  # for workers to drain
NURSERY_S = 5.0  # for a nursery without workers to end


class NoWorker(TagbidError):
    """No worker process could be started."""


class State(StrEnum):
    STARTING = "starting"
    STANDBY = "standby"
    SERVING = "serving"


class Worker:
    """One worker process. admin: its own admin URL, "" before it serves. said: its output, ends with it."""

    def __init__(self, number: int, pid: int, lifeline: int, said: StreamReader) -> None:
        self.number = number
        self.pid = pid
        self.said = said
        self._lifeline = lifeline
        self.state = State.STARTING
        self.admin = ""
        self.since_s = time.monotonic()

    def serve(self) -> None:
        """Let a worker that stands by take connections; one that has just died is noticed by its output's end."""
        self.state = State.SERVING
        with suppress(OSError):
            os.write(self._lifeline, f"{SERVE}\n".encode())

    def leave(self) -> None:
        """Have it finish what it began and end."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


class Supervisor:
    """Keeps `settings.workers` workers serving. command: starts a nursery, but for its options."""

    def __init__(self, settings: BidderConfig, data_dir: Path, command: Sequence[str]) -> None:
        self.workers: list[Worker] = []
        self._settings = settings
        self._data_dir = data_dir
        self._command = command
        self._started = 0
        self._births = asyncio.Lock()
        self._nursery: Process | None = None
        self._control: socket.socket | None = None
        self._pause_s = 0.0
        self._leaving = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._failed = False
        self._merged = Merged()
        self._own = Metrics()
        self._exits = self._own.slot("tagbid_worker_exits_total")
        self._own.read("tagbid_workers", self._states)

    async def run(self, stop: asyncio.Event, ready: Callable[[str, str], None]) -> None:
        """Serve until `stop` is set. ready: as for a single process. Raises NoWorker when none can be started."""
        settings = self._settings
        load_keys(self._data_dir)  # made once, here, not by workers at the same time
        load_key(self._data_dir / "pseudonym.key")
        reserved = bound(settings.host, settings.port, shared=True)  # keeps the port ours while workers come and go
        admin_socket = bound(settings.admin_host, settings.admin_port)
        self._port = reserved.getsockname()[1]
        async with aiohttp.ClientSession() as http:
            self._http = http
            runner = web.AppRunner(
                admin.application(self._page, self._health, self._is_ready), access_log=None, handle_signals=False
            )
            try:
                self._keep(self._fill())  # not awaited: loading may take a while, and may be broken off
                stopping = asyncio.create_task(stop.wait())
                serving = asyncio.create_task(self._ready.wait())
                await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
                serving.cancel()
                if self._failed:
                    raise NoWorker("no worker could be started; its message stands above")
                if not stop.is_set():
                    await runner.setup()
                    await web.SockSite(runner, admin_socket).start()
                    ready(url_of(settings.host, reserved), url_of(settings.admin_host, admin_socket))
                while not stop.is_set():
                    await asyncio.wait([stopping], timeout=POLL_S)
                    await self._collect(brief=True)
                stopping.cancel()
            finally:
                await self._leave()
                await runner.cleanup()
                reserved.close()

    # ---- workers

    async def _fill(self) -> None:
        """Have as many workers born as are missing, the one in reserve included."""
        async with self._births:
            while len(self.workers) <= self._settings.workers and not self._leaving.is_set():
                worker = await self._birth()
                if worker is not None:
                    self.workers.append(worker)
                    self._keep(self._watch(worker))
                    if self._leaving.is_set():  # born while the others were told to leave
                        worker.leave()
                elif not self._ready.is_set():
                    self._failed = True
                    self._ready.set()
                    return
                elif not self._leaving.is_set():
                    log.error("no worker can be born; trying again")
                    await self._rest(LONGEST_PAUSE_S)

    async def _birth(self) -> Worker | None:
        """A new worker of the nursery, or of another one when that has ended; None when there cannot be any."""
        for _ in range(2):
            try:
                if self._nursery is None or self._nursery.returncode is not None:
                    await self._open_nursery()
                worker = None if self._leaving.is_set() else await self._born()
            except OSError as error:  # no descriptor, process or memory is left: that may pass
                log.error("no process can be started: %s", error)  # noqa: TRY400 - for its reader, not a defect
                return None
            if worker is not None or self._leaving.is_set():
                return worker
            assert self._nursery is not None  # noqa: S101 - opened above
            await self._nursery.wait()
            if not self._ready.is_set():
                return None
        return None

    async def _born(self) -> Worker | None:
        """A worker of the nursery, None when that ends instead. Raises OSError when there is no descriptor left."""
        assert self._nursery is not None and self._control is not None  # noqa: S101, PT018 - opened before
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, lifeline = os.pipe()
            theirs.callback(os.close, stdin)
            ours.callback(os.close, lifeline)
            said, stdout = os.pipe()
            theirs.callback(os.close, stdout)
            ours.callback(os.close, said)
            told = b""
            with suppress(OSError):  # it has ended
                nursery.ask(self._control, stdin, stdout)
                told = await self._nursery.stdout.readline()  # type: ignore[union-attr]  # started with a pipe
            if not told:
                return None
            ours.pop_all()
        reader = StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(said, "rb", buffering=0)
        )
        self._started += 1
        return Worker(self._started, int(told), lifeline, reader)

    async def _open_nursery(self) -> None:
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair()
        command = [*self._command, "--port", str(self._port), "--workers", str(self._settings.workers)]
        with theirs:
            self._nursery = await asyncio.create_subprocess_exec(
                *command, stdin=theirs.fileno(), stdout=PIPE, env=os.environ | nursery.ENVIRON
            )

    async def _watch(self, worker: Worker) -> None:
        """Follow one worker from its birth to its end."""
        while line := (await worker.said.readline()).decode().split():
            if line[0] == PREPARED:
                worker.state = State.STANDBY
                self._promote()
            elif line[0] == "ready":
                worker.admin = line[3]
                if all(w.admin for w in self._serving()) and len(self._serving()) == self._settings.workers:
                    self._ready.set()
        worker.leave()
        self.workers.remove(worker)
        self._merged.leave(str(worker.number))
        if self._leaving.is_set():
            return
        if not self._ready.is_set():
            self._failed = True
            self._ready.set()
            return
        self._own.counts[self._exits] += 1
        log.error("worker %d (process %d) ended while %s; replacing it", worker.number, worker.pid, worker.state)
        self._promote()
        short = time.monotonic() - worker.since_s < SHORT_LIFE_S
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S) if short else 0.0
        await self._rest(self._pause_s)
        await self._fill()

    async def _rest(self, seconds: float) -> None:
        """Pause, at most until it is time to leave."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()

    def _promote(self) -> None:
        """Let workers that stand by serve, as long as some are missing."""
        for worker in [] if self._leaving.is_set() else self.workers:
            if len(self._serving()) < self._settings.workers and worker.state is State.STANDBY:
                worker.serve()

    def _serving(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state is State.SERVING]

    async def _leave(self) -> None:
        """End all workers in good order; those that do not go in time are killed."""
        self._leaving.set()
        for worker in self.workers:
            worker.leave()
        if self._births.locked() and self._nursery is not None:  # it may be loading still, for nobody
            with suppress(ProcessLookupError):
                self._nursery.terminate()
            await self._end_nursery()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=LEAVE_S)
            for worker in self.workers:
                log.error("worker %d does not end; killed", worker.number)
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            if left:
                await asyncio.wait(left)
        await self._end_nursery()

    async def _end_nursery(self) -> None:
        """Have the nursery end, by force where it does not listen; workers do not need it."""
        if self._control is None or self._nursery is None:
            return
        self._control.close()
        try:
            async with asyncio.timeout(NURSERY_S):
                await self._nursery.wait()
        except TimeoutError:
            log.error("the nursery (process %d) does not end; killed", self._nursery.pid)  # noqa: TRY400 - no defect
            with suppress(ProcessLookupError):
                self._nursery.kill()
            await self._nursery.wait()

    def _keep(self, work: "asyncio.Future[None] | object") -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]  # always a coroutine
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the admin port

    async def _collect(self, brief: bool) -> None:
        """Take the latest page of every worker, or a brief one; one that does not answer in time keeps its last."""

        async def one(worker: Worker) -> None:
            url = f"{worker.admin}/metrics"
            page = await (self._get(f"{url}?brief") if brief else self._get(url, PAGE_S))
            if page is not None and worker in self.workers:
                self._merged.update(str(worker.number), page, brief)

        await asyncio.gather(*(one(worker) for worker in self._serving() if worker.admin))

    async def _get(self, url: str, within_s: float = SCRAPE_S) -> str | None:
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(within_s)) as answer:
                return await answer.text() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    def _states(self) -> dict[tuple[tuple[str, str], ...], float]:
        states = [worker.state for worker in self.workers]
        return {(("state", state.value),): float(states.count(state)) for state in State}

    async def _page(self, brief: bool) -> str:
        await self._collect(brief)
        self._merged.update("", self._own.expose())
        return self._merged.expose(brief)

    async def _health(self) -> dict[str, object]:
        """Well while enough workers serve; each worker's own health is in here."""
        serving = [worker for worker in self._serving() if worker.admin]
        pages = await asyncio.gather(*(self._get(f"{worker.admin}/health") for worker in serving))
        workers = {worker.number: page or "no answer" for worker, page in zip(serving, pages, strict=True)}
        well = len(serving) == self._settings.workers and all('"status": "ok"' in page for page in workers.values())
        return {"status": "ok" if well else "degraded", "workers": workers}

    def _is_ready(self) -> bool:
        return not self._leaving.is_set() and any(worker.admin for worker in self._serving())


async def supervise(
    settings: BidderConfig, data_dir: Path, options: Sequence[str], ready: Callable[[str, str], None]
) -> None:
    """Run workers until SIGTERM or SIGINT. options: of the worker command, such as the configuration file."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    command = [sys.executable, "-m", "bidder", "nursery", *options]
    await Supervisor(settings, data_dir, command).run(stop, ready)


_lifelines: set[asyncio.Future[bytes]] = set()
"""Nobody else holds on to them: a collection would take one, and with it the news that the supervisor has gone."""


async def told_to_serve() -> bool:
    """In a worker: say that it stands by, then wait; False when the supervisor has gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sys.stdout.write(f"{PREPARED}\n")
    sys.stdout.flush()
    line = await reader.readline()
    if line.decode().strip() != SERVE:
        return False
    lifeline = asyncio.ensure_future(reader.read())
    _lifelines.add(lifeline)
    lifeline.add_done_callback(lambda _: signal.raise_signal(signal.SIGTERM))
    return True
