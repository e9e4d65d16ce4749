"""The public port by aiohttp: notices, pixels, clicks, conversions, traces, and bids that are not served by the lane.

`_bid` is the ordinary route of a bid, and the oracle of the lane: the same bytes through both give the same answers.
"""

import asyncio
import hmac
import time
from collections.abc import Mapping
from functools import partial

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web

from bidder import trace
from bidder.bidding import Bidder
from bidder.call import Answer
from bidder.campaigns import MAX_PIXEL_VALUE_MICROS
from bidder.config import DEFAULT_EXCHANGE, BidderConfig
from bidder.conversions import Conversions, Told
from bidder.creatives import CLICK_ID
from bidder.endpoints import MAX_BODY_BYTES, PREFIX, VERSION_HEADER, Endpoints, also, plain
from bidder.metrics import Metrics
from bidder.notices import Kind, Notices, Result
from bidder.openrtb import BadRequest
from bidder.replies import refusals
from dmp.gif import PIXEL
from dmp.lookup import Lookup
from dmp.pseudonym import KeyRing

ROUTES: Mapping[str, Kind] = {
    "/win": "win", "/bill": "billing", "/loss": "loss", "/imp": "impression", "/click": "click",
    "/view": "viewable", "/vast": "progress",
}  # fmt: skip
_NO_STORE = {"Cache-Control": "no-store"}


class Public:
    """What answers on the public port besides the lane."""

    def __init__(
        self,
        settings: BidderConfig,
        bidder: Bidder,
        endpoints: Endpoints,
        notices: Notices,
        conversions: Conversions,
        lookup: Lookup,
        ring: KeyRing,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._bidder = bidder
        self._endpoints = endpoints
        self._notices = notices
        self._conversions = conversions
        self._lookup = lookup
        self._ring = ring
        self._refusals = refusals(metrics)
        self._counts = metrics.counts

    def application(self) -> web.Application:
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
        wanted = self._settings.trace_token.encode()
        if not wanted or not hmac.compare_digest(wanted, given):
            return web.Response(status=404)
        name = http.match_info["exchange"]
        exchange = self._settings.exchanges.get(name, DEFAULT_EXCHANGE)
        try:
            found = await trace.trace(
                await http.read(), name, exchange, self._bidder.serving.snapshot, self._lookup, self._ring
            )
        except BadRequest as error:
            return web.json_response({"error": error.reason}, status=400)
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def _pixel_conversion(self, http: web.Request) -> web.Response:
        """From the page behind a conversion: always a pixel, whatever came of it."""
        token = self._conversions.token(http.query.get("t", ""))
        campaign = None if token is None else self._bidder.serving.campaigns.get(token.campaign)
        most = MAX_PIXEL_VALUE_MICROS if campaign is None else campaign.max_pixel_value_micros
        await self._conversions.book(token, http.query, most)
        return web.Response(body=PIXEL, content_type="image/gif", headers=_NO_STORE)

    async def _postback(self, http: web.Request) -> web.Response:
        """From an advertiser's server: 204 counted once, however often it is told; 409 = its click has had as many
        conversions as one may have; 503 = tell it again.
        """
        advertiser = self._settings.advertisers.get(http.match_info["advertiser"])
        given = http.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if advertiser is None or not hmac.compare_digest(f"Bearer {advertiser.token}".encode(), given):
            return web.Response(status=401)
        token = self._conversions.token(http.query.get("t", ""))
        if token is not None:
            campaign = self._bidder.serving.campaigns.get(token.campaign)
            if campaign is None or campaign.advertiser != http.match_info["advertiser"]:
                token = None  # a click of somebody else
        told = await self._conversions.book(token, http.query)
        status = {Told.FORGED: 403, Told.UNAVAILABLE: 503, Told.BAD_VALUE: 400, Told.TOO_MANY: 409}.get(told, 204)
        return web.Response(status=status, headers={"Retry-After": "1"} if status == 503 else None)

    async def _bid(self, http: web.Request) -> web.Response:
        """The ordinary route of a bid: what the lane must equal."""
        if http.content_length is not None and http.content_length > MAX_BODY_BYTES:
            return self._refused(413, close=True)
        try:
            async with asyncio.timeout(self._settings.read_s):
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
        endpoint = self._endpoints.find(
            http.raw_path, http.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        )
        if isinstance(endpoint, int):
            return self._refused(endpoint)
        body = plain(received, http.headers.get("Content-Encoding", ""))
        if isinstance(body, int):
            return self._refused(body)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer = self._bidder.handle(body, endpoint, arrived_s, partial(_resolve, future))
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
        self._counts[self._refusals[status]] += 1
        response = web.Response(status=status)
        if close:
            response.force_close()
        return response

    async def _notice(self, kind: Kind, http: web.Request) -> web.Response:
        result, token = await self._notices.book(kind, http.query)
        if token is None or result is Result.FORGED:
            return web.Response(status=403, text="not a token of ours\n")
        if kind == "click":
            landing = self._bidder.serving.landing.get(token.creative)
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


def _resolve(future: "asyncio.Future[Answer]", answer: Answer) -> None:
    if not future.done():  # the client may have gone
        future.set_result(answer)
