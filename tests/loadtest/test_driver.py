import asyncio
import json
import threading
import time

import numpy as np
import pytest

from dmp.errors import TagbidError
from loadtest import driver, generator, poller
from loadtest.load import Load, Result, join, moments_us

STALL_S = 0.3


class Server:
    """A bidder that does what each request's `do` says; answers of 200 echo the id as a bid would."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.seen_before_stall: set[str] = set()
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        started = asyncio.run_coroutine_threadsafe(asyncio.start_server(self.serve, "127.0.0.1", 0), self.loop)
        self.server = started.result(5)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/bid/test"

    def close(self) -> None:
        async def end() -> None:
            self.server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                request = json.loads(await reader.readexactly(length))
                self.seen.append(request["id"])
                await self.answer(request, writer)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async def answer(self, request, writer) -> None:
        do = request.get("do", "length")
        body = json.dumps({"id": request["id"], "seatbid": [{"bid": [{"impid": "1"}]}]}).encode()
        framed = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
        if do == "slow":
            await asyncio.sleep(0.03)
        elif do == "never":
            await asyncio.sleep(60)
        elif do == "stall":
            self.seen_before_stall = set(self.seen)
            time.sleep(STALL_S)  # noqa: ASYNC251 - the whole server stops, as in a long collection
        elif do == "hang up":
            raise EOFError
        if do in ("length", "slow", "stall"):
            writer.write(framed + b"\r\n" + body)
        elif do == "no bid":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif do == "chunked":
            parts = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:]))
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\nX: y\r\n\r\n")
        elif do == "announce":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + framed + b"\r\n" + body)
        elif do == "close":
            writer.write(framed + b"Connection: close\r\n\r\n" + body)
            raise EOFError
        elif do == "until end":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            raise EOFError
        elif do == "dribble":
            for byte in framed + b"\r\n" + body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
        elif do == "silent close":
            writer.write(framed + b"\r\n" + body)
            raise EOFError
        elif do == "cut":
            writer.write(framed + b"\r\n" + body[:5])
            raise EOFError
        elif do == "garbage":
            writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        elif do == "error":
            writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture(params=["here", "portable"])
def either_poller(request, monkeypatch):
    if request.param == "portable":
        monkeypatch.setattr(poller, "open_poller", poller.SelectorPoller)


def asking(*what: str) -> list[bytes]:
    return [json.dumps({"id": str(i), "do": do}).encode() for i, do in enumerate(what)]


def send(server, bodies, **options) -> Result:
    options = {"rate": 500.0, "connections": 4, "tmax_ms": 10_000, "patience_ms": 5_000, **options}
    return driver.play(Load(server.url, bodies, duration_s=1.0, count=options.pop("count", len(bodies)), **options))


def test_every_request_is_sent_once_and_answered(server, either_poller):
    result = send(server, asking(*["length"] * 40))
    assert sorted(server.seen, key=int) == [str(i) for i in range(40)]
    assert result.status.tolist() == [200] * 40
    assert result.errors == {}
    assert (result.answered, result.late, int(result.bid.sum())) == (40, 0, 40)
    assert (result.latency_us >= 0).all()
    assert (result.lag_us >= 0).all()


@pytest.mark.parametrize(
    "framing", ["length", "chunked", "announce", "close", "until end", "dribble", "silent close", "no bid"]
)
def test_answers_are_read_however_they_are_framed(server, either_poller, framing):
    result = send(server, asking(*[framing] * 12), rate=100.0)
    assert result.status.tolist() == [204 if framing == "no bid" else 200] * 12
    for number in range(12):
        body = result.bodies[number]
        assert body == b"" if framing == "no bid" else json.loads(body)["id"] == str(number)
    assert result.errors == {}


@pytest.mark.parametrize(
    ("fault", "error"), [("hang up", "closed"), ("cut", "closed"), ("garbage", "bad_answer"), ("never", "timeout")]
)
def test_a_request_without_a_whole_answer_is_counted_by_cause(server, fault, error):
    result = send(server, asking("length", fault, "no bid", "length"), patience_ms=700)
    assert result.errors == {error: 1}
    assert result.status.tolist() == [200, 0, 204, 200]
    assert result.latency_us[1] == -1
    assert result.answered == 3


def test_errors_of_the_server_are_statuses(server):
    assert send(server, asking("error", "length")).status.tolist() == [500, 200]


def test_when_every_connection_is_busy_a_request_is_counted_not_delayed(server):
    result = send(server, asking(*["never"] * 10), rate=100.0, connections=2, max_connections=2, patience_ms=600)
    assert result.errors == {"no_connection": 8, "timeout": 2}
    assert server.seen == ["0", "1"]


def test_more_connections_are_opened_up_to_the_bound(server):
    result = send(server, asking(*["slow"] * 30), rate=10_000.0, connections=1, max_connections=64)
    assert result.answered == 30
    assert 1 < server.connections == result.opened <= 30


def test_no_connection_carries_two_requests_at_a_time(server):
    result = send(server, asking(*["slow"] * 8), rate=10_000.0, connections=8, max_connections=8)
    assert result.answered == 8
    assert result.opened == 8


def test_late_is_measured_against_each_requests_own_tmax(server):
    bodies = asking(*["length", "slow"] * 10)
    result = send(server, bodies, tmax_ms=[10_000, 10], rate=100.0)
    assert result.late == 10  # a slow answer takes 30 ms
    assert result.tmax_us.tolist() == [10_000_000, 10_000] * 10


def test_a_stall_is_charged_to_every_request_that_was_due_in_it(server):
    """1,000 requests a second, the 200th stops the server for 0.3 s.

    The 300 requests due in the stall wait for its end: one due t after it began takes at least 0.3 s - t. A closed
    loop on as many connections would have seen at most 4 slow answers and reported a p90 of microseconds.
    """
    bodies = asking(*["length"] * 200, "stall", *["length"] * 599)
    result = send(server, bodies, rate=1_000.0, max_connections=1_000)
    assert result.answered == 800
    stall_end_us = result.due_us[200] + STALL_S * 1e6  # at the earliest: the server cannot start before it is asked
    waited = [i for i in range(200, 500) if str(i) not in server.seen_before_stall or i == 200]
    assert len(waited) >= 250
    assert all(result.latency_us[i] >= stall_end_us - result.due_us[i] for i in waited)
    assert (result.latency_us >= 100_000).sum() >= 150
    assert np.percentile(result.latency_us, 90) >= 200_000


def test_latency_counts_from_the_intended_time_when_the_generator_itself_is_late(server):
    """The callback of the first answer holds the generator up for 50 ms; the requests due then are sent late."""
    held = []

    def hold(number, status, body, latency_us):
        if not held:
            held.append(number)
            time.sleep(0.05)

    load = Load(server.url, asking(*["length"] * 60), 1_000.0, 1.0, count=60, patience_ms=5_000)
    result = driver.play(load, on_answer=hold)
    assert result.lag_us.max() >= 30_000
    assert (result.latency_us >= result.lag_us).all()


def test_every_answer_is_handed_over_as_it_comes(server):
    seen = {}
    driver.run(
        server.url,
        asking("length", "no bid", "error"),
        200.0,
        1.0,
        lambda i, s, b, t: seen.update({i: (s, b)}),
        count=3,
    )
    assert {i: status for i, (status, _) in seen.items()} == {0: 200, 1: 204, 2: 500}
    assert json.loads(seen[0][1])["id"] == "0"


def test_bodies_repeat_until_the_run_is_full_and_a_sample_of_answers_is_kept(server):
    result = send(server, asking("length", "no bid"), count=10, keep_every=4)
    assert result.status.tolist() == [200, 204] * 5
    assert sorted(result.bodies) == [0, 4, 8]
    assert send(server, asking("length"), keep_every=0).bodies == {}


def test_headers_are_sent_with_each_request(server):
    assert b"\r\nAuthorization: Bearer x\r\n" in driver.wire.post(
        driver.wire.target(server.url), b"{}", {"Authorization": "Bearer x"}
    )


def test_large_requests_are_sent_whole(server):
    bodies = [json.dumps({"id": str(i), "pad": "x" * 3_000_000}).encode() for i in range(3)]
    assert send(server, bodies, rate=50.0).status.tolist() == [200] * 3


def test_progress_ends_with_everything_sent_and_done(server):
    ticks = []
    driver.run(server.url, asking(*["length"] * 20), 500.0, 1.0, on_tick=lambda *t: ticks.append(t), count=20)
    assert ticks[-1] == (20, 20)
    assert ticks == sorted(ticks)


def test_nobody_there_is_said_so():
    with pytest.raises(driver.Unreachable, match="is the bidder running"):
        driver.run("http://127.0.0.1:9/", [b"{}"], 10.0, 1.0)


@pytest.mark.parametrize("url", ["https://a.example/", "127.0.0.1:80", "http://", "http://a:notaport/", "http://[::1/"])
def test_a_url_that_cannot_be_loaded_is_refused(url):
    with pytest.raises(TagbidError):
        driver.run(url, [b"{}"], 10.0, 1.0)


def test_without_requests_there_is_nothing_to_send(server):
    with pytest.raises(TagbidError, match="empty"):
        driver.run(server.url, [], 10.0, 1.0)


@pytest.mark.parametrize("bound", ["connections", "max_connections"])
def test_at_least_one_connection_is_needed(server, bound):
    with pytest.raises(TagbidError, match=bound):
        driver.run(server.url, [b"{}"], 10.0, 1.0, **{bound: 0})


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_a_positive_number(server, rate):
    with pytest.raises(TagbidError, match="positive"):
        driver.run(server.url, [b"{}"], rate, 1.0)


def test_constant_arrivals_have_equal_gaps():
    assert moments_us(Load("", [b""], rate=2_000, duration_s=0.002)).tolist() == [0, 500, 1000, 1500]


def test_poisson_arrivals_follow_the_seed_and_the_rate():
    load = Load("", [b""], rate=1_000, duration_s=10, poisson=True, seed=7)
    moments = moments_us(load)
    assert moments.tolist() == moments_us(load).tolist()
    assert abs(len(moments) - 10_000) < 500  # five standard deviations
    assert moments[-1] < 10_000_000
    gaps = np.diff(moments)
    assert (gaps >= 0).all()
    assert abs(gaps.mean() - 1_000) < 50
    assert abs(gaps.std() - 1_000) < 70  # exponential: the deviation is the mean
    other = moments_us(Load("", [b""], rate=1_000, duration_s=10, poisson=True, seed=8))
    assert other.tolist()[:10] != moments.tolist()[:10]


def test_a_count_fixes_the_number_of_poisson_arrivals():
    assert len(moments_us(Load("", [b""], rate=1_000, duration_s=1, poisson=True, count=123))) == 123


@pytest.mark.parametrize("kind", [poller.open_poller, poller.SelectorPoller])
def test_a_wait_ends_at_its_time_and_not_before(kind):
    waiting = kind()
    for ahead_ns in (-5_000_000, 0, 700_000, 3_000_000):
        until_ns = time.monotonic_ns() + ahead_ns
        while time.monotonic_ns() < until_ns:
            waiting.wait(until_ns)
        waiting.wait(until_ns)  # a time that has passed does not wait again
    waiting.close()


def a_result(n: int, **fields) -> Result:
    zeros = np.zeros(n, np.int64)
    given = {
        "due_us": np.arange(n) * 1_000, "lag_us": zeros, "latency_us": zeros + 500, "status": zeros + 204, "bid": zeros,
        "tmax_us": zeros + 100_000, "bodies": {0: b"x"}, "errors": {}, "opened": 1, "duration_s": 1.0,
        "elapsed_s": 2.0, "cpu_s": 0.5, **fields,
    }  # fmt: skip
    return Result(**given)


def test_runs_that_followed_one_another_join_into_one():
    joined = join([a_result(2, errors={"closed": 1}), a_result(3, errors={"closed": 2, "timeout": 1})])
    assert joined.due_us.tolist() == [0, 1_000, 2_000_000, 2_001_000, 2_002_000]
    assert joined.bodies == {0: b"x", 2: b"x"}
    assert joined.errors == {"closed": 3, "timeout": 1}
    assert (joined.opened, joined.duration_s, joined.elapsed_s, joined.cpu_s) == (2, 2.0, 4.0, 1.0)
    assert joined.offered_rate == 2.5  # 5 requests in 2 seconds
    assert joined.achieved_rate == 1.25  # answered within 4 seconds


def test_a_result_survives_the_way_between_processes():
    result = a_result(3, latency_us=np.array([1, -1, 2**40]), bodies={2: b"\x00\xff"}, errors={"closed": 1})
    back = generator.unpack(generator.pack(result))
    assert back.latency_us.tolist() == [1, -1, 2**40]
    assert back.bodies == {2: b"\x00\xff"}
    assert back.errors == {"closed": 1}
    assert back.cpu_s == 0.5


def test_the_driver_in_a_process_of_its_own_sends_the_same(server):
    ticks = []
    load = Load(server.url, asking(*["length", "no bid"] * 20), 400.0, 1.0, count=40, patience_ms=5_000)
    result = generator.play(load, on_tick=lambda *tick: ticks.append(tick))
    assert result.status.tolist() == [200, 204] * 20
    assert json.loads(result.bodies[2])["id"] == "2"
    assert ticks[-1] == (40, 40)


def test_what_goes_wrong_in_the_other_process_is_told_here():
    with pytest.raises(TagbidError, match="is the bidder running"):
        generator.play(Load("http://127.0.0.1:9/", [b"{}"], 10.0, 1.0))
