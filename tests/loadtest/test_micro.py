import io
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from loadtest import machine, micro, scenario
from loadtest.machine import Commit, Machine
from loadtest.micro import Figure, NoFigures, Portfolio, Run, verdict
from models import forest


def a_figure(low: float, high: float, inside: str = "") -> Figure:
    return Figure((low + high) / 2, low, high, low, high, inside)


def a_run(hash: str = "0123456789abcdef", **steps: Figure) -> Run:  # noqa: A002 - the field's name
    made = Portfolio(200, 400, 10.0, {"whole": a_figure(99, 101), **steps}, {"c": 0.05}, {"c": 0.0})
    there = Machine(cpu="a CPU", cores=2, python="3.11.1", kernel="c")
    return Run(Commit(hash, modified=False), there, "2025-11-24T12:00:00Z", 15, {"100": made})


def printed(*runs: Run) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    (micro.print_comparison if len(runs) == 2 else micro.print_tables)(console, *runs)
    return console.export_text()


def stored(home: Path, name: str, run: Run | None = None) -> Path:
    path = home / f"{name}.json"
    path.write_bytes(msgspec.json.encode(run or a_run()))
    return path


def test_a_figure_is_the_median_with_quartiles_and_ends() -> None:
    assert micro.figure([9.0, 1.0, 5.0, 3.0, 7.0], "decide") == Figure(5.0, 3.0, 7.0, 1.0, 9.0, "decide")
    assert micro.figure([2.0, 4.0]) == Figure(3.0, 2.5, 3.5, 2.0, 4.0)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((10, 12), (7, 9), "faster"),
        ((7, 9), (10, 12), "slower"),
        ((7, 10), (9, 12), "inconclusive"),
        ((7, 10), (10, 12), "inconclusive"),
        ((7, 12), (9, 10), "inconclusive"),
    ],
)
def test_ranges_that_overlap_decide_nothing(before: tuple[int, int], after: tuple[int, int], said: str) -> None:
    assert verdict(a_figure(*before), a_figure(*after)) == said


def test_a_comparison_names_ratio_and_verdict_of_every_step() -> None:
    before = a_run(decode=a_figure(3, 5, "whole"), gone=a_figure(1, 1))
    after = a_run("fedcba9876543210", decode=a_figure(1, 2, "whole"), new=a_figure(1, 1))
    text = printed(before, after)
    (decode,) = [line for line in text.splitlines() if "decode" in line]
    assert "0.375" in decode
    assert "faster" in decode
    (whole,) = [line for line in text.splitlines() if "whole" in line]
    assert "1.000" in whole
    assert "inconclusive" in whole
    assert "In one of them only: gone, new" in text
    assert "0123456789ab" in text
    assert "fedcba987654" in text
    assert "machines differ" not in text


def test_runs_of_two_machines_say_so() -> None:
    other = msgspec.structs.replace(a_run(), machine=Machine("another CPU", 2, "3.11.1", "numpy"))
    assert "machines differ" in printed(a_run(), other)


def test_runs_without_a_portfolio_in_common_cannot_be_compared() -> None:
    other = msgspec.structs.replace(a_run(), campaigns={"7": a_run().campaigns["100"]})
    with pytest.raises(NoFigures, match="in common"):
        printed(a_run(), other)


def test_what_the_steps_leave_unexplained_is_told_where_nothing_was_timed_in_flow() -> None:
    run = a_run(
        decode=a_figure(10, 10, "whole"), decide=a_figure(50, 50, "whole"), filter=a_figure(20, 20, "decide"),
        other=a_figure(30, 30),
    )  # fmt: skip
    assert micro.unnamed_us(run.campaigns["100"].steps, "whole") == 40
    (line,) = [line for line in printed(run).splitlines() if "between the steps" in line]
    assert "40.00" in line
    assert "40%" in line


def test_shares_are_those_of_the_time_in_flow() -> None:
    run = a_run(decode=a_figure(10, 10, "whole"))
    whole, decode = a_figure(200, 200), a_figure(30, 30, "whole")
    flowing = msgspec.structs.replace(run.campaigns["100"], in_flow={"whole": whole, "decode": decode})
    lines = printed(msgspec.structs.replace(run, campaigns={"100": flowing})).splitlines()
    (line,) = [line for line in lines if "decode" in line]
    assert [text in line for text in ("10.00", "30.00", "15%")] == [True] * 3
    assert not any("between the steps" in line for line in lines)


def test_a_commit_means_its_latest_run(tmp_path: Path) -> None:
    stored(tmp_path, "0123456789ab-20251124T120000Z")
    latest = stored(tmp_path, "0123456789ab-20251124T130000Z")
    stored(tmp_path, "ffff56789abc-20251124T140000Z")
    assert micro.find("0123", tmp_path) == micro.find("0123456789abcdef0123", tmp_path) == latest
    assert micro.find(str(latest), tmp_path) == latest
    assert micro.read(latest) == a_run()


@pytest.mark.parametrize("name", ["abcd", "012", ""])
def test_an_unknown_name_is_an_error_with_those_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(NoFigures, match="has nothing"):
        micro.find(name, tmp_path / "none")
    stored(tmp_path, "0123456789ab-20251124T120000Z")
    with pytest.raises(NoFigures, match="has 0123456789ab"):
        micro.find(name, tmp_path)


def test_a_beginning_of_two_commits_is_an_error(tmp_path: Path) -> None:
    stored(tmp_path, "0123456789ab-20251124T120000Z")
    stored(tmp_path, "0123ffffffff-20251124T120000Z")
    with pytest.raises(NoFigures, match="several commits"):
        micro.find("0123", tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"commit": 1}'])
def test_a_file_that_is_no_run_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(NoFigures, match="is no run"):
        micro.read(tmp_path / "x.json")


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) == Commit("", modified=False)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_text("one")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    assert machine.commit(tmp_path) == Commit(git("rev-parse", "HEAD"), modified=False)
    assert machine.commit(tmp_path / "inside") == Commit("", modified=False)
    (tmp_path / "inside" / "file").write_text("two")
    assert machine.commit(tmp_path) == Commit(git("rev-parse", "HEAD"), modified=True)


def test_every_step_of_a_bid_is_timed_on_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    monkeypatch.setattr(micro, "HOME", tmp_path / "home")
    monkeypatch.setattr(scenario, "TRAINING_ROWS", 2_000)
    monkeypatch.setattr(scenario, "TREES", 10)
    done = micro.run(tmp_path / "out.json", [30], rounds=2, users=200, requests=200)
    (kept,) = (tmp_path / "home").iterdir()
    assert micro.read(kept) == micro.read(tmp_path / "out.json") == done
    found = done.campaigns["30"]
    kernels = ["c", "numpy"] if forest.kernel() is not None else ["numpy"]
    assert list(found.steps) == [
        "whole", "whole, alone", "decode", "privacy", "pseudonym", "store", "store, alone", "decide", "view",
        "filter", "score", "price", "reserve", "sign", "encode", "markup", "log",
        *(f"score 10, {kernel}" for kernel in kernels), "score 10, booster",
    ]  # fmt: skip
    assert all(0 <= one.least <= one.low <= one.us <= one.high <= one.most for one in found.steps.values())
    parts = {name: one.us for name, one in found.in_flow.items() if one.inside == "whole"}
    assert list(parts) == [
        "decode", "privacy", "pseudonym", "store", "decide", "reserve", "sign", "encode", "log", "funnel", "bidding",
        "loop",
    ]  # fmt: skip
    assert sum(parts.values()) == pytest.approx(found.in_flow["whole"].us, abs=0.01)
    called = found.in_flow.keys() - {"privacy", "funnel", "loop"}  # some of these take less than a clock can tell
    assert all(found.in_flow[name].us > 0 for name in called)
    assert found.ads == 60
    assert found.requests > 10
    assert list(found.score10_over_booster) == list(found.difference) == kernels
    assert found.difference.get("c", 0.0) == 0.0
    assert found.difference["numpy"] <= 1e-12
    assert "booster" in printed(done)
