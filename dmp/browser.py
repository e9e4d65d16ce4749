"""Our first-party id in a browser: when it may be read and set, and its cookie.

A browser's signals are in the query (`gdpr`, `gdpr_consent`, `us_privacy`, `gpp_sid`, as ad servers pass them on) and
in its headers:
`Sec-GPC: 1` and `DNT: 1` refuse (P-22, P-31). Without any word on GDPR it applies (P-10).
"""

import re
import secrets

from aiohttp import web

from dmp.config import CollectConfig
from dmp.permission import NOTHING, Allowed, Basis, allowed
from dmp.us_privacy import refuses

COOKIE = "tagbid_id"
_OURS = re.compile(r"[A-Za-z0-9_-]{22}")
_REFUSALS = ("Sec-GPC", "DNT")


def signals(request: web.Request, us: Basis) -> Allowed:
    """What this browser's user allows."""
    if any(request.headers.get(name) == "1" for name in _REFUSALS):
        return NOTHING
    if refuses(request.query.get("us_privacy"), request.query.get("gpp_sid")):
        return NOTHING
    gdpr = {"0": 0, "1": 1}.get(request.query.get("gdpr", ""))
    return allowed(gdpr, request.query.get("gdpr_consent", ""), us)


def our_id(request: web.Request) -> str:
    """The id in the browser's cookie, or a new one. To be called with permission only."""
    held = request.cookies.get(COOKIE, "")
    return held if _OURS.fullmatch(held) else secrets.token_urlsafe(16)


def remember(response: web.StreamResponse, value: str, config: CollectConfig) -> None:
    """Set the cookie, or set it anew: its life counts from the last visit."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=config.cookie_days * 86_400,
        path="/v1",
        secure=config.cookie_secure,
        httponly=True,
        samesite="None" if config.cookie_secure else "Lax",
    )
