"""The bidder as a process: sockets, routes, background work, an orderly end.

One loop, two ports. The public port serves bids (`bidder.lane`, or the ordinary route with `lane = false`), notices,
pixels and clicks; the admin port, on loopback by default, `/metrics`, `/health` and `/ready` (S-27). SIGTERM and SIGINT
stop accepting, answer what has arrived, hand back unused budget, write the log out.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import redis.exceptions
from aiohttp import web

from bidder import admin, budget, contact, conversions, gauges, notices, nursery, pacer, serving, supply_week, topics
from bidder.bidding import Bidder, new_worker
from bidder.bidlog import BidLog
from bidder.budget import Budgets
from bidder.campaigns import Campaign
from bidder.config import BidderConfig, is_loopback
from bidder.conversions import Conversions
from bidder.copies import Copies
from bidder.defects import Reporter, http_log
from bidder.drawing import Drawer
from bidder.endpoints import Endpoints
from bidder.lane import LINGER_S, MAX_HEADER_BYTES, MAX_HEADERS, lanes
from bidder.metrics import Metrics
from bidder.notices import Notices
from bidder.overload import Pressure
from bidder.pacer import KEEP_S as KEEP_PACE_S
from bidder.pacer import Pacer
from bidder.port import SWEEP_S, Limits, Port
from bidder.routes import Public
from bidder.serving import Serving
from bidder.snapshot import Paces
from bidder.sockets import BACKLOG, bound, url_at, url_of
from bidder.tastes import Source
from bidder.tokens import Signer, bid_id_text, load_keys
from dmp import keys
from dmp.config import DmpConfig
from dmp.errors import StoreUnavailable
from dmp.link import Link
from dmp.lookup import Lookup
from dmp.pseudonym import key_ring
from dmp.store import Store
from dmp.wire import encode

log = logging.getLogger("tagbid.bidder")
TICK_S = 1.0
TICKS = 10  # in a second, each for a part of the campaigns: for 10,000 at once the loop would stand still for 50 ms
DRAIN_S = 2.0


class Service:
    """Everything one bidder process runs, put together: `prepare`, `serve`, then `stop`; `start` is the first two.

    A prepared service holds the snapshot and the connections, follows changes, and neither listens nor takes budget.
    """

    def __init__(
        self, settings: BidderConfig, data_dir: Path, store: Store, inherited: nursery.Loaded | None = None
    ) -> None:
        self.settings = settings
        self._inherited = inherited
        self.metrics = Metrics()
        self.pressure = Pressure(settings.max_in_flight)
        self.lookup = Lookup(store.url)
        self.link = Link(store.url)
        self.copied = Link(store.url)
        self.copies = Copies(self.copied)
        self.report = Reporter()
        self.bidlog = BidLog(data_dir / "bidlog", report=self.report)
        self.signer = Signer(load_keys(data_dir))
        self.ring = key_ring(data_dir)
        self.lookup.former_of = self.ring.former_of if self.ring.rotating else None
        self.endpoints = Endpoints(settings, self.metrics)
        worker = new_worker()
        self.budgets = Budgets(self.link, bid_id_text(worker + bytes(6))[:8], settings.hold_s, copies=self.copies)
        self.notices = Notices(self.link, self.signer, self.budgets, settings, self.metrics, self.bidlog.put)
        self.paces = Paces() if inherited is None else inherited.paces
        self.ratios = serving.Ratios()
        self.topics = topics.Topics() if inherited is None else inherited.topics
        self.preferences = Source(data_dir, lambda: self.lookup.generation)
        self.pacer = Pacer(self._keep_pace)
        self.drawer = Drawer(settings.thompson_seed)
        self.conversions = Conversions(
            self.link, self.signer, self.budgets.now_s, settings, self.metrics, self.bidlog.put
        )
        self._worker = worker
        self._stack: list[Callable[[], Awaitable[object]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._serves = False
        self._campaigns: Mapping[str, Campaign] = {}
        self._retiring: asyncio.TimerHandle | None = None

    async def start(self) -> tuple[str, str]:
        """Load, connect, listen; returns (public URL, admin URL). Raises TagbidError when any of it cannot be done."""
        await self.prepare()
        return await self.serve()

    async def prepare(self) -> None:
        """Take the ports, load, connect. Raises TagbidError when any of it cannot be done."""
        settings = self.settings
        self._public_socket = bound(settings.host, settings.port, shared=settings.workers > 1)
        self._admin_socket = bound(settings.admin_host, settings.admin_port)
        public_url = public_url_of(settings, self._public_socket.getsockname()[1])
        if not is_loopback(settings.host) and not public_url.startswith("https://"):
            log.warning("pages that ask for https get no bids: public_url is %s", public_url)
        try:
            await asyncio.gather(self.lookup.start(), self.link.start())
            if self.link.clustered:
                await self.copied.start()
        except TimeoutError:
            raise StoreUnavailable("the tag store does not answer the bidder; see that it is up and not busy") from None
        seen, first = await self._loaded(public_url)
        self.bidder = Bidder(
            settings, first, self.lookup, self.budgets, self.signer, self.ring, self._worker, self.metrics,
            self.pressure, self.bidlog.put, self.report, self.pacer.saw,
        )  # fmt: skip
        gauges.read_all(
            self.metrics, self.bidder, self.lookup, self.link, self.pressure, self.bidlog, self.topics, self.pacer,
            self.budgets, self.copies,
        )  # fmt: skip
        for script in (budget.SCRIPT, notices.SCRIPT, contact.SCRIPT, conversions.SCRIPT):
            await self.link.everywhere("SCRIPT", "LOAD", script)
        self._tasks = [
            asyncio.create_task(
                serving.follow(
                    settings,
                    public_url,
                    seen,
                    first,
                    self.swap,
                    self.metrics,
                    self.paces,
                    self.ratios,
                    self.topics,
                    self.preferences,
                ),
                name="follow",
            ),
            asyncio.create_task(
                serving.follow_ratios(self.ratios, self.link, lambda: self._campaigns), name="live calibration"
            ),
            asyncio.create_task(
                topics.follow(self.topics, self.link, self._asks_hot, _now_us, self.metrics), name="hot topics"
            ),
        ]
        gc.collect()
        gc.freeze()

    async def _loaded(self, public_url: str) -> tuple[tuple[object, ...], Serving]:
        """The fingerprint and what is served first, by what the store knows: nothing is to be made anew after that."""
        inherited = self._inherited
        if inherited is not None and not self.preferences.version():  # a nursery does not know the live generation
            seen, first = inherited.seen, inherited.serving
        else:
            seen = serving.fingerprint(self.settings)
            first = await asyncio.to_thread(
                serving.load, self.settings, public_url, self.paces, None, self.topics, self.preferences
            )
        self._campaigns = _active(first)
        await serving.read_ratios(self.ratios, self.link, self._campaigns)
        if self.ratios.of:
            first = await asyncio.to_thread(serving.recalibrated, first, self.ratios.of)
        return seen, first

    async def serve(self) -> tuple[str, str]:
        """Take budget and answer; returns (public URL, admin URL)."""
        settings, public, private = self.settings, self._public_socket, self._admin_socket
        self._serves = True
        await self.swap(self.bidder.serving)
        routes = Public(
            settings, self.bidder, self.endpoints, self.notices, self.conversions, self.lookup, self.ring, self.metrics
        )
        runner = web.AppRunner(
            routes.application(),
            access_log=None,
            logger=http_log,
            handle_signals=False,
            keepalive_timeout=settings.idle_s,
            lingering_time=LINGER_S,
            auto_decompress=False,
            max_headers=MAX_HEADERS,
            max_field_size=MAX_HEADER_BYTES,
        )
        await runner.setup()
        assert runner.server is not None  # noqa: S101 - setup made it
        loop = asyncio.get_running_loop()
        self.port = Port(
            self.bidder.handle, self.endpoints, runner.server, Limits(settings.read_s, settings.idle_s), self.metrics,
            sheds=self.bidder.sheds,
        )  # fmt: skip
        listener = await loop.create_server(
            lanes(self.port) if settings.lane else runner.server, sock=public, backlog=BACKLOG
        )
        operators = web.AppRunner(
            admin.application(self._page, self._health, self._ready),
            access_log=None,
            logger=http_log,
            handle_signals=False,
        )
        await operators.setup()
        await web.SockSite(operators, private).start()
        self._stack = [operators.cleanup, runner.cleanup, self._drain]
        self._listener = listener
        self._tasks += [
            asyncio.create_task(self._ticks(), name="ticks"),
            asyncio.create_task(self._deferred(), name="deferred"),
            asyncio.create_task(self._sweeps(), name="sweeps"),
        ]
        self.pressure.start()
        return url_of(settings.host, public), url_of(settings.admin_host, private)

    async def swap(self, made: Serving) -> None:
        """Decide with another snapshot, once its new campaigns have money to bid with."""
        if not self._serves:
            self.bidder.serving = made
            return
        if self._retiring is not None:
            self._retiring.cancel()  # in the middle of this it would take the new campaigns' budgets away again
        before, after = _budgets(self.bidder.serving), _budgets(made)
        self.budgets.know({c.id: c.daily_budget_micros for c in made.snapshot.portfolio.campaigns})
        for _ in self.budgets.configuring(before | after):
            await asyncio.sleep(0)
        try:
            await self.link.everywhere("PING")  # replies come in order: the leases have been answered
        except redis.exceptions.RedisError:
            log.warning("the tag store does not answer; new campaigns bid when it does")
        await self._pace(made)
        self.bidder.serving = made
        self.notices.contacts_keep_s = made.contacts_keep_s
        # Requests that started with the old snapshot may still bid for campaigns that have left.
        self._retiring = asyncio.get_running_loop().call_later(TICK_S, self._retire)

    async def _pace(self, made: Serving) -> None:
        """Pace the campaigns of a snapshot, from where any worker left them."""
        self._campaigns = _active(made)
        new = [name for name in self._campaigns if not self.pacer.knows(name)]
        answers = await self.link.values(list(map(keys.pace, new)))  # without an answer they start anew
        found = {name: pacer.decode(a) for name, a in zip(new, answers, strict=True) if isinstance(a, bytes)}
        kept = {name: pace for name, pace in found.items() if pace is not None}
        week = supply_week.load(Path(self.settings.models_dir))
        self.pacer.configure(self._campaigns.values(), kept, self.budgets.now_s(), week)
        self.paces.of = self.pacer.of

    def _asks_hot(self) -> bool:
        index = self.bidder.serving.snapshot.index
        return index.hot_free != index.everything

    def _keep_pace(self, campaign: str, record: bytes) -> None:
        key = keys.pace(campaign)
        self.link.send(key, encode("SET", key, record, "EX", KEEP_PACE_S), lambda _: None)

    def _retire(self) -> None:
        self.budgets.configure(_budgets(self.bidder.serving))

    async def wait(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; raises what ended a background task, because without them no bid is safe."""
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in done - {stopping}:
            task.result()

    async def stop(self) -> None:
        """Finish what has arrived, give back what is not used."""
        self.pressure.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._stack:
            await self._stack.pop()()
        self.budgets.hand_back()
        if self.budgets.accounts():
            try:
                await self.link.everywhere("PING")
            except redis.exceptions.RedisError:
                log.warning("the tag store does not answer; unused budget is free again when its lease expires")
        await self.lookup.close()
        await self.link.close()
        await self.copied.close()
        self.bidlog.close()

    async def _drain(self) -> None:
        self._listener.close()
        self.port.drain()
        until_s = time.monotonic() + DRAIN_S
        while (self.bidder.in_flight or self.port.lanes) and time.monotonic() < until_s:  # noqa: ASYNC110 - rare, short
            await asyncio.sleep(0.01)
        for lane in list(self.port.lanes):
            lane.end(None)

    async def _ticks(self) -> None:
        last_s = [time.monotonic()] * TICKS
        for part in cycle(range(TICKS)):
            await asyncio.sleep(TICK_S / TICKS)
            now_s = time.monotonic()
            self.budgets.tick(now_s - last_s[part], part, TICKS)
            last_s[part] = now_s
            accounts = self.budgets.accounts(part, TICKS)
            self.pacer.tick(accounts, self._campaigns, self.budgets.now_s(), self.ratios.costs, part)
            self.paces.of = self.pacer.of
            if self.settings.thompson and not part:
                self.drawer.tick(self.budgets.accounts(), self._campaigns, self.ratios.states, self.budgets.now_s())
                if self.drawer.of is not self.paces.drawn:
                    self.paces.draw(self.drawer.of)

    async def _deferred(self) -> None:
        """What browsers told while the store was away is booked when it is back: no browser tells it twice."""
        while True:
            await asyncio.sleep(TICK_S)
            if self.link.up:
                await self.notices.book_deferred()

    async def _sweeps(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.port.sweep()

    async def _page(self, brief: bool) -> str:
        pieces = []
        for piece in self.metrics.pieces(brief):
            pieces.append(piece)
            await asyncio.sleep(0)  # bids first
        return "".join(pieces)

    async def _health(self) -> dict[str, object]:
        """What is degraded is in here."""
        served = self.bidder.serving
        failure = self.bidlog.failure
        return {
            "status": "ok" if self.lookup.link.up and self.link.up and failure is None else "degraded",
            "store": {"lookup": self.lookup.link.up, "notices": self.link.up},
            "generation": self.lookup.generation,
            "snapshot": served.snapshot.version,
            "campaigns": len(served.snapshot.portfolio.campaigns),
            "ads": len(served.parts),
            "bidlog": "ok" if failure is None else str(failure),
        }

    def _ready(self) -> bool:
        """Whether bids may be sent here."""
        return not self.port.draining and self.link.up


def public_url_of(settings: BidderConfig, port: int) -> str:
    """Where exchanges and browsers reach a bidder that listens on a port."""
    return settings.public_url.rstrip("/") or url_at(settings.host, port)


def _now_us() -> int:
    return time.time_ns() // 1000


def _active(served: Serving) -> dict[str, Campaign]:
    return {c.id: c for c in served.snapshot.portfolio.campaigns if c.status == "active"}


def _budgets(served: Serving) -> dict[str, int]:
    return {name: campaign.daily_budget_micros for name, campaign in _active(served).items()}


async def serve(
    settings: BidderConfig,
    dmp: DmpConfig,
    store: Store,
    ready: Callable[[str, str], None],
    turn: Callable[[], Awaitable[bool]] | None = None,
    inherited: nursery.Loaded | None = None,
) -> None:
    """Run one bidder until SIGTERM or SIGINT. ready: called with the public and the admin URL once both answer.

    turn: for a process that stands by: awaited when it is prepared, True lets it serve, False ends it. inherited: what
    need not be loaded.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(settings, Path(dmp.data_dir), store, inherited)
    errors = service.metrics.slot("tagbid_errors_total", where="loop")

    def caught(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        service.metrics.counts[errors] += 1
        error = context.get("exception")
        if isinstance(error, BaseException):
            service.report(error)
        else:
            log.error("event loop: %s", context.get("message"))

    loop.set_exception_handler(caught)
    try:
        await service.prepare()
        if turn is None or await _until(turn, stop):
            ready(*await service.serve())
            await service.wait(stop)
    finally:
        await service.stop()


async def _until(turn: Callable[[], Awaitable[bool]], stop: asyncio.Event) -> bool:
    """What `turn` says, False when `stop` is set first."""
    asked, stopped = asyncio.ensure_future(turn()), asyncio.create_task(stop.wait())
    done, left = await asyncio.wait([asked, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    return asked in done and asked.result()
