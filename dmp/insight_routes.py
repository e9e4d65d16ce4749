"""An advertiser's questions about audiences over HTTP: the floors and the log of `dmp.insight`, its own audiences only.

| route below `/v1/advertisers/{advertiser}` | query | answers |
|---|---|---|
| `GET /insight/size` | `expression` | `dmp.insight.Size` |
| `GET /insight/overlap` | `a`, `b` | `dmp.insight.Overlap` |
| `GET /insight/tags` | `expression`, `base` (default `all`) | `dmp.insight.Insight` |
| `POST /audiences` | `name`, `expression`, `days` (default 30) | 201, a live audience |
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from dmp import choosing
from dmp.audiences import audience_id, told
from dmp.choosing import UnknownAudience
from dmp.desk import DESK, Desk
from dmp.expression import BadExpression
from dmp.insight import Asker, TooFewUsers
from dmp.limits import Refused, answer

MAX_DAYS, DAYS = 365, 30
DAY_US = 86_400_000_000


def add_routes(app: web.Application) -> None:
    """Mount below the advertisers, where `dmp.app.only_its_own` guards them."""
    below = "/v1/advertisers/{advertiser}"
    app.router.add_get(f"{below}/insight/size", size)
    app.router.add_get(f"{below}/insight/overlap", overlap)
    app.router.add_get(f"{below}/insight/tags", tags)
    app.router.add_post(f"{below}/audiences", create)


async def size(request: web.Request) -> web.Response:
    (expression,) = _query(request, "expression")
    return await _asked(request, lambda asker: asker.size(expression))


async def overlap(request: web.Request) -> web.Response:
    a, b = _query(request, "a", "b")
    return await _asked(request, lambda asker: asker.overlap(a, b))


async def tags(request: web.Request) -> web.Response:
    expression, base = _query(request, "expression", base="all")
    return await _asked(request, lambda asker: asker.insight(expression, base))


async def create(request: web.Request) -> web.Response:
    name, expression, days = _query(request, "name", "expression", days=str(DAYS))
    desk, advertiser = request.app[DESK], request.match_info["advertiser"]
    audience_id(advertiser, name)
    if not days.isdigit() or not 1 <= int(days) <= MAX_DAYS:
        raise Refused(400, "bad_query", f"days is a whole number from 1 to {MAX_DAYS}")

    def make(asker: Asker) -> dict[str, Any]:
        now_us = _now_us()
        ends_us = now_us + int(days) * DAY_US
        made = choosing.create(
            desk.config, desk.catalogue, desk.client, asker, advertiser, name, expression, ends_us, now_us
        )
        return {"audience": made.id, "state": made.state, "members": told(made.members), **made.report}

    return await _asked(request, make, 201)


async def _asked(request: web.Request, ask: Callable[[Asker], Any], status: int = 200) -> web.Response:
    """Ask in a thread and answer; what is wrong with the question is told, what does not exist is 404."""
    desk, advertiser = request.app[DESK], request.match_info["advertiser"]
    try:
        return answer(status, msgspec.to_builtins(await asyncio.to_thread(_ask, desk, advertiser, ask)))
    except BadExpression as no:
        raise Refused(400, "bad_expression", str(no)) from None
    except TooFewUsers as no:
        raise Refused(422, "too_few_users", str(no)) from None
    except UnknownAudience as no:
        raise Refused(404, "unknown_audience", str(no)) from None


def _ask(desk: Desk, advertiser: str, ask: Callable[[Asker], Any]) -> Any:
    desk.known_users()
    with choosing.asking(desk.config, desk.catalogue, desk.client, _now_us, advertiser) as asker:
        return ask(asker)


def _query(request: web.Request, *needed: str, **defaults: str) -> list[str]:
    """The texts of the query by name, each once; raises Refused for others, missing and repeated ones."""
    known = {*needed, *defaults}
    query = request.query
    if set(query) - known or len(query) != len(set(query)) or not set(needed) <= set(query):
        raise Refused(
            400, "bad_query", f"needed are {', '.join(needed)}; known are {', '.join(sorted(known))}, each once"
        )
    return [*(query[name] for name in needed), *(query.get(name, value) for name, value in defaults.items())]


def _now_us() -> int:
    return time.time_ns() // 1000
