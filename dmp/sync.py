"""Id sync: `GET /v1/sync/{partner}` sends a browser on to a partner with our id for it.

Only to a partner of `dmp.collect.sync`, only to the address written there, and only with the user's permission to
read our id; else 204 and no cookie. Nothing of the request but the consent signals gets into the address (S-15).
"""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from aiohttp import web

from dmp import browser
from dmp.desk import DESK
from dmp.errors import ConfigError


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
    response = web.Response(status=302, headers={"Location": filled(target, values), "Cache-Control": "no-store"})
    browser.remember(response, ours, desk.config.collect)
    return response


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
