"""Mistakes of ours: what they raise, and what the log says of them, never the values, which may be personal (P-60)."""

import logging
import struct
import time
import traceback
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger("tagbid.bidder")
http_log = logging.getLogger("tagbid.bidder.http")

DEFECTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error,
    msgspec.MsgspecError,
)  # fmt: skip
"""What a mistake of ours raises. It costs the request it happens in, not its connection or its neighbours."""


def _is_ours(record: logging.LogRecord) -> bool:
    """False for what a caller did wrong: aiohttp would log the bytes it stumbled over, ids among them (P-60, S-05)."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError))


http_log.addFilter(_is_ours)


class Reporter:
    """Logs defects: what and where, never values, which may be personal data (P-60); one line a second (S-05)."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._silent = 0

    def __call__(self, error: BaseException) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._silent += 1
            return
        self._next_s = now_s + 1
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        log.error("defect: %s at %s (%d more not shown)", type(error).__name__, where, self._silent)
        self._silent = 0
