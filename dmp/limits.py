"""What a caller may ask of the DMP's door, and how it is told that it may not (S-03, S-26).

A refusal is an exception that `dmp.app` answers as `{"error": code, "detail": what to do}`. Bodies are read here, with
bounds on their packed and unpacked size and on the time they take.
"""

import asyncio
import math
import time
import zlib
from collections import OrderedDict
from typing import Any

import msgspec
from aiohttp import web

MAX_BUCKETS = 10_000
MAX_RATIO = 100  # of unpacked to packed bytes (S-02)
RATIO_FREE_BYTES = 1 << 16  # a small body is no bomb, however well it packs
GZIP = 16 + zlib.MAX_WBITS


class Rates(msgspec.Struct, frozen=True):
    """What one caller may ask of us (S-26, S-23). Per second and at once, of one key and of one address; uploads of
    one tenant at a time; how long an upload may stand still. machine_*: the same of requests that servers make in
    numbers (events, tag lookups), by key and by address; body_s: how long such a request may take to arrive (S-03).
    idle_s: how long a connection may be without a request in hand, its headers on their way or not.
    """

    key_per_s: float = 10
    key_burst: int = 50
    address_per_s: float = 50
    address_burst: int = 200
    uploads: int = 2
    stall_s: float = 30
    machine_per_s: float = 2_000
    machine_burst: int = 4_000
    body_s: float = 10
    idle_s: float = 60


class Refused(Exception):
    """A request answered with an error; `detail` says what to do."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.code, self.detail, self.headers = status, code, detail, headers
        super().__init__(detail)


class Buckets:
    """Token buckets by name; the longest unused ones are forgotten, which can only be generous to them."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str, now: float) -> float:
        """Take a token; 0 when there was one, else the seconds until there is. now: any monotonic seconds."""
        level, since = self._levels.pop(name, (float(self._burst), now))
        level = min(self._burst, level + (now - since) * self._per_s)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_s
        self._levels[name] = (level if wait else level - 1, now)
        if len(self._levels) > MAX_BUCKETS:
            self._levels.popitem(last=False)
        return wait


def take(buckets: Buckets, name: str) -> None:
    """Raises Refused (429) when the caller has no token left."""
    wait_s = buckets.wait_s(name, time.monotonic())
    if wait_s:
        raise Refused(429, "too_many_requests", "slow down", {"Retry-After": str(math.ceil(wait_s))})


async def body(request: web.Request, limit_bytes: int, deadline_s: float) -> bytes:
    """The whole body, unpacked; raises Refused: 408, 413, 415, 400 for one that broke off or is no gzip."""
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("identity", "gzip"):
        raise Refused(415, "unsupported", "send the body plain or gzipped")
    too_large = Refused(413, "too_large", f"more than {limit_bytes:,} bytes; send it in parts")
    if (request.content_length or 0) > limit_bytes:
        raise too_large
    packed = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in request.content.iter_any():
                packed += chunk
                if len(packed) > limit_bytes:
                    raise too_large
    except TimeoutError:
        raise Refused(408, "stalled", f"the body was not here after {deadline_s:g} s; send it again") from None
    except (ConnectionError, web.RequestPayloadError):
        raise Refused(400, "broken_transfer", "the body ended before its time; send it again") from None
    if coding == "identity":
        return bytes(packed)
    most = min(limit_bytes, max(RATIO_FREE_BYTES, MAX_RATIO * len(packed)))
    unpacker = zlib.decompressobj(GZIP)
    try:
        plain = unpacker.decompress(packed, most + 1)
    except zlib.error:
        raise Refused(400, "bad_gzip", "the body is no gzip; send it again, or plain") from None
    if len(plain) > most:
        raise too_large
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(400, "bad_gzip", "the body is not one whole gzip member; send it again, or plain")
    return plain


def error(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    return answer(status, {"error": code, "detail": detail}, headers)


def answer(status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=msgspec.json.encode(told), content_type="application/json", headers=headers)
