"""A link with which a person opts out without logging in (P-73): `GET` asks, `POST` does it.

The link names the pseudonym, signed with a key of its own (`data_dir/optout.key`), so nobody can opt out for another by
guessing. It does not expire: a right does not either. A `GET` alone changes nothing, since mail programs follow links.
"""

import asyncio
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

from aiohttp import web

from dmp import keys, optout
from dmp.desk import DESK
from dmp.limits import Refused
from dmp.pseudonym import secret_file
from dmp.schema import Uid

ROUTE = "/v1/opt-out"
MAC_BYTES = 16
UID_BYTES = 16
_PAGE = (
    """<!doctype html><html lang="en"><meta charset="utf-8"><title>Advertising choice</title><body>{}</body></html>"""
)
_ASK = '<form method="post"><p>Show me no personalised advertising any more.</p><button>Opt out</button></form>'
_DONE = "<p>Done. You will see no personalised advertising from us.</p>"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def token(data_dir: Path | str, uid: Uid) -> str:
    """What stands behind `?t=` in a person's link; 43 characters that say nothing about the raw id."""
    return urlsafe_b64encode(uid + _mac(data_dir, uid)).rstrip(b"=").decode()


def uid_of(data_dir: Path | str, text: str) -> Uid | None:
    """The user whose link it is; None for what we did not sign."""
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (ValueError, UnicodeEncodeError):
        return None
    uid, mac = data[:UID_BYTES], data[UID_BYTES:]
    genuine = len(data) == UID_BYTES + MAC_BYTES and hmac.compare_digest(mac, _mac(data_dir, uid))
    return uid if genuine else None


def _mac(data_dir: Path | str, uid: Uid) -> bytes:
    key = secret_file(Path(data_dir) / "optout.key")
    return hashlib.blake2b(uid, key=key, digest_size=MAC_BYTES, person=b"opt-out").digest()


def add_routes(app: web.Application) -> None:
    app.router.add_get(ROUTE, ask)
    app.router.add_post(ROUTE, opt_out)


async def ask(request: web.Request) -> web.Response:
    _user(request)
    return _page(_ASK)


async def opt_out(request: web.Request) -> web.Response:
    uid = _user(request)
    await asyncio.to_thread(optout.set_marks, request.app[DESK].client, uid, {keys.OPTED_OUT})
    return _page(_DONE)


def _user(request: web.Request) -> Uid:
    uid = uid_of(request.app[DESK].data_dir, request.query.get("t", ""))
    if uid is None:
        raise Refused(403, "bad_link", "this link is not one of ours, or was cut short; use it as it was sent")
    return uid


def _page(content: str) -> web.Response:
    return web.Response(text=_PAGE.format(content), content_type="text/html", headers=_HEADERS)
