import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from loadtest import demo, demo_data, world
from loadtest.demo import AnotherDemo, Scale
from loadtest.real_users import MissingData
from loadtest.world import WorldConfig

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
SMALL = Scale(users=2_500, collect=2_500, test=1_000, rate=1_000.0, batch=2_500, seed_users=400)
EAGER = WorldConfig(
    seed=1, sites=60, base_logit=-3.2, wishers=0.5
)  # many clicks, so that little is enough to learn from
LOAD_KEYS = {
    "requests", "statuses", "bids", "bid_rate", "errors", "late", "latency_us", "server_cpu_us_per_request",
    "no_bid_reasons", "offered_rate", "achieved_rate",
}  # fmt: skip


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    console = Console(file=(out / "terminal.txt").open("w"), width=120)
    return out, demo.run(out, console, SMALL, EAGER)


@pytest.mark.timeout(600)
def test_the_demo_leaves_a_report_with_everything_it_promises(played):
    out, _ = played
    found = msgspec.json.decode((out / "report.json").read_bytes())
    assert {"users", "tags", "seed", "model", "load", "won", "spend_micros", "clicks"} <= found.keys()
    assert "uplift_clicks_per_spend" in found
    assert {"uploaded", "matched", "lookalike"} <= found["seed"].keys()
    assert {"auc", "log_loss_gain"} <= found["model"].keys()
    assert found["load"].keys() >= LOAD_KEYS
    assert found["load"]["latency_us"].keys() == {"p50", "p90", "p99", "p999", "max"}
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.timeout(600)
def test_the_bidders_books_agree_with_the_exchanges_in_every_arm(played):
    for arm in played[1]["arms"].values():
        assert arm["won"] > 0
        assert arm["booked_micros"] == arm["spend_micros"]
        assert arm["rejected"] == {}
        assert sum(arm["wins_by_campaign"].values()) == arm["won"]
        assert arm["calls"]["billing 204"] == arm["won"]


@pytest.mark.timeout(600)
def test_every_request_of_every_arm_is_answered(played):
    for arm in played[1]["arms"].values():
        assert arm["load"]["unanswered"] == 0
        assert set(arm["load"]["statuses"]) <= {"200", "204"}


@pytest.mark.timeout(600)
def test_only_the_arms_with_tags_find_users_and_may_bid_for_an_audience(played):
    arms = played[1]["arms"]
    assert list(arms) == ["all tags", "long-term only", "real-time only", "tags off", "placebo"]
    for name in ("all tags", "long-term only"):
        read = arms[name]["store"]
        assert read["hit"] > 0.8 * sum(read.values()) > 100  # what a busy machine sheds is never looked up
        assert arms["tags off"]["store"].get("hit", 0) < arms[name]["store"]["hit"] / 2  # contacts of repeat visitors
    for name in ("real-time only", "tags off"):
        assert arms[name]["wins_by_campaign"]["travel-lookalike"] == 0


@pytest.mark.timeout(600)
def test_what_people_do_now_goes_through_the_collector_and_its_way_is_timed(played):
    now = played[1]["event_to_tag"]
    assert now["events"] > 2_500
    assert now["probes"] >= 6
    assert 0 < now["p50_us"] <= now["p99_us"]
    assert {"long-term only", "real-time only"} < played[1]["gains"].keys()


@pytest.mark.timeout(600)
def test_a_seed_is_matched_but_for_its_strangers(played):
    seed = played[1]["seed"]
    assert seed["uploaded"] == 400 + 80 + 5
    assert 0.7 < seed["match_rate"] < 0.9
    assert seed["seconds_to_live"] < 60


def test_two_demos_do_not_share_a_folder(tmp_path):
    with demo.workspace(tmp_path), pytest.raises(AnotherDemo), demo.workspace(tmp_path):
        pass


def test_a_demo_starts_with_an_empty_workspace(tmp_path):
    with demo.workspace(tmp_path) as work:
        (work / "left").write_text("over")
    with demo.workspace(tmp_path) as work:
        assert list(work.iterdir()) == []


def test_the_seed_file_is_what_advertisers_upload(tmp_path):
    earth = world.build(WorldConfig(users=500, sites=40))
    demo.write_seed(tmp_path / "seed.csv", earth, 0, 50)
    lines = (tmp_path / "seed.csv").read_text().splitlines()
    assert lines[0] == "id_type,id"
    assert {line.split(",")[0] for line in lines[1:]} == {"cookie", "device", "email"}
    assert len(lines) == 1 + 50 + 10 + 5


def test_a_folder_without_real_logs_says_what_is_missing(tmp_path):
    with pytest.raises(MissingData, match=r"(?s)requests\.parquet.*impressions\.parquet.*without DATA"):
        demo_data.run(tmp_path, tmp_path / "out", Console(quiet=True))


def processes_of(folder):
    """Running processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
@pytest.mark.timeout(120)
def test_killing_the_demo_leaves_no_process_and_the_next_one_may_start(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from loadtest.cli import main; main()",
        "loadtest",
        "demo",
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        log = tmp_path / "work" / "explore" / "bidder.log"
        deadline = time.monotonic() + 90
        while not (log.exists() and "ready" in log.read_text()):
            assert running.poll() is None
            assert time.monotonic() < deadline
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    deadline = time.monotonic() + 20
    while processes_of(tmp_path):
        assert time.monotonic() < deadline, processes_of(tmp_path)
    with demo.workspace(tmp_path) as work:
        assert not any(work.iterdir())


@pytest.mark.long
@pytest.mark.timeout(300)
def test_real_logs_are_answered_without_a_failure(tmp_path):
    data = SHARED / "data"
    if not (data / "bid_requests").exists() or not (SHARED / "openrtb").exists():
        pytest.skip("needs ../shared/data and ../shared/openrtb")
    found = demo_data.run(data, tmp_path, Console(quiet=True))
    for load in (found["load"], found["others"]["load"]):
        assert load["unanswered"] == 0
        assert not any(status.startswith("5") for status in load["statuses"])
        assert load["body_problems"] == {}
    assert found["broken"]["violations"] == []
    assert found["defects"] == 0
    assert np.isclose(found["hit_rate"], 0.048, atol=0.005)
