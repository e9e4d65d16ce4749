"""Which exchange is calling, and may it: the rules both HTTP paths share (S-01, S-02)."""

import gzip
import hmac
import re
import zlib
from urllib.parse import unquote

from msgspec import Struct

from bidder.config import DEFAULT_EXCHANGE, EXCHANGE_NAME, BidderConfig, ExchangeConfig
from bidder.metrics import Metrics
from bidder.overload import Quota
from bidder.tokens import text_field

PREFIX = "/bid/"
MAX_BODY_BYTES = 256 * 1024
MAX_RATIO = 100
MAX_TARGET_BYTES = 8_190  # of a request target; what aiohttp takes
_GZIP = re.compile(r"\b(?:x-)?gzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)  # q=0 means not this one
MIN_GZIP_BYTES = 1_000  # less gains nothing: it fits into one packet anyway
VERSION_HEADER, VERSION = "x-openrtb-version", "2.6"
MAX_UNLISTED = 100  # exchanges served by default settings before their names are no longer believed


class Endpoint(Struct, frozen=True):
    """One exchange's door. authorization: the header it must send, b"" for none. field: its name as a token field.

    quota: this process's share of the exchange's `max_qps`, None without one.
    """

    name: str
    exchange: ExchangeConfig
    authorization: bytes
    field: bytes
    requests_slot: int
    quota: Quota | None = None


class Endpoints:
    """Finds the endpoint of a path; the answer for a path seen before costs a dictionary lookup."""

    def __init__(self, settings: BidderConfig, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._by_path: dict[str, Endpoint] = {}
        self._by_name = {name: self._make(name, exchange) for name, exchange in settings.exchanges.items()}

    def find(self, target: str, authorization: bytes) -> Endpoint | int:
        """The endpoint of a request target, or the status that turns it away: 404 unknown, 401 without the secret."""
        endpoint = self._by_path.get(target)
        if endpoint is None:
            endpoint = self._resolve(target)
            if endpoint is None:
                return 404
        if endpoint.authorization and not hmac.compare_digest(endpoint.authorization, authorization):
            return 401
        return endpoint

    def _resolve(self, target: str) -> Endpoint | None:
        path = unquote(target.partition("?")[0])
        name = path.removeprefix(PREFIX)
        if name == path or not EXCHANGE_NAME.fullmatch(name):
            return None
        endpoint = self._by_name.get(name)
        if endpoint is None:
            if not self._settings.open_exchanges or len(self._by_name) >= len(self._settings.exchanges) + MAX_UNLISTED:
                return None
            endpoint = self._by_name[name] = self._make(name, DEFAULT_EXCHANGE)
        if target == PREFIX + name:
            self._by_path[target] = endpoint
        return endpoint

    def _make(self, name: str, exchange: ExchangeConfig) -> Endpoint:
        return Endpoint(
            name=name,
            exchange=exchange,
            authorization=f"Bearer {exchange.token}".encode() if exchange.token else b"",
            field=text_field(name),
            requests_slot=self._metrics.slot("tagbid_requests_total", exchange=name),
            quota=Quota(exchange.max_qps / self._settings.workers) if exchange.max_qps else None,
        )


def also(
    version: str, accepts: str, answer: bytes | int, exchange: ExchangeConfig
) -> tuple[dict[str, str], bytes | int]:
    """(further headers of an answer, the answer as sent).

    version: of `x-openrtb-version`, "" for none: whoever names the one it speaks is told ours. accepts: of
    `Accept-Encoding`.

    >>> also("2.5", "", 204, ExchangeConfig())
    ({'x-openrtb-version': '2.6'}, 204)
    """
    headers = {VERSION_HEADER: VERSION} if version else {}
    if exchange.gzip_answers and isinstance(answer, bytes) and len(answer) >= MIN_GZIP_BYTES and _GZIP.search(accepts):
        headers["Content-Encoding"] = "gzip"
        answer = gzip.compress(answer, compresslevel=1, mtime=0)
    return headers, answer


def plain(body: bytes, encoding: str) -> bytes | int:
    """A body without its content encoding, or the HTTP status that refuses it (S-02).

    >>> plain(b"{}", ""), plain(b"{}", "br"), plain(b"no gzip", "gzip")
    (b'{}', 415, 400)
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        return 415
    inflater = zlib.decompressobj(wbits=31)
    try:
        found = inflater.decompress(body, min(MAX_BODY_BYTES, MAX_RATIO * len(body)) + 1)
    except zlib.error:
        return 400
    if len(found) > MAX_BODY_BYTES or len(found) > MAX_RATIO * len(body):
        return 413
    return found if inflater.eof and not inflater.unused_data else 400
