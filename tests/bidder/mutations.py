"""Broken and odd bid requests made from good ones; the same seed gives the same bytes."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bidder.factories import a_body

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 99, 1e308, -1e308, 1e-320, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 0.1,
    86.0, "", " ", "0", "1", "x", "\x00", "\ud800", "\u202e\u0000", "é" * 40, "a" * 9_000, "IAB1", "USA", "[]",
    "{}", "null", "NaN", "${AUCTION_PRICE}", "-1", "1e9", "../../etc/passwd", "<script>", "'; DROP TABLE x; --",
    "\r\nSet-Cookie: a=b", [], {}, [[]], [{}], [None], {"": None}, ["x"] * 300, [0] * 300,
    {"ext": {"ext": {"ext": {}}}},
)  # fmt: skip
NOTICED = (
    "id", "imp", "banner", "video", "audio", "native", "format", "w", "h", "bidfloor", "bidfloorcur", "pmp",
    "deals", "at", "tmax", "cur", "bcat", "badv", "battr", "btype", "mimes", "protocols", "api", "user", "device",
    "regs", "gdpr", "consent", "gpp", "gpp_sid", "us_privacy", "coppa", "ext", "geo", "lat", "lon", "ip", "ua",
    "ifa", "schain", "secure", "instl", "wseat", "bseat", "test", "site", "app", "dooh", "content", "keywords",
    "poddur", "maxseq", "rqddurs", "rwdd", "metric", "type", "value", "plcmt", "placement", "maxextended", "wratio",
    "hratio", "wmin", "podid", "poddedupe", "source", "fd", "pchain", "guar", "wlang", "wlangb", "kwarray", "search",
    "title", "page", "cattax", "durfloors", "mincpmpersec",
)  # fmt: skip
"""Fields a bidder reads: changed more often than the rest."""


def originals(shared: Path | None) -> list[Any]:
    """Good requests: the real ones where they are, else a few of our own."""
    if shared is not None:
        with gzip.open(shared / "openrtb" / "requests.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line)["request"] for line in lines]
    video = {"mimes": ["video/mp4"], "minduration": 5, "maxduration": 30, "protocols": [2, 3, 7], "w": 640, "h": 360}
    native = {"request": '{"ver":"1.2","assets":[{"id":1,"required":1,"title":{"len":90}}]}', "ver": "1.2"}
    deal = {"id": "d", "bidfloor": 1, "bidfloorcur": "USD", "at": 1, "wseat": ["acme"]}
    imp = {"id": "1", "bidfloor": 0.1, "banner": {"w": 300, "h": 250, "format": [{"w": 300, "h": 250}]}}
    return [
        a_body(),
        a_body(imp=[imp | {"pmp": {"private_auction": 0, "deals": [deal]}}]),
        a_body(imp=[{"id": "v", "video": video}, {"id": "n", "native": native}, {"id": "a", "audio": video}]),
        a_body(user={"buyeruid": "u", "consent": "C", "ext": {"consent": "x"}}, regs={"gdpr": 1, "ext": {"gdpr": 0}}),
        a_body(app={"bundle": "com.x", "cat": ["IAB9"]}, site=None, bcat=["IAB7"], badv=["x.example"], wseat=["acme"]),
    ]


def mutated(good: list[Any], seed: int, n: int) -> Iterator[bytes]:
    """n bodies: of ten, six are good requests with odd values, three with broken bytes, one is noise."""
    rng = random.Random(seed)
    texts = [json.dumps(request) for request in good]
    for _ in range(n):
        kind = rng.random()
        if kind < 0.1:
            yield bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
            continue
        request = json.loads(rng.choice(texts))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            request = _changed(request, rng)
        body = json.dumps(request, allow_nan=True).encode()
        yield _broken(body, rng) if kind < 0.4 else body


def _changed(request: Any, rng: random.Random) -> Any:
    """One field removed, replaced, copied from elsewhere, or added."""
    places = list(_places(request))
    if not places:
        return rng.choice(ODD)
    known = [place for place in places if place[1] in NOTICED]
    holder, key = rng.choice(known if known and rng.random() < 0.7 else places)
    action = rng.random()
    if action < 0.2:
        del holder[key]
    elif action < 0.6:
        holder[key] = _copy(rng.choice(ODD))
    elif action < 0.75:
        other, place = rng.choice(places)
        holder[key] = _copy(other[place])
    elif action < 0.85 and isinstance(holder, dict):
        holder[rng.choice(NOTICED)] = _copy(rng.choice(ODD))
    elif action < 0.95:
        holder[key] = [_copy(holder[key]) for _ in range(rng.choice((1, 2, 120)))]
    else:
        deep: Any = holder[key]
        for _ in range(rng.choice((5, 100))):
            deep = {"ext": deep} if rng.random() < 0.5 else [deep]
        holder[key] = deep
    return request


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of everything inside."""
    stack = [value]
    while stack:
        holder = stack.pop()
        if isinstance(holder, dict):
            for key, inner in holder.items():
                yield holder, key
                stack.append(inner)
        elif isinstance(holder, list):
            for position, inner in enumerate(holder):
                yield holder, position
                stack.append(inner)


def _broken(body: bytes, rng: random.Random) -> bytes:
    """Bytes lost, changed, doubled or put in."""
    at = rng.randrange(len(body) + 1)
    action = rng.randrange(5)
    if action == 0:
        return body[:at]
    if action == 1:
        return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    if action == 2:
        to = rng.randrange(len(body) + 1)
        return body[:to] + body[at:]
    if action == 3:
        return (
            body[:at] + rng.choice((b"\\ud800", b"\xff\xfe", b"{" * 3_000, b"[" * 3_000, b"1e999", b"\x00")) + body[at:]
        )
    return body + body[:at]
