"""A header block known by its bytes must never say anything else than the parser would."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.config import BidderConfig
from bidder.endpoints import MAX_BODY_BYTES, Endpoints
from bidder.heads import learn, start_of
from bidder.lane import Lane
from bidder.metrics import Metrics
from bidder.port import Limits, Port

ENDPOINT = Endpoints(BidderConfig(), Metrics()).find("/bid/x", b"")
BEFORE = b"POST /bid/x HTTP/1.1\r\nHost: h\r\nContent-Length: "
AFTER = b"\r\nX-Openrtb-Version: 2.6\r\n\r\n"


def request(body, length=None):
    return BEFORE + (b"%d" % len(body) if length is None else length) + AFTER + body


HEAD = learn(request(b"{}"), 2, ENDPOINT, "", "2.6", "")


@given(st.binary(max_size=2_000))
def test_a_known_block_gives_the_body_whatever_its_length(body):
    data = request(body)
    assert data[start_of(HEAD, data) :] == body


@pytest.mark.parametrize(
    "data",
    {
        "a byte is missing": request(b"{}")[:-1],
        "a byte too many": request(b"{}") + b"P",
        "two in one read": request(b"{}") * 2,
        "only the head": request(b"{}")[:-2],
        "a negative length": request(b"{}", b"-2"),
        "a signed length": request(b"{}", b"+2"),
        "a length in another script": request(b"{}", "٢".encode()),
        "no length": request(b"{}", b""),
        "a length with a blank": request(b"{}", b"2 "),
        "a hexadecimal length": request(b"{}" * 5, b"0xa"),
        "a long length": request(b"{}", b"0000002"),
        "another header behind": request(b"{}").replace(AFTER, b"\r\nExpect: 100-continue" + AFTER),
        "another path": request(b"{}").replace(b"/bid/x", b"/bid/y"),
        "another version": request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
        "too large": request(bytes(MAX_BODY_BYTES + 1)),
        "nothing": b"",
    }.items(),
    ids=lambda item: item[0],
)
def test_anything_else_is_left_to_the_parser(data):
    assert start_of(HEAD, data[1]) == 0


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (BEFORE + b"2" + AFTER + b"{}", 3),  # what the parser took for the body is not what the block says
        (b"POST /bid/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\n{}", 2),
        (b"POST /bid/x HTTP/1.1\nHost: h\nContent-Length: 2\n\n{}", 2),  # bare line feeds
        (b"POST /bid/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 2),
    ],
)
def test_a_block_that_could_mean_two_things_is_not_learnt(data, size):
    assert learn(data, size, ENDPOINT, "", "", "") is None


class Sink:
    """A transport that keeps what is written."""

    def __init__(self):
        self.written = b""

    def write(self, data):
        self.written += data

    def is_closing(self):
        return False


def a_lane(taken, sheds=lambda _endpoint, _now_s: False):
    def handle(body, endpoint, arrived_s, done):
        taken.append((body, endpoint.name))
        return 204

    port = Port(handle, Endpoints(BidderConfig(), Metrics()), None, Limits(), Metrics(), sheds=sheds)
    lane, sink = Lane(port), Sink()
    lane.connection_made(sink)
    return port, lane, sink


def plain_request(body, path="/bid/x", more=""):
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_a_block_is_learnt_once_and_by_all_connections_of_a_port(monkeypatch):
    taken = []
    port, lane, sink = a_lane(taken)
    lane.data_received(plain_request(b"one"))
    monkeypatch.setattr(Lane, "on_message_begin", lambda _: pytest.fail("the parser was asked"))
    lane.data_received(plain_request(b"three"))
    other = Lane(port)
    other.connection_made(sink)
    other.data_received(plain_request(b""))
    assert taken == [(b"one", "x"), (b"three", "x"), (b"", "x")]
    assert sink.written == b"HTTP/1.1 204 No Content\r\n\r\n" * 3


def test_known_and_unknown_blocks_may_follow_one_another_and_be_cut_anywhere():
    taken = []
    _, lane, sink = a_lane(taken)
    bodies = [b"one", b"two!", b"3", b"four"]
    lane.data_received(plain_request(b"zero"))
    for at, body in enumerate(bodies):
        data = plain_request(body, more="X-Odd: 1\r\n" * (at % 2))
        cut = 7 * (at + 1)
        lane.data_received(data[:cut])
        lane.data_received(data[cut:])
        lane.data_received(plain_request(body))
    assert [body for body, _ in taken] == [b"zero", *(body for body in bodies for _ in range(2))]
    assert sink.written.count(b"204") == 9


def test_a_peer_that_never_repeats_itself_is_no_longer_learnt_from():
    _, lane, _ = a_lane([])
    for n in range(20):
        lane.data_received(plain_request(b"{}", more=f"X-Request-Id: {n}\r\n"))
    assert lane._learnt == 8


def test_a_server_that_drains_closes_after_a_known_block_too():
    port, lane, sink = a_lane([])
    lane.data_received(plain_request(b"{}"))
    port.draining = True
    sink.can_write_eof = lambda: False
    sink.close = lambda: None
    lane.data_received(plain_request(b"{}"))
    assert sink.written.endswith(b"Connection: close\r\n\r\n")


def test_under_overload_a_known_block_is_answered_unread():
    taken, full = [], []
    _, lane, sink = a_lane(taken, lambda endpoint, _: bool(full) and endpoint.name == "x")
    lane.data_received(plain_request(b"one"))
    full.append(1)
    lane.data_received(plain_request(b"two"))
    lane.data_received(plain_request(b"three")[:-1])
    lane.data_received(b"e" + plain_request(b"four", "/bid/y"))
    full.clear()
    lane.data_received(plain_request(b"five"))
    # What comes in pieces, or behind another, goes the long way, where it is refused as well.
    assert [body for body, _ in taken] == [b"one", b"three", b"four", b"five"]
    assert sink.written == b"HTTP/1.1 204 No Content\r\n\r\n" * 5


def test_no_refusal_overtakes_an_answer_that_is_due():
    waiting, full = [], []

    def handle(body, _endpoint, _arrived_s, done):
        if body == b"slow":
            waiting.append(done)
            return None
        return 204

    port = Port(
        handle, Endpoints(BidderConfig(), Metrics()), None, Limits(), Metrics(), sheds=lambda _e, _s: bool(full)
    )
    lane, sink = Lane(port), Sink()
    lane.connection_made(sink)
    lane.data_received(plain_request(b"{}"))
    lane.data_received(plain_request(b"slow"))
    full.append(1)
    lane.data_received(plain_request(b"{}"))
    assert sink.written == b"HTTP/1.1 204 No Content\r\n\r\n"
    waiting[0](b"{}")
    assert re.findall(rb"HTTP/1.1 (\d+)", sink.written) == [b"204", b"200", b"204"]
