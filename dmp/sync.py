"""Id sync: `GET /v1/sync/{partner}` sends a browser on to a partner with our id for it.

Only to a partner of `dmp.collect.sync`, only to the address written there, and only with the user's permission to
read our id; else 204 and no cookie. Nothing of the request but the consent signals gets into the address (S-15).

The partner may send its own id along: `?uid=<its id>&sig=<HMAC-SHA256 of that id, hex>`, under the secret of
`dmp.collect.sync_secrets`. With the user's permission for a profile an event then says that both are one person's,
as pseudonyms (P-60), and the next build knows them so; a bid request of the partner that names its id finds what this
browser did. Unsigned ids are not taken: anybody could send a browser here with anybody's id.
"""

import hmac
import time
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote, urlsplit

import redis
from aiohttp import web

from dmp import browser, collect
from dmp.desk import DESK
from dmp.errors import ConfigError
from dmp.events import CONSENT_PROFILE, Crm, pack_ids
from dmp.limits import Refused


async def send_on(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    target = desk.config.collect.sync.get(request.match_info["partner"])
    if target is None:
        raise web.HTTPNotFound
    if not browser.signals(request, desk.basis).lookup:
        return web.Response(status=204)
    ours = browser.our_id(request)
    gdpr = "0" if request.query.get("gdpr") == "0" else "1"
    values = {"ID": ours, "GDPR": gdpr, "GDPR_CONSENT": request.query.get("gdpr_consent", "")}
    await _take_up(request, ours)
    response = web.Response(status=302, headers={"Location": filled(target, values), "Cache-Control": "no-store"})
    browser.remember(response, ours, desk.config.collect)
    return response


async def _take_up(request: web.Request, ours: str) -> None:
    """Into the stream: the partner's id and ours are one person's. What cannot be taken up costs no redirect."""
    desk, partner = request.app[DESK], request.match_info["partner"]
    theirs, consent = request.query.get("uid", ""), browser.signals(request, desk.basis).consent
    secret = desk.config.collect.sync_secrets.get(partner)
    if not theirs or secret is None or not consent & CONSENT_PROFILE or not signed(theirs, secret, request.query):
        return
    pair = desk.ring.uid("cookie", ours), desk.ring.uid("exchange", f"{partner}:{theirs}")
    if pair[0] is None or pair[1] is None or desk.ring.uid("exchange", theirs) is None:  # the id itself must be one
        return
    event = Crm(
        event_id=desk.ring.event_id(f"sync:{partner}", f"{ours} {theirs}"),
        uid=pair[0],
        ids=pack_ids([("cookie", pair[0]), ("exchange", pair[1])]),
        time_us=time.time_ns() // 1000,
        source=f"sync:{partner}",
        consent=consent,
    )
    with suppress(Refused, redis.RedisError):  # the browser comes by again
        await collect.ready(desk)
        await collect.append(desk, [event])


def signed(theirs: str, secret: str, query: Mapping[str, str]) -> bool:
    """Whether the partner says so.

    >>> signed("abc", "0123456789abcdef", {"sig": "8b42f1a2"})
    False
    """
    expected = hmac.new(secret.encode(), theirs.encode("utf-8", "replace"), "sha256").hexdigest()
    return hmac.compare_digest(expected.encode(), query.get("sig", "").lower().encode("utf-8", "replace"))


def filled(target: str, values: Mapping[str, str]) -> str:
    """An address with its macros replaced.

    >>> filled("https://p.example/match?u=${ID}", {"ID": "a b"})
    'https://p.example/match?u=a%20b'
    """
    for name, value in values.items():
        target = target.replace("${" + name + "}", quote(value, safe=""))
    return target


def check(partners: Mapping[str, str]) -> None:
    """Raises ConfigError naming every partner whose address is none to send a browser to."""
    problems = []
    for partner, target in partners.items():
        try:
            parts = urlsplit(target)
            port_is_fine = parts.port is None or parts.port > 0
        except ValueError:
            problems.append(f"[dmp.collect.sync] {partner}: {target!r} is no URL")
            continue
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host or parts.username is not None or not port_is_fine:
            problems.append(f"[dmp.collect.sync] {partner}: needs an http or https URL with a host and no user")
        elif "$" in parts.netloc or "${ID}" not in target or not target.isascii() or not target.isprintable():
            problems.append(f"[dmp.collect.sync] {partner}: ${{ID}} must stand behind the host, in plain ASCII")
    if problems:
        raise ConfigError("settings", problems)
