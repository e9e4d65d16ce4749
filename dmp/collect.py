"""Events over HTTP into the stream: `POST /v1/events`.

The body is one event, an array of them (`application/json`), or one a line (`application/x-ndjson`), gzip allowed;
`dmp.incoming` says what an event is. The answer is 202 once the store has acknowledged the good ones, with the others
told by their place, and those kept without ids, for want of a permission, by their number; 400 when none was good.
After any other answer the same events may be sent again: copies count once. The key's owner is the events' source;
ids are linked only with a key of the scope `events.link`.

A sender must wait (429 with Retry-After) while its rate is used up or events are not worked off (`dmp.pressure`).
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from dmp import incoming, keys, limits, streams
from dmp.asked import ask_all
from dmp.desk import DESK, PRINCIPAL, Desk
from dmp.errors import CorruptRecord
from dmp.events import Behaviour
from dmp.incoming import Format, Taken, Unusable
from dmp.limits import Refused
from dmp.optout import marks_in
from dmp.schema import NO_UID, Uid

LINK_SCOPE = "events.link"
FORMATS: dict[str, Format] = {
    "application/json": "json",
    "text/plain": "json",  # what a browser's sendBeacon says
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
}


async def take_events(request: web.Request) -> web.Response:
    desk, principal = request.app[DESK], request[PRINCIPAL]
    form = FORMATS.get(request.content_type)
    if form is None:
        raise Refused(415, "unsupported", f"the Content-Type is one of {', '.join(FORMATS)}")
    await ready(desk)
    body = await limits.body(request, desk.config.collect.max_body_bytes, desk.rates.body_s)
    try:
        may_link = LINK_SCOPE in principal.scopes
        taken = incoming.take(body, form, principal.advertiser, _now_us(), desk.ring, desk.basis, may_link)
    except Unusable as why:
        raise Refused(400, why.code, why.detail) from None
    if taken.events:
        await append(desk, taken.events)
    return limits.answer(202 if taken.events else 400, told(taken))


def told(taken: Taken) -> dict[str, Any]:
    """What a sender learns. error, detail: as in every refusal, where nothing was taken. anonymous: how many of the
    accepted events are kept without their ids because the sender stated no permission to build a profile.
    """
    anonymous = sum(event.uid == NO_UID for event in taken.events)
    refused = [{"index": place, "error": why.code, "detail": why.detail} for place, why in taken.refused]
    if taken.events:
        told: dict[str, Any] = {"accepted": len(taken.events), "refused": refused}
        return told | {"anonymous": anonymous} if anonymous else told
    return {"error": "no_event", "detail": "the body holds no good event", "accepted": 0, "refused": refused}


async def ready(desk: Desk) -> None:
    """Raises Refused (429) while senders have to wait, redis.exceptions.RedisError while the store is away."""
    if desk.pressure.due():
        await asyncio.to_thread(desk.pressure.look, desk.client)
    if desk.pressure.wait_s:
        detail = "more events wait than are worked off; send these again later"
        raise Refused(429, "busy", detail, {"Retry-After": str(desk.pressure.wait_s)})


async def append(desk: Desk, happened: Sequence[Behaviour]) -> None:
    """Into the stream, without the ids of users who opted out; returns once the store has acknowledged all.

    Raises redis.exceptions.RedisError when it has not: some may be there, and may be sent again under the same ids.
    """
    named = set[Uid]().union(*map(incoming.persons, happened)) - {NO_UID}
    formers = {uid: former for uid in named if (former := desk.ring.former_of(uid)) is not None}
    if formers:  # a key is being rotated
        await desk.carrier.carry(desk.link, formers)
    refused = await opted_out(desk, [*named, *formers.values()])
    gone = {uid for uid in named if uid in refused or formers.get(uid) in refused}
    now_us = _now_us()
    kept = (streams.clamp(incoming.without(event, gone) if gone else event, now_us) for event in happened)
    await ask_all(desk.link, list(streams.commands(kept, desk.config.stream.partitions)))


async def opted_out(desk: Desk, uids: Iterable[Uid]) -> set[Uid]:
    """Those of the users who want no personalised advertising, or are children (P-32); one round trip."""
    asked = list(uids)
    records = await ask_all(desk.link, [(b"GET", keys.audiences(uid)) for uid in asked])
    return {uid for uid, record in zip(asked, records, strict=True) if _refuses(record)}


def _refuses(record: bytes | None) -> bool:
    try:
        return bool(marks_in(record))
    except CorruptRecord:  # of a later release: what cannot be read may be a refusal
        return True


def _now_us() -> int:
    return time.time_ns() // 1000
