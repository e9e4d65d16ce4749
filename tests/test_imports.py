"""The house's import rules: rooms import one way, through the front rooms, and the bidder stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("dmp", "models", "bidder", "loadtest")
MAY_IMPORT = {
    "dmp": {"dmp"},
    "models": {"dmp", "models"},
    "bidder": {"dmp", "models", "bidder"},
    "loadtest": {"dmp", "models", "bidder", "loadtest"},
}
FRONT_ROOM = {
    "commands", "schema", "events", "keys", "codec", "store", "lookup", "pseudonym", "config", "errors", "audiences",
    "taxonomy", "catalogue", "forgotten", "preference", "realtime", "tcf", "tcf_rules", "consent_bits",
    "trends", "compiled", "cluster", "clustered", "wire", "link", "naming", "us_privacy", "gif",
}  # fmt: skip
SERVING = {"context", "features", "pairs", "registry", "forest", "tables", "lookups", "landscape", "artefacts", "live"}
HEAVY = (
    "pyarrow",
    "duckdb",
    "lightgbm",
    "sqlalchemy",
    "pandas",
    "sklearn",
    "scipy",
    "sqlglot",
    "matplotlib",
    "pyroaring",
)


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """Every project module a file imports, as (room, file)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import"
            module = (node.module or "").split(".")
            names = [alias.name for alias in node.names]
            found |= {tuple(module)} if len(module) > 1 else {(module[0], name) for name in names}
    return {name for name in found if name[0] in ROOMS}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_one_way(room: str) -> None:
    for path in files(room):
        for name in imports_of(path):
            assert name[0] in MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {'.'.join(name)}"


@pytest.mark.parametrize("room", ["models", "bidder"])
def test_only_the_front_room_of_dmp_is_visited(room: str) -> None:
    for path in files(room):
        for name in imports_of(path):
            if name[0] == "dmp":
                assert name[1] in FRONT_ROOM, f"{path.relative_to(ROOT)} imports {'.'.join(name)}"


def test_the_front_room_needs_no_back_room() -> None:
    for path in files("dmp"):
        if path.stem in FRONT_ROOM:
            for name in imports_of(path):
                assert name[1] in FRONT_ROOM, f"{path.relative_to(ROOT)} imports {'.'.join(name)}"


def test_the_bidder_uses_the_serving_files_of_models_only() -> None:
    for path in files("bidder"):
        for name in imports_of(path):
            if name[0] == "models":
                assert name[1] in SERVING, f"{path.relative_to(ROOT)} imports {'.'.join(name)}"


def test_rooms_are_flat_and_their_init_is_a_docstring() -> None:
    for room in ROOMS:
        for path in files(room):
            assert path.parent == ROOT / room, f"{path.relative_to(ROOT)} is not flat"
        body = ast.parse((ROOT / room / "__init__.py").read_text()).body
        assert len(body) == 1
        assert isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("module", ["bidder.app", "bidder.__main__"])
def test_the_bidder_process_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {name for name in ran.stdout.split("\n") if name.split(".")[0] in HEAVY}
    assert not heavy
