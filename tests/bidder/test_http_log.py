import logging

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadStatusLine, TransferEncodingError

from bidder.defects import http_log


def a_record(error: BaseException) -> logging.LogRecord:
    return logging.LogRecord("x", logging.ERROR, __file__, 1, "Error handling request", (), (type(error), error, None))


@pytest.mark.rule("P-60")
@pytest.mark.rule("S-05")
@pytest.mark.parametrize(
    "error",
    [
        BadStatusLine("canary"),
        TransferEncodingError("canary"),
        web.RequestPayloadError("canary"),
        ConnectionResetError(),
    ],
)
def test_what_a_caller_got_wrong_is_not_logged_with_its_bytes(error: BaseException) -> None:
    assert not http_log.filter(a_record(error))


def test_a_defect_of_ours_is_logged() -> None:
    assert http_log.filter(a_record(KeyError("ours")))
