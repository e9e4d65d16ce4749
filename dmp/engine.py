"""Batch SQL over Parquet and Arrow on one machine: scan, table, create, sql, count, close, over DuckDB."""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.errors import BadEvents


class Engine:
    """One in-memory database for one build; names given to `scan` and `table` are what the SQL files say."""

    Error = duckdb.Error

    def __init__(self) -> None:
        self._db = duckdb.connect()
        self._db.execute("SET preserve_insertion_order = false").fetchall()

    def scan(self, name: str, paths: Sequence[Path], columns: dict[str, tuple[str, str | None]]) -> None:
        """Make Parquet files one table `name` with exactly `columns`, and `file`, the path a row is from.

        columns: {column: (SQL type, default as SQL, or None where every file must have it)}.

        Raises BadEvents naming the file and the column when a file is no Parquet, lacks a required column, or
        holds one of another type.
        """
        alike: dict[tuple[str, ...], list[str]] = {}  # files with the same columns are read by one statement
        for path in paths:
            schema = _schema(path)
            parts = []
            for column, (kind, default) in columns.items():
                if schema.names.count(column) > 1:
                    raise BadEvents(f"{path}: column {column!r} is there more than once")
                if column in schema.names:
                    _check_type(path, column, schema.field(column).type, kind)
                    value = f'CAST("{column}" AS {kind})'
                    parts.append((f"COALESCE({value}, {default})" if default else value) + f' AS "{column}"')
                elif default is not None:
                    parts.append(f'CAST({default} AS {kind}) AS "{column}"')
                else:
                    raise BadEvents(f"{path}: column {column!r} is missing; it has {', '.join(schema.names)}")
            types = [str(schema.field(column).type) for column in columns if column in schema.names]
            alike.setdefault((", ".join(parts), *types), []).append(_literal(path))
        selects = [
            f"SELECT {parts}, filename AS file "  # noqa: S608 - names are ours, paths quoted
            f"FROM read_parquet([{', '.join(files_)}], filename = true, hive_partitioning = false)"
            for (parts, *_), files_ in alike.items()
        ]
        self._db.execute(f"CREATE OR REPLACE VIEW {name} AS " + " UNION ALL ".join(selects)).fetchall()

    def table(self, name: str, rows: pa.Table) -> None:
        """Copy an Arrow table in."""
        self._db.register("incoming", rows)
        self._db.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM incoming").fetchall()  # noqa: S608 - names are ours
        self._db.unregister("incoming")

    def create(self, name: str, query: str) -> int:
        """Keep the result of a query as a table; returns its rows."""
        self._db.execute(f"CREATE OR REPLACE TABLE {name} AS {query}").fetchall()
        return self.count(name)

    def sql(self, query: str) -> pa.Table:
        """The result of a query as Arrow."""
        return self._db.sql(query).to_arrow_table()

    def count(self, name: str) -> int:
        return int(self._db.execute(f"SELECT COUNT(*) FROM {name}").fetchall()[0][0])  # noqa: S608 - names are ours

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def family_sql(name: str) -> str:
    """The text of `dmp/sql/<name>.sql`."""
    return files("dmp").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def _literal(path: Path) -> str:
    """A path as SQL text that stands for this one file: `a[1].parquet` would be a pattern and read `a1.parquet`."""
    return "'" + re.sub(r"[\[*?]", r"[\g<0>]", str(path)).replace("'", "''") + "'"


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
    if not fits and not pa.types.is_null(found):
        raise BadEvents(f"{path}: column {column!r} holds {found}, {wanted} is needed")
