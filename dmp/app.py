"""The advertisers' door: upload a seed, ask what became of an audience. JSON over HTTP, one bearer key a tenant.

| route | answers |
|---|---|
| `POST /v1/advertisers/{advertiser}/seeds?name=` | 202 and what matched; body: CSV (see `dmp.seeds`), plain or gzip |
| `GET /v1/advertisers/{advertiser}/audiences` | all of the advertiser's audiences |
| `GET /v1/advertisers/{advertiser}/audiences/{name}` | one |
| `.../insight/size`, `overlap`, `tags`, `POST .../audiences` | audiences by expression (`dmp.insight_routes`) |
| `POST /v1/events` | 202 and what was refused; body: one event, an array, or lines (`dmp.incoming`, `dmp.collect`) |
| `GET /v1/pixel.gif` | a 1x1 GIF; the event stands in the query (`dmp.pixel`) |
| `GET /v1/sync/{partner}` | on to a partner with our id, where the user allows it (`dmp.sync`) |
| `GET`, `POST /v1/opt-out?t=` | asks, and opts a person out; the link is signed (`dmp.optout_link`) |
| `POST /v1/tags:lookup` | what is known of up to 100 users (`dmp.tags_lookup`) |
| `GET /health` | 200 while the tag store answers |

Every route below an advertiser passes `only_its_own`, which knows the advertiser from the key alone: for another
tenant's key the advertiser does not exist (S-21). Errors are `{"error": code, "detail": what to do}`.
"""

import asyncio
import gc
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import redis
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dmp import collect, insight_routes, optout_link, pixel, seeds, store, sync, tags_lookup
from dmp.audiences import WARN_SEED, Audience, BadName, audience_id, told, told_rate
from dmp.catalogue import AlreadyThere, Upload
from dmp.config import DmpConfig
from dmp.desk import DESK, PRINCIPAL, Desk
from dmp.idle import Idle
from dmp.limits import Refused, answer, error, take
from dmp.schema import IdType
from dmp.seeds import BadSeed, SeedTooLarge

CHUNK_BYTES = 1 << 16
MIN_SHARE_PCT, MAX_SHARE_PCT, SHARE_PCT = 0.1, 25.0, 5.0
UPLOAD_SCOPE = "seeds"
MACHINES = {"/v1/events": "events", "/v1/tags:lookup": "tags"}
"""{route for servers: scope of the key it needs}; "tags.realtime" is a part of "tags"."""
FOR_BROWSERS = frozenset({"/v1/pixel.gif", "/v1/sync/{partner}", optout_link.ROUTE})
"""Routes without a key."""
T = TypeVar("T")
_log = logging.getLogger("dmp.app")
# aiohttp logs malformed HTTP with the bytes it stumbled over, which may be anybody's id (P-60).
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(desk: Desk) -> web.Application:
    app = web.Application(middlewares=[answer_errors, only_its_own])
    app[DESK] = desk
    app.router.add_post("/v1/advertisers/{advertiser}/seeds", upload_seed)
    app.router.add_get("/v1/advertisers/{advertiser}/audiences", list_audiences)
    app.router.add_get("/v1/advertisers/{advertiser}/audiences/{name}", show_audience)
    insight_routes.add_routes(app)
    optout_link.add_routes(app)
    app.router.add_post("/v1/events", collect.take_events)
    app.router.add_get("/v1/pixel.gif", pixel.take_pixel, allow_head=False)
    app.router.add_get("/v1/sync/{partner}", sync.send_on, allow_head=False)
    app.router.add_post("/v1/tags:lookup", tags_lookup.look_up)
    app.router.add_get("/health", health)
    return app


@asynccontextmanager
async def listening(desk: Desk) -> AsyncIterator[str]:
    """Serve until left; the URL. Uploads that a killed server left are removed first."""
    seeds.sweep(desk.data_dir)
    await asyncio.to_thread(desk.pressure.look, desk.client)
    await desk.lookup.start()
    app, idle = make_app(desk), Idle(desk.rates.idle_s)
    app.middlewares.insert(0, idle.middleware())
    # Unpacking is bounded in `dmp.seeds`; aiohttp's own would hide the packed size from it.
    runner = web.AppRunner(app, auto_decompress=False, access_log=None, logger=_log, shutdown_timeout=10)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - just made
    watch = asyncio.create_task(idle.watch(runner.server))
    try:
        await web.TCPSite(runner, desk.config.host, desk.config.port).start()
        gc.collect()
        gc.freeze()  # what was loaded to serve is garbage never, and walking it stops every request for tens of ms
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        watch.cancel()
        await runner.cleanup()
        await desk.lookup.close()


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as JSON. What is not foreseen here is aiohttp's plain 500: no text of ours, no traceback."""
    try:
        return await handler(request)
    except Refused as no:
        return error(no.status, no.code, no.detail, no.headers)
    except web.HTTPException as no:
        allow = {"Allow": no.headers["Allow"]} if "Allow" in no.headers else None
        return error(no.status, (no.reason or "error").lower().replace(" ", "_"), "see the API's routes", allow)
    except (BadSeed, BadName) as no:
        return error(400, "bad_seed" if isinstance(no, BadSeed) else "bad_name", str(no))
    except SeedTooLarge as no:
        return error(413, "too_large", str(no))
    except AlreadyThere as no:
        return error(409, "name_taken", str(no))
    except redis.RedisError:
        return error(503, "store_unavailable", "the tag store does not answer; try again", {"Retry-After": "5"})


@web.middleware
async def only_its_own(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Rate limits, the key with the scope that the route needs, and the one advertiser the key is for."""
    desk = request.app[DESK]
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    scope = MACHINES.get(route)
    addresses, keys = (desk.machine_addresses, desk.machine_keys) if scope else (desk.addresses, desk.keys)
    take(addresses, request.remote or "")
    if not request.path.startswith("/v1/") or route in FOR_BROWSERS:
        return await handler(request)
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    principal = await desk.principal(key.strip(), scope is not None) if kind.lower() == "bearer" else None
    if principal is None:
        detail = "send a valid key as `Authorization: Bearer tb_...`"
        raise Refused(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})
    take(keys, principal.advertiser)
    if scope is None and request.match_info.get("advertiser") != principal.advertiser:
        raise web.HTTPNotFound
    needed = scope or UPLOAD_SCOPE
    if not any(held == needed or held.startswith(f"{needed}.") for held in principal.scopes):
        raise Refused(403, "forbidden", f"this key does not have the scope {needed!r}; ask for one that has")
    request[PRINCIPAL] = principal
    return await handler(request)


async def upload_seed(request: web.Request) -> web.Response:
    desk, advertiser = request.app[DESK], request.match_info["advertiser"]
    name, id_type, share_pct, include_seed = _wishes(request)
    audience_id(advertiser, name)  # a bad or taken name is told before the upload, not after
    taken = await asyncio.to_thread(desk.catalogue.audience, advertiser, name)
    if taken is not None and taken.state not in ("expired", "refused"):
        raise AlreadyThere(f"audience {taken.id} exists; choose another name")
    if (request.content_length or 0) > desk.config.max_upload_bytes:
        raise SeedTooLarge(f"more than {desk.config.max_upload_bytes:,} bytes; upload it in parts")
    known = await asyncio.to_thread(desk.known_users)
    with desk.upload_slot(advertiser), seeds.receive(desk.data_dir, desk.ring, id_type, desk.limits) as upload:
        while chunk := await _read(request, desk.rates.stall_s):
            await _finish(upload.feed, chunk)

        def accept() -> Audience:
            got = upload.match(known)
            try:
                return desk.catalogue.add_audience(advertiser, name, got, share_pct, include_seed, _now_us())
            except AlreadyThere:
                (desk.data_dir / got.seed_file).unlink()
                raise

        audience = await _finish(accept)
    return answer(202, {**told_audience(audience), "warnings": _warnings(desk.config, audience)})


async def list_audiences(request: web.Request) -> web.Response:
    found = await asyncio.to_thread(request.app[DESK].catalogue.audiences, request.match_info["advertiser"])
    return answer(200, {"audiences": [told_audience(audience) for audience in found]})


async def show_audience(request: web.Request) -> web.Response:
    advertiser, name = request.match_info["advertiser"], request.match_info["name"]
    found = await asyncio.to_thread(request.app[DESK].catalogue.audience, advertiser, name)
    if found is None:
        raise web.HTTPNotFound
    return answer(200, told_audience(found))


async def health(request: web.Request) -> web.Response:
    generation = await asyncio.to_thread(store.live_generation, request.app[DESK].client)
    return answer(200, {"status": "ok", "generation": generation})


def told_audience(audience: Audience) -> dict[str, Any]:
    """An audience as its advertiser may see it. uploaded and invalid are lines of the own file; all else about
    users is rounded (P-65).
    """
    return {
        "audience": audience.id,
        "name": audience.name,
        "state": audience.state,
        "message": audience.message,
        "uploaded": audience.rows,
        "invalid": audience.invalid,
        "matched": told(audience.matched),
        "match_rate": told_rate(audience.matched, audience.distinct),
        "members": told(audience.members),
        "share_pct": audience.share_pct,
        "include_seed": audience.include_seed,
        "report": audience.report,
        "created_us": audience.created_us,
        "expires_us": audience.expires_us,
    }


def _warnings(config: DmpConfig, upload: Audience | Upload) -> list[str]:
    if upload.matched < config.min_seed:
        return [f"fewer than {config.min_seed} known users: this seed will be refused; upload more identifiers"]
    if upload.matched < WARN_SEED:
        return [f"fewer than {WARN_SEED:,} known users: expect a rough audience"]
    return []


def _wishes(request: web.Request) -> tuple[str, IdType | None, float, bool]:
    """name, id type, share in per cent, whether the seed is in the audience too. Raises Refused."""
    query = request.query
    unknown = set(query) - {"name", "id_type", "share_pct", "include_seed"}
    if unknown or len(query) != len(set(query)):
        raise Refused(400, "bad_query", "known are name, id_type, share_pct and include_seed, each once")
    id_type = query.get("id_type")
    if id_type is not None and id_type not in seeds.ID_TYPES:
        raise Refused(400, "bad_query", f"id_type is one of {', '.join(sorted(seeds.ID_TYPES))}")
    try:
        share_pct = float(query.get("share_pct", SHARE_PCT))
    except ValueError:
        share_pct = math.nan
    if not MIN_SHARE_PCT <= share_pct <= MAX_SHARE_PCT:
        raise Refused(400, "bad_query", f"share_pct is a number from {MIN_SHARE_PCT} to {MAX_SHARE_PCT}")
    include_seed = query.get("include_seed", "false")
    if include_seed not in ("true", "false"):
        raise Refused(400, "bad_query", "include_seed is true or false")
    if request.content_type.startswith("multipart/"):
        raise Refused(415, "unsupported", "send the file itself as the body, for instance: curl --data-binary @FILE")
    if request.headers.get("Content-Encoding", "identity").lower() not in ("identity", "gzip"):
        raise Refused(415, "unsupported", "send plain or gzipped CSV")
    return query.get("name", ""), cast("IdType | None", id_type), share_pct, include_seed == "true"


async def _read(request: web.Request, stall_s: float) -> bytes:
    try:
        async with asyncio.timeout(stall_s):
            return await request.content.read(CHUNK_BYTES)
    except TimeoutError:
        raise Refused(408, "stalled", f"nothing arrived for {stall_s:g} s; send it again") from None
    except (ConnectionError, web.RequestPayloadError):
        raise Refused(400, "broken_transfer", "the body ended before its time; send it again") from None


async def _finish(work: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread and wait for its end even when cancelled: it works in the upload's folder, which then goes."""
    task = asyncio.create_task(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _now_us() -> int:
    return time.time_ns() // 1000
