"""Batch SQL over Parquet and Arrow: one small interface, over DuckDB here and over Spark in `dmp.spark`.

Queries are in the portable subset that `dmp.portable` holds them to, in DuckDB's dialect.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.errors import BadEvents

Errors = type[Exception] | tuple[type[Exception], ...]
Columns = Mapping[str, tuple[str, str | None]]
"""{column: (SQL type, default as SQL, or None where every file must have it)}."""


class Engine(Protocol):
    """Tables, views and queries of one build; names given to it are what the queries say."""

    Error: Errors
    """What a query raises that cannot be run, over files that cannot be read for one."""

    def scan(self, name: str, paths: Sequence[Path], columns: Columns) -> None:
        """Make Parquet files one table `name` with exactly `columns`, and `file`, the path a row is from.

        Raises BadEvents naming the file and the column when a file is no Parquet, lacks a required column, or
        holds one of another type.
        """

    def table(self, name: str, rows: pa.Table) -> None:
        """Copy an Arrow table in."""

    def view(self, name: str, query: str) -> None:
        """Give a query a name; it runs whenever it is read."""

    def create(self, name: str, query: str) -> int:
        """Keep the result of a query as a table; returns its rows."""

    def sql(self, query: str) -> pa.Table:
        """The result of a query as Arrow."""

    def write(self, query: str, path: Path) -> int:
        """Write the result of a query as the Parquet file `path`; returns its rows."""

    def count(self, name: str) -> int:
        """Rows of a table."""

    def close(self) -> None:
        """Forget everything."""


class DuckEngine:
    """A database of its own, gone with it. Tables are written to `spill` as they are made, compressed, so that memory
    holds what is at work and not all events; what a query needs beyond `memory_limit` goes there too.

    spill: a folder, made with mode 0700; without one everything is held in memory, and a build that needs more fails.
    """

    Error: Errors = duckdb.Error

    def __init__(self, memory_limit: str = "3GB", spill: Path | None = None, threads: int = 0) -> None:
        self._db = duckdb.connect()
        if spill is not None:
            spill.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = [
            "preserve_insertion_order = false",
            f"memory_limit = {_quoted(memory_limit)}",
            f"temp_directory = {_quoted(str(spill or ''))}",
        ]
        for setting in settings + ([f"threads = {threads}"] if threads else []):
            self._run(f"SET {setting}")
        self._file: Path | None = None
        if spill is not None:
            for left in spill.glob("build-*.duckdb*"):  # of a build that was killed
                left.unlink(missing_ok=True)
            self._file = spill / f"build-{secrets.token_hex(8)}.duckdb"
        self._run(f"ATTACH {_quoted(str(self._file or ':memory:'))} AS build")
        self._run("USE build")

    def scan(self, name: str, paths: Sequence[Path], columns: Columns) -> None:
        selects = [
            f"SELECT {alike.columns}, filename AS file "  # noqa: S608 - names are ours, paths quoted
            f"FROM read_parquet([{', '.join(map(_literal, alike.paths))}], filename = true, hive_partitioning = false)"
            for alike in reading(paths, columns)
        ]
        self.view(name, " UNION ALL ".join(selects))

    def table(self, name: str, rows: pa.Table) -> None:
        self._db.register("incoming", rows)
        self._run(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608 - names are ours
        self._db.unregister("incoming")

    def view(self, name: str, query: str) -> None:
        self._run(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def create(self, name: str, query: str) -> int:
        self._run(f"CREATE OR REPLACE TABLE {name} AS {query}")
        return self.count(name)

    def sql(self, query: str) -> pa.Table:
        return self._db.sql(query).to_arrow_table()

    def write(self, query: str, path: Path) -> int:
        self._run(f"COPY ({query}) TO {_quoted(str(path))} (FORMAT parquet, COMPRESSION zstd)")
        return int(pq.read_metadata(path).num_rows)

    def count(self, name: str) -> int:
        return int(self._db.execute(f"SELECT COUNT(*) FROM {name}").fetchall()[0][0])  # noqa: S608 - names are ours

    def close(self) -> None:
        self._db.close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _run(self, statement: str) -> None:
        self._db.execute(statement).fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def family_sql(name: str) -> str:
    """The text of `dmp/sql/<name>.sql`."""
    return files("dmp").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def query_names() -> list[str]:
    """The names of all queries of a build."""
    return [path.name.removesuffix(".sql") for path in files("dmp").joinpath("sql").iterdir()]


class Alike(NamedTuple):
    """Files with the same columns, which one statement reads; columns: its select list in SQL."""

    columns: str
    paths: list[Path]


def reading(paths: Sequence[Path], columns: Columns) -> list[Alike]:
    """How to read files as `columns`; raises BadEvents as `Engine.scan` does."""
    alike: dict[tuple[str, ...], Alike] = {}
    for path in paths:
        schema = _schema(path)
        parts = []
        for column, (kind, default) in columns.items():
            if schema.names.count(column) > 1:
                raise BadEvents(f"{path}: column {column!r} is there more than once")
            if column not in schema.names and default is None:
                raise BadEvents(f"{path}: column {column!r} is missing; it has {', '.join(schema.names)}")
            if column in schema.names and not pa.types.is_null(schema.field(column).type):
                _check_type(path, column, schema.field(column).type, kind)
                value = f"CAST({column} AS {kind})"
                parts.append((f"COALESCE({value}, {default})" if default else value) + f" AS {column}")
            else:
                parts.append(f"CAST({default or 'NULL'} AS {kind}) AS {column}")
        types = [str(schema.field(column).type) for column in columns if column in schema.names]
        alike.setdefault((", ".join(parts), *types), Alike(", ".join(parts), [])).paths.append(path)
    return list(alike.values())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literal(path: Path) -> str:
    """A path as SQL text that stands for this one file: `a[1].parquet` would be a pattern and read `a1.parquet`."""
    return _quoted(re.sub(r"[\[*?]", r"[\g<0>]", str(path)))


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadEvents(f"{path}: not a Parquet file ({error})") from None


def _check_type(path: Path, column: str, found: pa.DataType, wanted: str) -> None:
    fits = {
        "VARCHAR": pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_dictionary(found),
        "BLOB": pa.types.is_binary(found) or pa.types.is_fixed_size_binary(found) or pa.types.is_large_binary(found),
        "BIGINT": pa.types.is_integer(found) and found != pa.uint64(),
        "INTEGER": pa.types.is_integer(found),
        "DOUBLE": pa.types.is_floating(found) or pa.types.is_integer(found),
    }[wanted]
    if not fits:
        raise BadEvents(f"{path}: column {column!r} holds {found}, {wanted} is needed")
