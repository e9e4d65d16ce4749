"""An event from a page: `GET /v1/pixel.gif?source=shop&kind=cart&category=shoes&gdpr=0`.

The query holds what an item of `POST /v1/events` would; `source` is one of `collect.pixel_sources`, since a page has
no key to show, and an event without `event_id` gets one. The user is the browser, by our first-party cookie, and
only with permission: else no cookie is read or set and the event is kept without an id (P-16). A page cannot state
consent bits of its own.

A page is always answered with the picture, whatever became of the event: nobody there could act on an error. The
status tells: 200 taken, 202 not taken.
"""

import secrets
import time
from typing import Any

import redis
from aiohttp import web

from dmp import browser, collect, incoming
from dmp.desk import DESK
from dmp.gif import PIXEL
from dmp.incoming import Unusable
from dmp.limits import Refused

KINDS = frozenset({"view", "search", "cart", "purchase", "app_use"})
NUMBERS = frozenset({"value_micros", "dwell_ms", "seconds"})
OURS = frozenset({"id", "id_type", "consent", "gdpr", "gdpr_consent", "time_us", "ip", "address", "ids", "other"})
"""Fields of an item that a page may not set."""


async def take_pixel(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    source = request.query.get("source", "")
    if source not in desk.config.collect.pixel_sources:
        raise Refused(404, "unknown_source", "name a source that is listed in dmp.collect.pixel_sources")
    may = browser.signals(request, desk.basis)
    named = may.cookie and bool(may.consent)
    ours = browser.our_id(request) if named else ""
    response = web.Response(body=PIXEL, content_type="image/gif", headers={"Cache-Control": "no-store"})
    try:
        sent = item(dict(request.query), ours, may.consent if named else 0)
        event = incoming.event(sent, source, time.time_ns() // 1000, desk.ring, desk.basis)
        await collect.ready(desk)
        await collect.append(desk, [event])
    except (Unusable, Refused, redis.RedisError):
        response.set_status(202)
        return response
    if named:
        browser.remember(response, ours, desk.config.collect)
    return response


def item(query: dict[str, str], ours: str, consent: int) -> dict[str, Any]:
    """A query as an item of `dmp.incoming`. ours: the browser's id, "" without permission; then consent is 0."""
    found: dict[str, Any] = {name: value for name, value in query.items() if name not in OURS}
    if found.get("kind") not in KINDS:
        found["kind"] = None
    for name in NUMBERS & found.keys():
        if found[name].isascii() and found[name].isdigit() and len(found[name]) <= 16:
            found[name] = int(found[name])
    found.setdefault("event_id", secrets.token_urlsafe(12))
    return {**found, "id": ours, "id_type": "cookie", "consent": consent}
