"""The lane against its oracle, aiohttp's ordinary route, and against clients that are slow, huge, rude or gone."""

import asyncio
import gzip
import json
import re
import zlib
from contextlib import asynccontextmanager

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bidder.config import ExchangeConfig
from bidder.endpoints import also
from bidder.lane import ANSWER_S, Lane
from bidder.metrics import Metrics
from bidder.port import Limits, Port
from tests.bidder.running import CAMPAIGNS, CAPPED, body, body_of_user, running

BID, USER_BID = body(), body_of_user()
NO_BID = body(imp={"banner": {"w": 1, "h": 1}})
CLOSE = "Connection: close\r\n"
TOKEN = re.compile(rb"t=[A-Za-z0-9_-]+|\"(bid)?id\":\"[A-Za-z0-9_-]{16}\"")


def post(data=BID, path="/bid/x", headers="", version="1.1", length=None):
    size = len(data) if length is None else length
    return f"POST {path} HTTP/{version}\r\nHost: h\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + data


def chunked(*parts, path="/bid/x", headers=""):
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


LAST = post(NO_BID, headers=CLOSE)


async def answers(bidder, chunks):
    """[(status, body)] of everything that comes back until the server closes."""
    reader, writer = await bidder.connect()
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0)
    except ConnectionError:
        pass  # closed in the middle of what we send: what it said before counts
    found = []
    async with asyncio.timeout(20):
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            status = int(head.split(b" ", 2)[1])
            length = re.search(rb"(?i)content-length: (\d+)", head)
            data = await reader.readexactly(int(length[1])) if length else b""
            found.append((status, TOKEN.sub(b"", data) if status == 200 else b""))
    writer.close()
    return found


@asynccontextmanager
async def both(tmp_path, store, campaigns=CAMPAIGNS, **options):
    """A bidder with the lane and one without."""
    (tmp_path / "lane").mkdir()
    (tmp_path / "route").mkdir()
    options = {"public_url": "https://bid.example"} | options
    async with (
        running(tmp_path / "lane", store, campaigns, **options) as lane,
        running(tmp_path / "route", store, campaigns, lane=False, **options) as route,
    ):
        yield lane, route


CASES = {
    "a bid": [post()],
    "a bid on a known kind of user": [post(USER_BID)],
    "no bid": [post(NO_BID)],
    "no JSON": [post(b"{")],
    "an empty body": [post(b"")],
    "no Content-Length and no body": [b"POST /bid/x HTTP/1.1\r\nHost: h\r\n\r\n"],
    "no object": [post(b"[]")],
    "broken UTF-8": [post(b'{"id":"\xff"}')],
    "deep nesting": [post(b"[" * 100_000)],
    "an unknown path below": [post(path="/bid/")],
    "a path of two parts": [post(path="/bid/x/y")],
    "an encoded path": [post(path="/bid/%78")],
    "a path with a query": [post(path="/bid/x?debug=1")],
    "a hostile name": [post(path="/bid/..%2f..%2fetc")],
    "a long name": [post(path="/bid/" + "x" * 100)],
    "another method": [b"GET /bid/x HTTP/1.1\r\nHost: h\r\n\r\n"],
    "another path": [b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"],
    "a notice without a token": [b"GET /win HTTP/1.1\r\nHost: h\r\n\r\n"],
    "a body for another path": [post(path="/nothing")],
    "an absolute target": [post(path="http://h/bid/x")],
    "chunks": [chunked(BID[:10], BID[10:])],
    "many chunks": [chunked(*(BID[i : i + 1] for i in range(len(BID))))],
    "chunks with a trailer": [chunked(BID)[:-2] + b"X-Sum: 1\r\n\r\n"],
    "a secret that is no text": [post(headers="Authorization: Bearer X\r\n").replace(b" X", b" \xff")],
    "gzip": [post(gzip.compress(BID, mtime=0), headers="Content-Encoding: gzip\r\n")],
    "gzip in chunks": [chunked(gzip.compress(BID, mtime=0), headers="Content-Encoding: GZIP\r\n")],
    "gzip that is none": [post(BID, headers="Content-Encoding: gzip\r\n")],
    "gzip cut short": [post(gzip.compress(BID, mtime=0)[:-9], headers="Content-Encoding: gzip\r\n")],
    "gzip with something behind it": [post(gzip.compress(BID, mtime=0) + b"x", headers="Content-Encoding: gzip\r\n")],
    "deflate": [post(zlib.compress(BID), headers="Content-Encoding: deflate\r\n")],
    "identity": [post(headers="Content-Encoding: identity\r\n")],
    "a bomb": [post(gzip.compress(bytes(50_000_000), mtime=0), headers="Content-Encoding: gzip\r\n")],
    "a small bomb": [post(gzip.compress(b" " * 200_000 + BID, mtime=0), headers="Content-Encoding: gzip\r\n")],
    "expect": [post(headers="Expect: 100-continue\r\n")],
    "three in one read": [post() + post(NO_BID) + post(USER_BID)],
    "a bad one between good ones": [post(USER_BID) + post(b"{") + post()],
    "one byte at a time": [bytes([byte]) for byte in post()],
    "a bid after something else": [b"GET /win HTTP/1.1\r\nHost: h\r\n\r\n", post()],
    "an empty line first": [b"\r\n" + post()],
    "a body of the largest size": [post(BID + b" " * (256 * 1024 - len(BID)))],
    "strange header names": [post(headers="x: \r\nX-Y-Z:a:b\r\nauthorization:\r\n")],
    "two secrets": [post(headers="Authorization: Bearer a\r\nAuthorization: Bearer b\r\n")],
    "two Hosts": [post(headers="Host: i\r\n")],
    "two encodings": [post(headers="Content-Encoding: gzip\r\nContent-Encoding: identity\r\n")],
    "an empty Host": [post().replace(b"Host: h", b"Host:")],
    "a blank Host": [post().replace(b"Host: h", b"Host:  ")],
    "an upgrade": [post(headers="Connection: Upgrade\r\nUpgrade: websocket\r\n"), post(USER_BID)],
    "an upgrade nobody connects": [post(headers="upgrade: websocket\r\n")],
    "a version of the future": [post(version="2.0")],
    "a version of the past": [post(version="0.9")],
    "a version there is not": [post(version="1.2")],
    "no Host": [post().replace(b"Host: h\r\n", b"")],
    "a long target": [post(path="/bid/x?" + "a" * 100_000)],
    "a long header": [post(headers=f"X: {'a' * 7_000}\r\n")],
}


@pytest.fixture
async def pair(tmp_path, store):
    async with both(tmp_path, store, CAMPAIGNS + CAPPED) as made:
        yield made


@pytest.mark.parametrize("name", CASES)
async def test_the_lane_answers_as_the_ordinary_route(pair, name):
    lane, route = pair
    chunks = [*CASES[name], LAST]
    ours, theirs = await answers(lane, chunks), await answers(route, chunks)
    assert ours == theirs
    assert ours


@pytest.mark.parametrize("line", [b"GET /win HTTP/1.1\r\nHost: h\r\n\r\n", post(path="/win")], ids=["GET", "POST"])
async def test_something_else_behind_a_bid_is_answered_or_refused_openly_wherever_it_is_cut(pair, line):
    lane, _ = pair
    for cut in range(1, 24):
        reader, writer = await lane.connect()
        writer.write(post() + line[:cut])
        await asyncio.sleep(0.002)
        writer.write(line[cut:])
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            assert b"Connection: close" in head, line[:cut]
        writer.close()


@pytest.mark.parametrize("cut", range(1, 30, 3))
async def test_a_bid_behind_a_bid_is_answered_wherever_it_is_cut(pair, cut):
    lane, route = pair
    chunks = [post() + post(USER_BID)[:cut], post(USER_BID)[cut:], LAST]
    assert await answers(lane, chunks) == await answers(route, chunks)


async def test_a_bid_is_answered_although_what_begins_behind_it_never_ends(pair):
    lane, _ = pair
    reader, writer = await lane.connect()
    writer.write(post() + b"PO")
    async with asyncio.timeout(20):
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_old_http_needs_no_host(pair):
    found = [await answers(bidder, [post(version="1.0").replace(b"Host: h\r\n", b"")]) for bidder in pair]
    assert found[0] == found[1]
    assert found[0][0][0] == 200


async def test_a_client_of_old_http_is_answered_and_closed(pair):
    ours, theirs = [await answers(bidder, [post(version="1.0")]) for bidder in pair]
    assert ours == theirs
    kept = [await answers(bidder, [post(version="1.0", headers="Connection: keep-alive\r\n")]) for bidder in pair[:1]]
    assert kept == [ours]


BREAKING = {
    "two lengths": [b"POST /bid/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"],
    "length and chunks": [chunked(b"").replace(b"Host: h", b"Content-Length: 5")],
    "no number": [b"POST /bid/x HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n"],
    "a negative length": [b"POST /bid/x HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"],
    "a broken chunk size": [chunked(BID).replace(b"\r\n\r\n", b"\r\n\r\nzz\r\n", 1)],
    "a blank in a header name": [post(headers="Bad Name: 1\r\n")],
    "a NUL in a header": [post(headers="X: a\0b\r\n")],
    "no HTTP": [b"POST /bid/x NONSENSE\r\n\r\n"],
    "too many headers": [post(headers="".join(f"X-{i}: 1\r\n" for i in range(200)))],
    "a huge header": [post(headers=f"X: {'a' * 9_000}\r\n")],
    "a header without end": [b"POST /bid/x HTTP/1.1\r\nX: " + b"a" * 200_000],
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKING)
async def test_what_breaks_http_is_refused_and_the_connection_closed(pair, name):
    for bidder in pair:
        assert [status for status, _ in await answers(bidder, [*BREAKING[name], LAST])] == [400], bidder.port


@pytest.mark.rule("S-02")
@pytest.mark.parametrize(
    "request_",
    [
        post(b"", length=256 * 1024 + 1),
        post(b" " * (256 * 1024 + 1)),
        chunked(*[b" " * 65_536] * 5),
        post(b"", length=10**15),
    ],
    ids=["announced", "sent", "chunks", "absurd"],
)
async def test_a_body_beyond_the_limit_is_413_and_not_read(pair, request_):
    for bidder in pair:
        assert [status for status, _ in await answers(bidder, [request_])] == [413]


async def test_a_length_of_thousands_of_digits_is_refused(pair):
    for bidder in pair:
        request = b"POST /bid/x HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n"
        assert [status for status, _ in await answers(bidder, [request])] in ([400], [413])


POOL = {
    post(): 200, post(NO_BID): 204, post(USER_BID): 200, post(b"{"): 400, post(path="/bid/"): 404,
    chunked(USER_BID[:7], USER_BID[7:]): 200,
    post(gzip.compress(BID, mtime=0), headers="Content-Encoding: gzip\r\n"): 200,
    post(headers="Content-Encoding: br\r\n"): 415,
}  # fmt: skip


async def test_answers_keep_the_order_of_the_requests_wherever_the_stream_is_cut(tmp_path, store):
    async with running(tmp_path, store) as bidder:

        async def check(requests, cuts):
            stream = b"".join(requests) + LAST
            places = sorted({cut % len(stream) for cut in cuts})
            chunks = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
            found = [status for status, _ in await answers(bidder, chunks)]
            assert found == [POOL[request] for request in requests] + [204]

        loop = asyncio.get_running_loop()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.sampled_from(sorted(POOL)), max_size=8), st.lists(st.integers(0, 10**6), max_size=10))
        def cut(requests, cuts):
            asyncio.run_coroutine_threadsafe(check(requests, cuts), loop).result(60)

        await asyncio.to_thread(cut)


async def test_everything_else_is_served_on_a_connection_that_began_with_bids(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        reader, writer = await bidder.connect()
        for request, status in (
            (post(USER_BID), 200),
            (post(NO_BID), 204),
            (b"GET /win?t=x HTTP/1.1\r\nHost: h\r\n\r\n", 403),
            (post(USER_BID), 200),
            (LAST, 204),
        ):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            if length := re.search(rb"(?i)content-length: (\d+)", head):
                await reader.readexactly(int(length[1]))
        assert await reader.read() == b""
        writer.close()


async def test_what_is_pipelined_behind_a_bid_in_one_read_is_told_to_come_again(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        for first in (post(), post(USER_BID)):
            reader, writer = await bidder.connect()
            writer.write(first + b"GET /win?t=x HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.sleep(0)
            writer.write(b"GET /win?t=y HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
            async with asyncio.timeout(10):
                told = await reader.read()
            assert told.startswith(b"HTTP/1.1 200 OK\r\n")
            assert told.count(b"HTTP/1.1") == 1
            assert b"Connection: close" in told
            writer.close()


@pytest.mark.parametrize("cut", [b"GET /wi", b"POST /win?t=x HTTP/1.1\r\nHo", b"GET /win?t=x HTTP/1.1\r\nHost: h\r\n"])
async def test_the_start_of_something_else_behind_a_bid_already_says_that_no_more_answers_come(tmp_path, store, cut):
    """Else the bid's answer would promise a next one, and the connection would end without it."""
    async with running(tmp_path, store) as bidder:
        for first in (post(), post(USER_BID)):
            reader, writer = await bidder.connect()
            writer.write(first + cut)
            async with asyncio.timeout(10):
                told = await reader.read()
            assert told.startswith(b"HTTP/1.1 200 OK\r\n")
            assert told.count(b"HTTP/1.1") == 1
            assert b"Connection: close" in told
            writer.close()


@pytest.mark.rule("S-01")
async def test_an_exchange_with_a_secret_is_answered_only_with_it(pair, tmp_path, store):
    (tmp_path / "more").mkdir()
    async with both(tmp_path / "more", store, exchanges={"adx": {"token": "s3cret"}}, open_exchanges=False) as bidders:
        for bidder in bidders:

            async def ask(headers, path="/bid/adx", bidder=bidder):
                return [status for status, _ in await answers(bidder, [post(path=path, headers=headers + CLOSE)])]

            assert await ask("Authorization: Bearer s3cret\r\n") == [200]
            assert await ask("authorization: Bearer s3cret\r\n") == [200]
            for wrong in (
                "",
                "Authorization: Bearer s3cre\r\n",
                "Authorization: s3cret\r\n",
                "Authorization: Bearer s3cret2\r\n",
            ):
                assert await ask(wrong) == [401]
            assert await ask("Authorization: Bearer s3cret\r\n", "/bid/other") == [404]


async def test_a_client_that_goes_away_before_its_answer_harms_nobody(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        for _ in range(20):
            _, writer = await bidder.connect()
            writer.write(post(USER_BID) * 20)
            await writer.drain()
            writer.transport.abort()
        async with asyncio.timeout(20):
            while bidder.service.bidder.in_flight:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.01)
        assert [status for status, _ in await answers(bidder, [post(USER_BID), LAST])] == [200, 204]
        assert bidder.service.lookup.link.losses == 0
        assert bidder.service.bidder.in_flight == 0
        assert not [name for name, value in (await bidder.metrics()).items() if "errors_total" in name and value]


async def test_a_client_that_has_said_everything_gets_its_answers(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        reader, writer = await bidder.connect()
        writer.write(post(USER_BID))
        writer.write_eof()
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_a_client_that_never_reads_is_not_read_from_for_ever(tmp_path, store):
    async with running(tmp_path, store, read_s=0.3) as bidder:
        _, writer = await bidder.connect()
        writer.transport.pause_reading()

        async def shout():
            while True:
                writer.write(post() * 50)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(shout(), 30)
        metrics = await bidder.metrics()
        assert metrics['tagbid_closed_total{reason="stuck"}'] == 1


@pytest.mark.rule("S-03")
@pytest.mark.parametrize(
    "start",
    [
        b"P",
        b"POST /bid/x HTTP/1.1\r\nHo",
        post()[:-1],
        chunked(BID)[:-3],
        b"GET /wi",
        b"GET /win?t=1 HTTP/1.1\r\nHost:",
    ],
    ids=["method", "header", "body", "chunks", "other method", "other header"],
)
async def test_a_request_that_drips_is_cut_off(tmp_path, store, start):
    async with running(tmp_path, store, read_s=0.3, idle_s=60.0) as bidder:
        reader, writer = await bidder.connect()
        began = asyncio.get_running_loop().time()
        writer.write(start)

        async def drip():
            while True:
                await asyncio.sleep(0.1)
                writer.write(b"x" if b"chunked" not in start else b"")

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(20):
            said = await reader.read()
        dripping.cancel()
        assert asyncio.get_running_loop().time() - began > 0.3
        assert said == b"" or said.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))
        writer.close()


@pytest.mark.rule("S-03")
async def test_five_hundred_idle_connections_are_closed_and_bids_go_on(tmp_path, store):
    async with running(tmp_path, store, idle_s=0.5) as bidder:
        idle = [await bidder.connect() for _ in range(500)]
        assert [status for status, _ in await answers(bidder, [post(), LAST])] == [200, 204]
        async with asyncio.timeout(20):
            assert await asyncio.gather(*(reader.read() for reader, _ in idle)) == [b""] * 500
        for _, writer in idle:
            writer.close()


@pytest.mark.rule("S-03")
async def test_the_ordinary_route_cuts_off_a_dripping_body_too(tmp_path, store):
    async with running(tmp_path, store, lane=False, read_s=0.3) as bidder:
        found = await answers(bidder, [post()[:-1]])
        assert [status for status, _ in found] == [408]


@pytest.mark.rule("S-03")
@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize(
    "drip", [b"GET /win?t=1 HTTP/1.1\r\nX-", post()[:60], post()[:-3]], ids=["header", "bid header", "bid body"]
)
async def test_a_later_request_that_drips_is_cut_off_whoever_serves_the_connection(tmp_path, store, lane, drip):
    async with running(tmp_path, store, lane=lane, read_s=0.3, idle_s=0.5) as bidder:
        reader, writer = await bidder.connect()
        writer.write(b"GET /win?t=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"ours\n")
        writer.write(drip)

        async def more():
            while True:
                await asyncio.sleep(0.1)
                writer.write(b"x")

        dripping = asyncio.create_task(more())
        async with asyncio.timeout(20):
            await reader.read()
        dripping.cancel()
        writer.close()


class Sink:
    """A transport that remembers."""

    def __init__(self):
        self.written, self.state = b"", "open"

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.state != "open"

    def close(self):
        self.state = "closed"

    def abort(self):
        self.state = "aborted"

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


def a_port(handle, now=None):
    class Anyone:
        def find(self, target, authorization):
            return "endpoint"

    return Port(handle, Anyone(), None, Limits(5.0, 150.0), Metrics(), lambda: now[0] if now else 0.0)


def test_a_later_answer_waits_for_an_earlier_one():
    dues = []
    port = a_port(lambda body, endpoint, arrived, done: dues.append(done))
    lane, sink = Lane(port), Sink()
    lane.connection_made(sink)
    lane.data_received(post() * 3)
    dues[2](b"three")
    dues[1](204)
    assert sink.written == b""
    dues[0](b"one")
    assert [int(part[:3]) for part in sink.written.split(b"HTTP/1.1 ")[1:]] == [200, 204, 200]
    assert sink.written.index(b"one") < sink.written.index(b"three")


def test_an_answer_after_the_connection_is_gone_is_dropped():
    dues = []
    port = a_port(lambda body, endpoint, arrived, done: dues.append(done))
    lane, sink = Lane(port), Sink()
    lane.connection_made(sink)
    lane.data_received(post())
    sink.close()
    lane.connection_lost(None)
    dues[0](b"late")
    assert sink.written == b""
    assert port.lanes == set()


def test_a_connection_with_too_many_answers_due_is_not_read_until_they_are_out():
    dues = []
    port = a_port(lambda body, endpoint, arrived, done: dues.append(done))
    lane, sink = Lane(port), Sink()
    lane.connection_made(sink)
    lane.data_received(post() * 300)
    assert sink.paused
    for due in dues:
        due(204)
    assert not sink.paused
    assert sink.written.count(b"204") == 300


def test_an_answer_that_never_comes_ends_the_connection():
    now = [100.0]
    port = a_port(lambda body, endpoint, arrived, done: None, now)
    lane, sink = Lane(port), Sink()
    lane.connection_made(sink)
    lane.data_received(post())
    now[0] += ANSWER_S
    port.sweep()
    assert sink.state == "open"
    now[0] += 0.1
    port.sweep()
    assert sink.state == "aborted"


def test_draining_answers_what_has_arrived_and_closes():
    dues = []
    port = a_port(lambda body, endpoint, arrived, done: dues.append(done))
    busy, idle = (Lane(port), Sink()), (Lane(port), Sink())
    for lane, sink in (busy, idle):
        lane.connection_made(sink)
    busy[0].data_received(post())
    port.drain()
    assert idle[1].state == "closed"
    assert busy[1].state == "open"
    dues[0](b"{}")
    assert busy[1].state == "closed"
    assert b"Connection: close" in busy[1].written


async def test_every_collected_request_is_answered_as_its_class_asks(tmp_path, store, shared):
    """Real and broken requests from public repositories: never a 5xx, never silence (bidder facts, section 1)."""
    bodies = []
    with gzip.open(shared / "openrtb" / "invalid.jsonl.gz", "rt") as file:
        for line in file:
            entry = json.loads(line)
            bodies.append((entry["body"].encode("utf-8", "surrogatepass"), entry))
    assert len(bodies) > 200
    async with both(tmp_path, store) as (lane, route):
        for data, entry in bodies:
            ours = await answers(lane, [post(data, headers=CLOSE)])
            theirs = await answers(route, [post(data, headers=CLOSE)])
            assert [s for s, _ in ours] == [s for s, _ in theirs], entry["reason"]
            assert ours[0][0] in (200, 204, 400, 413)
            if entry["class"] == "malformed":
                assert ours[0][0] in (400, 413), entry["reason"]


@pytest.mark.parametrize("lane", [True, False])
async def test_who_names_its_version_is_told_ours_and_who_accepts_gzip_may_get_it(tmp_path, store, lane):
    async with (
        running(tmp_path, store, CAMPAIGNS, lane=lane, exchanges={"zip": {"gzip_answers": True}}) as bidder,
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        for exchange, data, version, packed in (
            ("zip", BID, "2.5", True),
            ("zip", BID, "", True),
            ("zip", NO_BID, "2.6", False),
            ("x", BID, "2.6", False),
        ):
            headers = {"Accept-Encoding": "deflate, gzip"} | ({"x-openrtb-version": version} if version else {})
            async with http.post(f"{bidder.url}/bid/{exchange}", data=data, headers=headers) as answer:
                body = await answer.read()
                assert answer.headers.get("x-openrtb-version") == ("2.6" if version else None)
                assert (answer.headers.get("Content-Encoding") == "gzip") is packed
                if body:
                    assert json.loads(gzip.decompress(body) if packed else body)["id"] == "r1"


@pytest.mark.parametrize(
    ("accepts", "packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.0, br", False), ("identity", False)],
)
def test_answers_are_packed_only_for_who_takes_that(accepts, packed):
    more, sent = also("", accepts, b"x" * 2_000, ExchangeConfig(gzip_answers=True))
    assert (more == {"Content-Encoding": "gzip"}) is packed is (len(sent) < 2_000)
