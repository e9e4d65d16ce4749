"""The admin port, of a single process and of a supervisor: `/metrics`, `/health` and `/ready` (S-27).

`/metrics?brief` leaves out what is told campaign by campaign: tens of thousands of lines in a large portfolio.
"""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

_TEXT = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


def application(
    page: Callable[[bool], Awaitable[str]],
    health: Callable[[], Awaitable[Mapping[str, object]]],
    ready: Callable[[], bool],
) -> web.Application:
    """page: metrics as text, told whether a brief page will do. health: what `/health` says, with 200 as long as it
    can. ready: may bids come here.
    """

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=(await page("brief" in request.query)).encode(), headers=_TEXT)

    async def healthy(_: web.Request) -> web.Response:
        return web.json_response(await health())

    async def is_ready(_: web.Request) -> web.Response:
        now = ready()
        return web.Response(status=200 if now else 503, text="ready\n" if now else "not ready\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", healthy)
    app.router.add_get("/ready", is_ready)
    return app
