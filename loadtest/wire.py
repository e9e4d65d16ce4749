"""HTTP/1.1 as bytes: requests written once before a run, answers parsed as they come.

Only what an exchange needs of RFC 9112: one request in flight on a connection, bodies framed by Content-Length, by
chunks, or by the end of the connection.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from dmp.errors import TagbidError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_NO_BODY = (204, 304)


class BadUrl(TagbidError):
    """A URL the load driver cannot send to."""


class BadAnswer(ValueError):
    """Bytes that are no HTTP/1.x answer."""


class Target(msgspec.Struct, frozen=True):
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """keep: whether the connection may carry another request. size: bytes of the answer, head included."""

    status: int
    body: bytes
    keep: bool
    size: int


def target(url: str) -> Target:
    """Where to connect and what to ask for; raises BadUrl.

    >>> target("http://127.0.0.1:8080/bid/adx?t=1")
    Target(host='127.0.0.1', port=8080, path='/bid/adx?t=1')
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadUrl(f"{url!r} is no URL: {error}") from None
    if parts.scheme != "http" or not parts.hostname:
        raise BadUrl(f"{url!r} cannot be loaded: write http://host:port/path (TLS ends at a proxy)")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.hostname, 80 if port is None else port, path)


def post(where: Target, body: bytes, headers: Mapping[str, str]) -> bytes:
    """One request, ready to be sent as it is."""
    fields = {
        "Host": where.netloc,
        "Content-Type": "application/json",
        "x-openrtb-version": "2.6",
        **headers,
        "Content-Length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {where.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def parse(data: bytes, ended: bool = False) -> Answer | None:
    r"""The first final answer in data, None while it is incomplete. ended: no more bytes will come.

    Raises BadAnswer for what is no answer and for one that the end of the connection cut short.

    >>> parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").body
    b'ok'
    >>> parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no") is None
    True
    """
    answer = _parse(data, ended)
    if answer is None and ended:
        raise BadAnswer(f"the connection ended after {len(data)} bytes of an answer")
    if answer is None and len(data) > MAX_ANSWER_BYTES:
        raise BadAnswer(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return answer


def _parse(data: bytes, ended: bool) -> Answer | None:
    start = 0
    while True:
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            if not data.startswith(b"HTTP/1."[: len(data)], start):
                raise BadAnswer(f"not HTTP/1.x: {data[start : start + 40]!r}")
            return None
        status, head = _status(data, start), data[start:end].lower()
        start = end + 4
        if status >= 200:
            break  # 1xx are announcements: the answer follows
    keep = b"\nconnection: close" not in head and b"\nconnection:close" not in head
    if data[5:8] == b"1.0":
        keep = b"\nconnection: keep-alive" in head
    if status in _NO_BODY:
        return Answer(status, b"", keep, start)
    if b"\ntransfer-encoding:" in head:
        return _chunked(data, start, status, keep)
    length = _length(head)
    if length is None:
        return Answer(status, data[start:], keep=False, size=len(data)) if ended else None
    if len(data) < start + length:
        return None
    return Answer(status, data[start : start + length], keep, start + length)


def _status(data: bytes, start: int) -> int:
    try:
        status = int(data[start + 9 : start + 12])
    except ValueError:
        raise BadAnswer(f"no status in {data[start : start + 40]!r}") from None
    if not data.startswith(b"HTTP/1.", start) or not 100 <= status <= 999:
        raise BadAnswer(f"not HTTP/1.x: {data[start : start + 40]!r}")
    return status


def _length(head: bytes) -> int | None:
    at = head.find(b"\ncontent-length:")
    if at < 0:
        return None
    stop = head.find(b"\r", at)
    text = head[at + 16 : stop if stop >= 0 else len(head)].strip()
    if not text.isdigit():
        raise BadAnswer(f"content-length {text!r}")
    return int(text)


def _chunked(data: bytes, at: int, status: int, keep: bool) -> Answer | None:
    parts: list[bytes] = []
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(data[at:line].partition(b";")[0], 16)
        except ValueError:
            raise BadAnswer(f"chunk size {data[at:line]!r}") from None
        at = line + 2
        if size == 0:
            break
        if len(data) < at + size + 2:
            return None
        parts.append(data[at : at + size])
        at += size + 2
    while True:  # trailer fields end with an empty line
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        if line == at:
            return Answer(status, b"".join(parts), keep, at + 2)
        at = line + 2
