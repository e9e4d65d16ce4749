"""The bidder as a process: sockets, routes, background work, an orderly end.

One loop, two ports. The public port serves bids (`bidder.lane`, or the ordinary route with `lane = false`), notices,
pixels and clicks; the admin port, on loopback by default, `/metrics`, `/health` and `/ready` (S-27). SIGTERM and SIGINT
stop accepting, answer what has arrived, hand back unused budget, write the log out.
"""

import asyncio
import gc
import hmac
import logging
import signal
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import redis.exceptions
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from bidder import budget, contact, conversions, notices, pacer, serving, supply_week, topics, trace
from bidder.bidding import Answer, Bidder, new_worker
from bidder.bidlog import BidLog
from bidder.budget import Account, Budgets
from bidder.campaigns import Campaign
from bidder.config import DEFAULT_EXCHANGE, BidderConfig, is_loopback
from bidder.conversions import Conversions, Told
from bidder.creatives import CLICK_ID
from bidder.drawing import Drawer
from bidder.endpoints import MAX_BODY_BYTES, PREFIX, VERSION_HEADER, Endpoints, also, plain
from bidder.lane import LINGER_S, MAX_HEADER_BYTES, MAX_HEADERS, lanes
from bidder.metrics import Metrics
from bidder.notices import Kind, Notices, Result
from bidder.openrtb import BadRequest
from bidder.overload import Pressure
from bidder.pacer import KEEP_S as KEEP_PACE_S
from bidder.pacer import Pacer
from bidder.pacing import Pace
from bidder.port import SWEEP_S, Limits, Port
from bidder.serving import Serving
from bidder.snapshot import Paces
from bidder.sockets import BACKLOG, bound, url_of
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
http_log = logging.getLogger("tagbid.bidder.http")


def _is_ours(record: logging.LogRecord) -> bool:
    """False for what a caller did wrong: aiohttp would log the bytes it stumbled over, ids among them (P-60, S-05)."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError))


http_log.addFilter(_is_ours)
TICK_S = 1.0
DRAIN_S = 2.0
PIXEL = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002014400 3b".replace(" ", "")
)
ROUTES: Mapping[str, Kind] = {
    "/win": "win", "/bill": "billing", "/loss": "loss", "/imp": "impression", "/click": "click",
    "/view": "viewable", "/vast": "progress",
}  # fmt: skip
_NO_STORE = {"Cache-Control": "no-store"}


class Reporter:
    """Logs defects: what and where, never values, which may be personal data (P-60); one line a second (S-05)."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._silent = 0

    def __call__(self, error: BaseException) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._silent += 1
            return
        self._next_s = now_s + 1
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        log.error("defect: %s at %s (%d more not shown)", type(error).__name__, where, self._silent)
        self._silent = 0


class Service:
    """Everything one bidder process runs, put together: `prepare`, `serve`, then `stop`; `start` is the first two.

    A prepared service holds the snapshot and the connections, follows changes, and neither listens nor takes budget.
    """

    def __init__(self, settings: BidderConfig, data_dir: Path, store: Store) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.pressure = Pressure(settings.max_in_flight)
        self.lookup = Lookup(store.url)
        self.link = Link(store.url)
        self.report = Reporter()
        self.bidlog = BidLog(data_dir / "bidlog")
        self.signer = Signer(load_keys(data_dir))
        self.ring = key_ring(data_dir)
        self.lookup.former_of = self.ring.former_of if self.ring.rotating else None
        self.endpoints = Endpoints(settings, self.metrics)
        worker = new_worker()
        self.budgets = Budgets(self.link, bid_id_text(worker + bytes(6))[:8], settings.hold_s)
        self.notices = Notices(self.link, self.signer, self.budgets, settings, self.metrics, self.bidlog.put)
        self.paces = Paces()
        self.ratios = serving.Ratios()
        self.topics = topics.Topics()
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

    async def start(self) -> tuple[str, str]:
        """Load, connect, listen; returns (public URL, admin URL). Raises TagbidError when any of it cannot be done."""
        await self.prepare()
        return await self.serve()

    async def prepare(self) -> None:
        """Take the ports, load, connect. Raises TagbidError when any of it cannot be done."""
        settings = self.settings
        self._public_socket = bound(settings.host, settings.port, shared=settings.workers > 1)
        self._admin_socket = bound(settings.admin_host, settings.admin_port)
        public_url = settings.public_url.rstrip("/") or url_of(settings.host, self._public_socket)
        if not is_loopback(settings.host) and not public_url.startswith("https://"):
            log.warning("pages that ask for https get no bids: public_url is %s", public_url)
        seen = serving.fingerprint(settings)
        first = await asyncio.to_thread(
            serving.load, settings, public_url, self.paces, None, self.topics, self.preferences
        )
        try:
            await asyncio.gather(self.lookup.start(), self.link.start())
        except TimeoutError:
            raise StoreUnavailable("the tag store does not answer the bidder; see that it is up and not busy") from None
        self.bidder = Bidder(
            settings, first, self.lookup, self.budgets, self.signer, self.ring, self._worker, self.metrics,
            self.pressure, self.bidlog.put, self.report, self.pacer.saw,
        )  # fmt: skip
        self._gauges()
        for script in (budget.SCRIPT, notices.SCRIPT, contact.SCRIPT, conversions.SCRIPT):
            await self.link.everywhere("SCRIPT", "LOAD", script)
        self._tasks = [
            asyncio.create_task(
                serving.follow(
                    settings,
                    public_url,
                    seen,
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

    async def serve(self) -> tuple[str, str]:
        """Take budget and answer; returns (public URL, admin URL)."""
        settings, public, admin = self.settings, self._public_socket, self._admin_socket
        self._serves = True
        await self.swap(self.bidder.serving)
        runner = web.AppRunner(
            self._public(),
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
            self.bidder.handle, self.endpoints, runner.server, Limits(settings.read_s, settings.idle_s), self.metrics
        )
        listener = await loop.create_server(
            lanes(self.port) if settings.lane else runner.server, sock=public, backlog=BACKLOG
        )
        operators = web.AppRunner(self._admin(), access_log=None, logger=http_log, handle_signals=False)
        await operators.setup()
        await web.SockSite(operators, admin).start()
        self._stack = [operators.cleanup, runner.cleanup, self._drain]
        self._listener = listener
        self._tasks += [
            asyncio.create_task(self._ticks(), name="ticks"),
            asyncio.create_task(self._deferred(), name="deferred"),
            asyncio.create_task(self._sweeps(), name="sweeps"),
        ]
        self.pressure.start()
        return url_of(settings.host, public), url_of(settings.admin_host, admin)

    async def swap(self, made: Serving) -> None:
        """Decide with another snapshot, once its new campaigns have money to bid with."""
        if not self._serves:
            self.bidder.serving = made
            return
        before, after = _budgets(self.bidder.serving), _budgets(made)
        self.budgets.know({c.id: c.daily_budget_micros for c in made.snapshot.portfolio.campaigns})
        self.budgets.configure(before | after)
        try:
            await self.link.everywhere("PING")  # replies come in order: the leases have been answered
        except redis.exceptions.RedisError:
            log.warning("the tag store does not answer; new campaigns bid when it does")
        await self._pace(made)
        self.bidder.serving = made
        self.notices.contacts_keep_s = made.contacts_keep_s
        # Requests that started with the old snapshot may still bid for campaigns that have left.
        asyncio.get_running_loop().call_later(TICK_S, self._retire)

    async def _pace(self, made: Serving) -> None:
        """Pace the campaigns of a snapshot, from where any worker left them."""
        self._campaigns = {c.id: c for c in made.snapshot.portfolio.campaigns if c.status == "active"}
        new = [name for name in self._campaigns if not self.pacer.knows(name)]
        asked = (self.link.execute("GET", keys.pace(name)) for name in new)
        answers = await asyncio.gather(*asked, return_exceptions=True)  # without an answer they start anew
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
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self.budgets.tick(now_s - last_s)
            last_s = now_s
            self.pacer.tick(self.budgets.accounts(), self._campaigns, self.budgets.now_s(), self.ratios.costs)
            self.paces.of = self.pacer.of
            if self.settings.thompson:
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

    # ---- the public port, by aiohttp

    def _public(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post(PREFIX + "{exchange}", self._bid)
        for path, kind in ROUTES.items():
            handler = partial(self._notice, kind)
            app.router.add_get(path, handler, allow_head=False)
            app.router.add_post(path, handler)
        app.router.add_post("/trace/{exchange}", self._trace)
        app.router.add_get("/conv", self._pixel_conversion, allow_head=False)
        for method in ("GET", "POST"):
            app.router.add_route(method, "/postback/{advertiser}", self._postback)
        return app

    async def _trace(self, http: web.Request) -> web.Response:
        """For who knows the operator's secret; for all others there is nothing here."""
        given = http.headers.get(trace.HEADER, "").encode("utf-8", "surrogateescape")
        wanted = self.settings.trace_token.encode()
        if not wanted or not hmac.compare_digest(wanted, given):
            return web.Response(status=404)
        name = http.match_info["exchange"]
        exchange = self.settings.exchanges.get(name, DEFAULT_EXCHANGE)
        try:
            found = await trace.trace(
                await http.read(), name, exchange, self.bidder.serving.snapshot, self.lookup, self.ring
            )
        except BadRequest as error:
            return web.json_response({"error": error.reason}, status=400)
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def _pixel_conversion(self, http: web.Request) -> web.Response:
        """From the page behind a conversion: always a pixel, whatever came of it."""
        await self.conversions.book(self.conversions.token(http.query.get("t", "")), http.query)
        return web.Response(body=PIXEL, content_type="image/gif", headers=_NO_STORE)

    async def _postback(self, http: web.Request) -> web.Response:
        """From an advertiser's server: 204 counted once, however often it is told; 409 = its click has had as many
        conversions as one may have; 503 = tell it again.
        """
        advertiser = self.settings.advertisers.get(http.match_info["advertiser"])
        given = http.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if advertiser is None or not hmac.compare_digest(f"Bearer {advertiser.token}".encode(), given):
            return web.Response(status=401)
        token = self.conversions.token(http.query.get("t", ""))
        if token is not None and self._advertiser_of(token.campaign) != http.match_info["advertiser"]:
            token = None  # a click of somebody else
        told = await self.conversions.book(token, http.query)
        status = {Told.FORGED: 403, Told.UNAVAILABLE: 503, Told.BAD_VALUE: 400, Told.TOO_MANY: 409}.get(told, 204)
        return web.Response(status=status, headers={"Retry-After": "1"} if status == 503 else None)

    def _advertiser_of(self, campaign: str) -> str:
        """The advertiser of a campaign; an empty text when it is not in the portfolio."""
        portfolio = self.bidder.serving.snapshot.portfolio
        return next((one.advertiser for one in portfolio.campaigns if one.id == campaign), "")

    async def _bid(self, http: web.Request) -> web.Response:
        """The ordinary route of a bid: what the lane must equal."""
        if http.content_length is not None and http.content_length > MAX_BODY_BYTES:
            return self._refused(413, close=True)
        try:
            async with asyncio.timeout(self.settings.read_s):
                received = await http.read()
        except TimeoutError:
            return self._refused(408, close=True)
        except web.HTTPRequestEntityTooLarge:
            return self._refused(413, close=True)
        twice = any(len(http.headers.getall(name, ())) > 1 for name in ("Authorization", "Content-Encoding"))
        hosts = http.headers.getall("Host", ())
        named = all(hosts) if hosts else http.version < HttpVersion11
        if twice or not named or http.version not in (HttpVersion10, HttpVersion11):
            return self._refused(400, close=True)
        arrived_s = time.monotonic()
        endpoint = self.endpoints.find(
            http.raw_path, http.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        )
        if isinstance(endpoint, int):
            return self._refused(endpoint)
        body = plain(received, http.headers.get("Content-Encoding", ""))
        if isinstance(body, int):
            return self._refused(body)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer = self.bidder.handle(body, endpoint, arrived_s, partial(_resolve, future))
        if answer is None:
            answer = await future
        more, answer = also(
            http.headers.get(VERSION_HEADER, ""), http.headers.get("Accept-Encoding", ""), answer, endpoint.exchange
        )
        if isinstance(answer, int):
            return web.Response(status=answer, headers=more)
        return web.Response(body=answer, headers={"Content-Type": "application/json", **more})

    def _refused(self, status: int, close: bool = False) -> web.Response:
        """close: the rest of the body is not wanted, so where the next request starts is not known."""
        self.metrics.counts[self.port.refused[status]] += 1
        response = web.Response(status=status)
        if close:
            response.force_close()
        return response

    async def _notice(self, kind: Kind, http: web.Request) -> web.Response:
        result, token = await self.notices.book(kind, http.query)
        if token is None or result is Result.FORGED:
            return web.Response(status=403, text="not a token of ours\n")
        if kind == "click":
            landing = self.bidder.serving.landing.get(token.creative)
            if landing is None:
                return web.Response(status=404, text="this ad is no longer known\n")
            landing = landing.replace(CLICK_ID, http.query["t"])  # a token: it needs no escaping
            # A person is waiting: the click is let through even when it could not be counted.
            return web.Response(status=302, headers={"Location": landing, **_NO_STORE})
        if result is Result.UNAVAILABLE:
            return web.Response(status=503, headers={"Retry-After": "1"})
        if kind in ("impression", "viewable"):
            return web.Response(body=PIXEL, content_type="image/gif", headers=_NO_STORE)
        return web.Response(status=204)

    # ---- the admin port

    def _admin(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        return app

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self.metrics.expose().encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _health(self, _: web.Request) -> web.Response:
        """200 while the process works; what is degraded is in the body."""
        served = self.bidder.serving
        failure = self.bidlog.failure
        return web.json_response(
            {
                "status": "ok" if self.lookup.link.up and self.link.up and failure is None else "degraded",
                "store": {"lookup": self.lookup.link.up, "notices": self.link.up},
                "generation": self.lookup.generation,
                "snapshot": served.snapshot.version,
                "campaigns": len(served.snapshot.portfolio.campaigns),
                "ads": len(served.parts),
                "bidlog": "ok" if failure is None else str(failure),
            }
        )

    async def _ready(self, _: web.Request) -> web.Response:
        """200 when bids may be sent here."""
        ready = not self.port.draining and self.link.up
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n")

    def _gauges(self) -> None:
        read = self.metrics.read
        read("tagbid_store_total", lambda: {(("result", r),): n for r, n in self.lookup.counts.items()})
        read(
            "tagbid_store_up",
            lambda: {
                (("link", "lookup"),): self.lookup.link.share_up,
                (("link", "notices"),): self.link.share_up,
            },
        )
        read(
            "tagbid_store_redirected_total",
            lambda: {
                (("link", name), ("how", how)): float(link.counts[how])
                for name, link in (("lookup", self.lookup.link), ("notices", self.link))
                for how in ("moved", "ask")
            },
        )
        read("tagbid_in_flight", lambda: {(): self.bidder.in_flight})
        read("tagbid_in_flight_limit", lambda: {(): self.pressure.limit})
        read("tagbid_longest_stall_seconds", lambda: {(): self.pressure.longest_stall_s})
        read("tagbid_bidlog_records_total", lambda: {(): self.bidlog.written})
        read("tagbid_bidlog_dropped_total", lambda: {(): self.bidlog.dropped})
        read("tagbid_snapshot_timestamp_seconds", lambda: {(): self.bidder.serving.made_s})
        read("tagbid_hot_topics", lambda: {(): self.topics.count(_now_us())})
        read("tagbid_pace", lambda: _pace_gauges(self.pacer.of))
        read("tagbid_cost_unknown", lambda: {(): self.pacer.untold})
        read("tagbid_budget_micros", lambda: _budget_gauges(self.budgets.accounts()))


def _now_us() -> int:
    return time.time_ns() // 1000


def _budgets(served: Serving) -> dict[str, int]:
    return {c.id: c.daily_budget_micros for c in served.snapshot.portfolio.campaigns if c.status == "active"}


def _budget_gauges(accounts: list[Account]) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        (("campaign", account.campaign), ("state", state)): float(value)
        for account in accounts
        for state, value in (
            ("budget", account.budget),
            ("spent", account.spent),
            ("lease", account.lease),
            ("pending", account.pending),
        )
    }


def _pace_gauges(paces: Mapping[str, Pace]) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        (("campaign", campaign), ("what", what)): value
        for campaign, pace in paces.items()
        for what, value in (("multiplier", pace.k), ("share", pace.share))
    }


def _resolve(future: "asyncio.Future[Answer]", answer: Answer) -> None:
    if not future.done():  # the client may have gone
        future.set_result(answer)


async def serve(
    settings: BidderConfig,
    dmp: DmpConfig,
    store: Store,
    ready: Callable[[str, str], None],
    turn: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Run one bidder until SIGTERM or SIGINT. ready: called with the public and the admin URL once both answer.

    turn: for a process that stands by: awaited when it is prepared, True lets it serve, False ends it.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(settings, Path(dmp.data_dir), store)
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
