"""Tags for other bidders and real-time engines: `POST /v1/tags:lookup`, up to 100 users in one read of the store.

    {"ids": [{"id": "6d92078a-...", "id_type": "device", "gdpr": 1, "gdpr_consent": "CP..."}, ...]}

The answer has one entry per id, in order: `status` "ok", with the fields the key's scopes open (`tags.longterm`: tags
of the nightly build; `tags.realtime`: what the stream says now; `tags.audiences`: those of the key's owner), or
"no_consent", "bad_id", "unavailable" (not read this time, while others were). An id is looked up only where its user
allows that (purposes 1 and 4, or GDPR said not to apply); saying nothing is no permission. Who opted out,
whom nobody knows and who has no tags are told alike.
"""

import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any

import msgspec
from aiohttp import web

from dmp import codec, keys, limits
from dmp.asked import ask_each
from dmp.desk import DESK, PRINCIPAL, Desk
from dmp.limits import Refused
from dmp.permission import allowed
from dmp.realtime import realtime_tags
from dmp.schema import NOBODY, IdType, Uid, User
from dmp.taxonomy import TAGS, tag_name
from dmp.us_privacy import refuses

MAX_IDS = 100
MAX_BODY_BYTES = 1024**2  # a hundred of the longest TC strings
OPTED_OUT = frozenset({keys.OPTED_OUT, keys.CHILD})


class Asked(msgspec.Struct, frozen=True):
    """One id. gdpr: 1 applies, 0 does not, None unknown, which counts as applying. us_privacy, gpp_sid: as in a bid
    request, see `dmp.us_privacy`.
    """

    id: str
    id_type: IdType = "cookie"
    gdpr: Annotated[int, msgspec.Meta(ge=0, le=1)] | None = None
    gdpr_consent: str = ""
    us_privacy: str = ""
    gpp_sid: list[int] = []


class Question(msgspec.Struct, frozen=True):
    ids: Annotated[list[Asked], msgspec.Meta(max_length=MAX_IDS)]


class _Names(dict[int, str]):
    """Names of tags by id; one of another release has what stands for it."""

    def __missing__(self, tag: int) -> str:
        return tag_name(tag)


_NAMES = _Names({tag.id: tag.name for tag in TAGS})
_question = msgspec.json.Decoder(Question)


async def look_up(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    body = await limits.body(request, MAX_BODY_BYTES, desk.rates.body_s)
    try:
        question = _question.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = f'send {{"ids": [{{"id": "...", "id_type": "device", "gdpr": 0}}]}}, {MAX_IDS} ids at most'
        raise Refused(400, "bad_request", detail) from None
    uids = [_uid(desk, asked) for asked in question.ids]
    users = await read(desk, [uid for uid in uids if isinstance(uid, bytes)])
    now_us = time.time_ns() // 1000
    principal = request[PRINCIPAL]
    own = await desk.audiences_of(principal.advertiser) if open_to(principal.scopes, "audiences") else {}
    found = [
        {"status": uid} if isinstance(uid, str) else known(users[uid], now_us, principal.scopes, own) for uid in uids
    ]
    return limits.answer(200, {"users": found})


def known(user: User | None, now_us: int, scopes: AbstractSet[str], own: Mapping[int, str]) -> dict[str, Any]:
    """One user's entry of the answer; the scope "tags" opens every field. own: the asking tenant's audiences (S-21)."""
    if user is None:
        return {"status": "unavailable"}
    told: dict[str, Any] = {"status": "ok"}
    shown = NOBODY if OPTED_OUT & user.audiences else user
    if open_to(scopes, "longterm"):
        told["longterm"] = named(shown.tags)
    if open_to(scopes, "realtime"):
        told["realtime"] = {} if shown.realtime is None else named(realtime_tags(shown.realtime, now_us))
    if open_to(scopes, "audiences"):
        told["audiences"] = sorted(own[number] for number in shown.audiences & own.keys())
    return told


def named(tags: Mapping[int, int]) -> dict[str, int]:
    return {_NAMES[tag]: score for tag, score in tags.items()}


def open_to(scopes: AbstractSet[str], field: str) -> bool:
    return "tags" in scopes or f"tags.{field}" in scopes


def _uid(desk: Desk, asked: Asked) -> Uid | str:
    """The user to read, or the status that says why there is none."""
    told = allowed(asked.gdpr, asked.gdpr_consent, desk.basis)
    if not told.lookup or refuses(asked.us_privacy, asked.gpp_sid):
        return "no_consent"
    return desk.ring.uid(asked.id_type, asked.id) or "bad_id"


async def read(desk: Desk, uids: Iterable[Uid]) -> Mapping[Uid, User | None]:
    """The users, all in one write to the store; None for one who could not be read.

    Raises Refused (503) when that is so of all.
    """
    asked = dict.fromkeys(uids)
    former = {uid: older for uid in asked if (older := desk.ring.former_of(uid)) is not None}
    everybody = [*asked, *former.values()]
    replies = await ask_each(desk.link, [(b"MGET", *keys.user_keys(uid)) for uid in everybody])
    values = dict(zip(everybody, replies, strict=True))
    for uid, older in former.items():  # known under two keys: a refusal may stand under either
        either = values[uid], values[older]
        failed = next((reply for reply in either if isinstance(reply, Exception)), None)
        values[uid] = failed or codec.joined(*either)
    found = {uid: desk.lookup.decode(values[uid]) for uid in asked}
    if found and all(user is None for user in found.values()):
        raise Refused(503, "store_unavailable", "the tag store does not answer; try again", {"Retry-After": "1"})
    return found
