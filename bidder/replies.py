"""Answers as they go over the wire: status line, the few headers there are, body."""

from collections.abc import Mapping

from bidder.call import Answer
from bidder.metrics import Metrics

REASONS = {
    100: "Continue", 200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
    408: "Request Timeout", 413: "Content Too Large", 415: "Unsupported Media Type", 417: "Expectation Failed",
}  # fmt: skip
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_OK_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
_EMPTY = {
    status: b"HTTP/1.1 %d %b\r\n%b\r\n"
    % (status, name.encode(), b"" if status in (100, 204) else b"Content-Length: 0\r\n")
    for status, name in REASONS.items()
}
_EMPTY_CLOSE = {status: head.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n" for status, head in _EMPTY.items()}
CONTINUE, SHED = _EMPTY[100], _EMPTY[204]


def render(answer: Answer, close: bool, more: Mapping[str, str] | None = None) -> bytes:
    r"""An answer as it goes over the wire. more: further headers.

    >>> render(204, False), render(204, False, {"x-openrtb-version": "2.6"})
    (b'HTTP/1.1 204 No Content\r\n\r\n', b'HTTP/1.1 204 No Content\r\nx-openrtb-version: 2.6\r\n\r\n')
    """
    if more:
        first, _, rest = render(answer, close).partition(b"\r\n")
        return b"\r\n".join((first, *(f"{name}: {value}".encode() for name, value in more.items()), rest))
    if isinstance(answer, int):
        return (_EMPTY_CLOSE if close else _EMPTY)[answer]
    return (_OK_CLOSE if close else _OK) % (len(answer), answer)


def refusals(metrics: Metrics) -> dict[int, int]:
    """{status that turns a request away: where it is counted}."""
    return {status: metrics.slot("tagbid_responses_total", status=str(status)) for status in REASONS if status >= 400}
