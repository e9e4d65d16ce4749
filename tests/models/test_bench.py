import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from models import bench
from models.bench import UnknownPart
from models.figures import Figure, Options


def a_part(options: Options) -> Iterator[Figure]:
    yield Figure(part="a", data="made", metric="clicks", value=3.0, se=0.5, goal=">= 2", met=True)
    yield Figure(part="a", data="made", metric="rows", value=float(options.size(10)), se=0.0, about={"k": 1})


def broken(_: Options) -> Iterator[Figure]:
    yield Figure(part="b", data="made", metric="first", value=1.0, se=1.0)
    raise RuntimeError


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PARTS", {"a": a_part, "b": broken})


def run(tmp_path: Path, *only: str) -> list[Figure]:
    return bench.run(Options(tmp_path, rows=4), only, tmp_path / "deep" / "out.jsonl", lambda _: None)


def test_every_figure_is_one_json_line_with_its_standard_error(tmp_path: Path) -> None:
    found = run(tmp_path, "a")
    lines = [json.loads(line) for line in (tmp_path / "deep" / "out.jsonl").read_text().splitlines()]
    assert [line["metric"] for line in lines] == ["clicks", "rows"]
    assert [line["se"] for line in lines] == [0.5, 0.0]
    assert lines[0]["met"] is True
    assert lines[1]["value"] == 4
    assert lines[1]["about"]["k"] == 1
    assert [figure.value for figure in found] == [3.0, 4.0]


def test_what_was_found_before_a_failure_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, "b")
    assert json.loads((tmp_path / "deep" / "out.jsonl").read_text())["metric"] == "first"


def test_an_unknown_part_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnknownPart, match=r"no part 'c'.*a, b"):
        run(tmp_path, "a", "c")
    assert not (tmp_path / "deep").exists()


def test_the_table_shows_values_errors_and_missed_goals(tmp_path: Path) -> None:
    console = Console(width=200, record=True)
    missed = Figure(part="a", data="made", metric="auc", value=0.5, se=0.01, goal=">= .6", met=False)
    bench.print_table(console, [*run(tmp_path, "a"), missed])
    text = console.export_text()
    assert "3 ± 0.5" in text
    assert "missed" in text
    assert ">= .6" in text
