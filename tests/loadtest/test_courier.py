import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from loadtest.courier import Call, Courier


class Bidder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    statuses: ClassVar[dict[str, list[int]]] = {}
    seen: ClassVar[list[str]] = []
    lock = threading.Lock()

    def do_GET(self):
        with self.lock:
            self.seen.append(self.path)
            waiting = self.statuses.get(self.path, [])
            status = waiting.pop(0) if waiting else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "https://shop.example/")
        if status == 200:
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
            return
        if self.path.startswith("/bye"):
            self.send_header("Connection", "close")
            self.close_connection = True
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def bidder():
    Bidder.statuses, Bidder.seen = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bidder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def courier():
    courier = Courier(connections=2)
    yield courier
    courier.close()


def test_the_calls_of_one_impression_arrive_in_order(bidder, courier):
    trips = [
        tuple(Call(kind, f"{bidder}/{kind}?t={i}&p=1.5") for kind in ("win", "bill", "imp", "click"))
        for i in range(100)
    ]
    courier.deliver(trips).result(10)
    for i in range(100):
        mine = [path for path in Bidder.seen if f"t={i}&" in path]
        assert mine == [f"/{kind}?t={i}&p=1.5" for kind in ("win", "bill", "imp", "click")]
    assert courier.counts == {(kind, 204): 100 for kind in ("win", "bill", "imp", "click")}


def test_a_call_answered_5xx_is_repeated_and_counted_once(bidder, courier):
    Bidder.statuses["/win?t=1"] = [503, 503]
    courier.deliver([(Call("win", f"{bidder}/win?t=1"),)]).result(10)
    assert courier.counts == {("win", 204): 1}
    assert len(Bidder.seen) == 3


def test_a_call_that_keeps_failing_is_given_up_and_told(bidder, courier):
    Bidder.statuses["/win?t=1"] = [503] * 9
    courier.deliver([(Call("win", f"{bidder}/win?t=1"),)]).result(10)
    assert courier.counts == {("win", 503): 1}


def test_answers_with_bodies_and_redirects_keep_the_connection_in_step(bidder, courier):
    Bidder.statuses["/imp?t=1"] = [200]
    Bidder.statuses["/click?t=1"] = [302]
    courier.deliver([(Call("imp", f"{bidder}/imp?t=1"), Call("click", f"{bidder}/click?t=1"))]).result(10)
    assert courier.counts == {("imp", 200): 1, ("click", 302): 1}


def test_a_closed_connection_loses_no_call(bidder, courier):
    calls = (Call("win", f"{bidder}/bye"), Call("bill", f"{bidder}/bill?t=1"))
    courier.deliver([calls]).result(10)
    assert courier.counts == {("win", 204): 1, ("bill", 204): 1}


def test_calls_to_nobody_are_counted_as_unanswered(courier):
    courier.deliver([(Call("win", "http://127.0.0.1:9/win"),)]).result(10)
    assert courier.counts == {("win", 0): 1}
