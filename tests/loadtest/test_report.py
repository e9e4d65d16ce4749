import http.server
import json
import re
import threading
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from loadtest import cli, plot, report, scrape, summary
from loadtest.load import Result

REQUEST = {"id": "r1", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 1.0}]}
BID = {
    "id": "b", "impid": "1", "price": 2.5, "crid": "c", "cid": "shoes", "adm": "<a>", "adomain": ["a.example"],
    "w": 300, "h": 250,
}  # fmt: skip


def an_answer(**bid) -> bytes:
    return json.dumps({"id": "r1", "seatbid": [{"bid": [{**BID, **bid}]}]}).encode()


def a_result(status, latency_us, **fields) -> Result:
    n = len(status)
    given = {
        "due_us": np.arange(n) * 10_000, "lag_us": np.zeros(n, np.int64), "latency_us": np.array(latency_us),
        "status": np.array(status), "bid": np.array(status) == 200, "tmax_us": np.full(n, 100_000), "bodies": {},
        "errors": {}, "opened": 4, "duration_s": 2.0, "elapsed_s": 2.0, "cpu_s": 0.001, **fields,
    }  # fmt: skip
    return Result(**given)


def test_a_summary_counts_what_came_back():
    result = a_result([200, 204, 200, 0, 204], [1_000, 2_000, 150_000, -1, 100_000], errors={"timeout": 1})
    told = summary.summarise(result, server_cpu_s=0.0005, no_bid_reasons={"no_campaign": 2})
    assert told["requests"] == 5
    assert told["statuses"] == {"200": 2, "204": 2}
    assert told["bids"] == 2
    assert told["bid_rate"] == 0.4
    assert told["errors"] == {"timeout": 1}
    assert told["unanswered"] == 1
    assert told["late"] == 1  # 150 ms; 100 ms is just in time
    assert told["latency_us"] == {"p50": 2_000, "p90": 150_000, "p99": 150_000, "p999": 150_000, "max": 150_000}
    assert told["server_cpu_us_per_request"] == 100.0  # 500 µs for 5 requests
    assert told["no_bid_reasons"] == {"no_campaign": 2}
    assert told["offered_rate"] == 2.5
    assert told["achieved_rate"] == 2.0
    json.dumps(told)


def test_a_run_without_any_answer_has_no_latencies():
    told = summary.summarise(a_result([0, 0], [-1, -1], errors={"closed": 2}))
    assert set(told["latency_us"].values()) == {None}
    assert told["server_cpu_us_per_request"] is None
    assert report.load_tables(told)
    assert "nothing to draw" in plot.percentile_curve(np.array([], np.int64), np.array([], np.int64))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, {"p50": 1, "p90": 1, "p99": 1, "p999": 1, "max": 1}),
        (10, {"p50": 5, "p90": 9, "p99": 10, "p999": 10, "max": 10}),
        (2_000, {"p50": 1_000, "p90": 1_800, "p99": 1_980, "p999": 1_998, "max": 2_000}),
    ],
)
def test_percentiles_are_values_that_happened(count, expected):
    assert summary.percentiles_us(np.arange(count, 0, -1)) == expected


def test_kept_answers_are_judged_as_an_exchange_would():
    bodies = {
        0: an_answer(),
        1: an_answer(price=0.5),
        2: b"{",
        3: an_answer(cid="phones"),
        4: b"",
        5: an_answer(price=3.5),
    }
    result = a_result([200, 200, 200, 200, 204, 200], [1] * 6, bodies=bodies)
    told = summary.check_bodies(result, [json.dumps(REQUEST).encode()])
    assert told["bodies_checked"] == 6
    assert told["body_problems"] == {"price 0.5 below the floor 1.0 USD": 1, "body is not JSON": 1}
    assert told["offers"] == {"shoes": {"bids": 2, "mean_cpm": 3.0}, "phones": {"bids": 1, "mean_cpm": 2.5}}


def test_answers_to_another_request_are_noticed():
    told = summary.check_bodies(a_result([200], [1], bodies={0: an_answer()}), [b'{"id":"other","imp":[{"id":"1"}]}'])
    assert "id is not the request's" in told["body_problems"]


def test_answers_to_broken_requests_are_not_judged():
    assert summary.check_bodies(a_result([400, 204], [1, 1], bodies={0: b"", 1: b""}), [b"{"])["bodies_checked"] == 0


def test_reasons_are_what_grew_between_two_looks():
    before = scrape.parse('tagbid_no_bid_total{reason="a"} 5\ntagbid_no_bid_total{reason="b"} 1\nother{reason="a"} 1\n')
    after = scrape.parse(
        '# HELP x y\ntagbid_no_bid_total{reason="a"} 7\ntagbid_no_bid_total{reason="b"} 1\n'
        'tagbid_no_bid_total{worker="1",reason="c"} 9\nother{reason="a"} 50\n'
    )
    assert scrape.no_bid_reasons(before, after) == {"c": 9, "a": 2}


def test_the_admin_port_is_the_next_one_unless_told():
    assert scrape.admin_url("http://[::1]:8080/bid/x") == "http://[::1]:8081"
    assert scrape.admin_url("http://bidder.example/bid/x") == "http://bidder.example:81"


def test_a_page_stands_alone_and_is_escaped():
    table = report.Table("A <b>", ("name", "count"), [("<script>", 3), ("x", None)], note="5 < 6")
    text = report.page("Load & test", "under $5", [report.Tile("late", "3", bad=True)], [table])
    assert "<script" not in text
    assert "Load &amp; test" in text
    assert "under $5" in text
    assert "5 &lt; 6" in text
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import""", text)


def test_plots_are_well_formed_and_span_their_values():
    latency = np.concatenate([np.full(990, 200), np.full(10, 150_000)])
    result = a_result([204] * 1_000, latency)
    for svg in (plot.percentile_curve(latency, latency // 10), plot.over_time(result)):
        root = ElementTree.fromstring(svg)  # noqa: S314 - our own markup
        _, _, width, height = map(float, root.get("viewBox").split())
        for line in root.iter("polyline"):
            for pair in line.get("points").split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height
    assert "99.9 %" in plot.percentile_curve(latency, latency)


def test_the_percentile_curve_rises_where_the_tail_begins():
    """Of 1,000 answers the last ten are slow: the step is at the 99th percentile, two nines."""
    points = plot._curve(np.concatenate([np.full(990, 200), np.full(10, 150_000)]))
    assert points == sorted(points)
    assert all(y == 200 for x, y in points if x < 2 - 1e-9)
    assert all(y == 150_000 for x, y in points if x > 2 + 1e-9)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_short_runs_can_be_drawn_too(n):
    result = a_result([204] * n, [100] * n)
    assert "polyline" in plot.over_time(result)
    assert "polyline" in plot.percentile_curve(result.latency_us, result.lag_us)


class Bidder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    refused = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if json.loads(body)["id"] == "r1":
            answer = an_answer()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        else:
            type(self).refused += 1
            self.send_response(204)
            self.end_headers()

    def do_GET(self):
        text = f'tagbid_no_bid_total{{reason="no_campaign"}} {self.refused}\n'
        text += f"process_cpu_seconds_total {self.refused / 100}\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def bidder():
    Bidder.refused = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bidder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_one_command_loads_a_bidder_and_writes_its_report(bidder, tmp_path, capsys):
    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps(REQUEST) + "\n" + json.dumps({**REQUEST, "id": "r2"}) + "\n")
    arguments = ["--url", f"{bidder}/bid/x", "--requests", str(requests), "--rate", "100", "--duration", "0.4"]
    arguments += ["--tmax", "60000", "--connections", "4", "--admin", bidder, "--header", "Authorization: Bearer x"]
    arguments += ["--json", str(tmp_path / "out" / "r.json"), "--html", str(tmp_path / "out" / "r.html")]
    assert cli.main(["loadtest", "run", *arguments]) == 0
    told = json.loads((tmp_path / "out" / "r.json").read_text())
    assert told["requests"] == 40
    assert told["statuses"] == {"200": 20, "204": 20}
    assert (told["bids"], told["bid_rate"], told["errors"], told["late"]) == (20, 0.5, {}, 0)
    assert told["no_bid_reasons"] == {"no_campaign": 20}
    assert told["server_cpu_us_per_request"] == 5_000.0  # the stub says 10 ms for each of 20, over 40 requests
    assert told["offered_rate"] == 100.0
    assert 0 < told["achieved_rate"] <= 100.0
    assert told["body_problems"] == {}
    assert told["offers"] == {"shoes": {"bids": 20, "mean_cpm": 2.5}}
    assert set(told["send_lag_us"]) == {"p50", "p90", "p99", "p999", "max"}
    page = (tmp_path / "out" / "r.html").read_text()
    assert page.count("<svg") == 2
    assert "no_campaign" in page
    assert "no_campaign" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--admin", "http://127.0.0.1:9"], "no metrics at"),
        (["--pid", "999999999"], "no process 999999999"),
        (["--header", "nonsense"], "Name: value"),
        (["--rate", "0"], "must be positive"),
    ],
)
def test_what_was_asked_for_and_is_not_there_stops_the_run(bidder, tmp_path, capsys, extra, complaint):
    (tmp_path / "r.jsonl").write_text(json.dumps(REQUEST))
    out = tmp_path / "r.json"
    arguments = [
        "--url",
        f"{bidder}/",
        "--requests",
        str(tmp_path / "r.jsonl"),
        "--duration",
        "0.1",
        "--json",
        str(out),
    ]
    assert cli.main(["loadtest", "run", *arguments, *extra]) == 2
    assert complaint in capsys.readouterr().err
    assert not out.exists()


def test_a_bidder_that_tells_nothing_is_measured_all_the_same(bidder, tmp_path, monkeypatch):
    monkeypatch.setattr(scrape, "admin_url", lambda url: "http://127.0.0.1:9")
    (tmp_path / "r.jsonl").write_text(json.dumps(REQUEST))
    arguments = ["--url", f"{bidder}/", "--requests", str(tmp_path / "r.jsonl"), "--rate", "50", "--duration", "0.2"]
    arguments += ["--connections", "4"]
    assert cli.main(["loadtest", "run", *arguments, "--json", str(tmp_path / "r.json")]) == 0
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["server_cpu_us_per_request"] is None
    assert told["no_bid_reasons"] == {}
    assert "no metrics" in told["notes"][0]
