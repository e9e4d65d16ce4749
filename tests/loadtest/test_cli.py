import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer

from dmp.errors import DmpError
from loadtest import cli

ROOT = Path(__file__).parents[2]


def a_room(**commands) -> types.ModuleType:
    module = types.ModuleType("dmp.__main__")
    module.app = typer.Typer(no_args_is_help=True)
    for name, command in {"other": lambda: None, **commands}.items():
        module.app.command(name)(command)
    return module


@pytest.fixture
def dmp_is(monkeypatch):
    def put(**commands):
        monkeypatch.setitem(sys.modules, "dmp.__main__", a_room(**commands))

    return put


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_room_with_one_line(arguments, capsys):
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for room, what in cli.ROOMS.items():
        assert any(line.split()[:1] == [room] and line.endswith(what) for line in lines)


def test_the_rooms_are_the_four_of_the_house():
    assert list(cli.ROOMS) == ["dmp", "models", "bidder", "loadtest"]


def test_an_unknown_room_is_refused_with_the_known_ones(capsys):
    assert cli.main(["nosuch"]) == 2
    told = capsys.readouterr().err
    assert "nosuch" in told
    assert "dmp, models, bidder, loadtest" in told


def test_an_error_for_people_is_its_message_and_exit_code_2(dmp_is, capsys):
    def broken():
        raise DmpError("file [x] is wrong;\nwrite it anew")

    dmp_is(broken=broken)
    assert cli.main(["dmp", "broken"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "tagbid: file [x] is wrong;\nwrite it anew\n"
    assert captured.out == ""


def test_a_fault_of_the_program_keeps_its_traceback_and_exit_code_70(dmp_is, capsys):
    def faulty():
        raise ZeroDivisionError

    dmp_is(faulty=faulty)
    assert cli.main(["dmp", "faulty"]) == 70
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("ZeroDivisionError\n")


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3)])
def test_a_command_says_its_own_exit_code(dmp_is, code, expected):
    def stops():
        raise typer.Exit(code)

    dmp_is(stops=stops)
    assert cli.main(["dmp", "stops"]) == expected


def test_an_unknown_command_or_option_is_a_usage_error(dmp_is, capsys):
    dmp_is()
    assert cli.main(["dmp", "nosuch"]) == 2
    assert cli.main(["dmp", "other", "--nosuch"]) == 2


def test_only_the_room_asked_for_is_imported():
    code = (
        "import sys; from loadtest import cli; cli.main(['loadtest', '--help']);"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "sys.exit(bool(loaded & {'models', 'bidder', 'pyarrow', 'duckdb', 'lightgbm', 'numpy', 'sqlalchemy'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_a_room_is_a_program_too():
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "run", "--url", "x", "--requests", "nowhere.jsonl"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "tagbid: nowhere.jsonl: no such file\n"
