"""The engine over Spark, for those whose events are too many for one machine: `tagbid dmp build --engine spark`.

Queries are the same files; sqlglot says them in Spark's dialect. Needs the extra `spark` and a Java run time. The
event files, and `data_dir/spill`, must be where every executor finds them under the same path.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.parquet as pq

from dmp.engine import Columns, Errors, reading
from dmp.errors import DmpError
from dmp.portable import to_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class SparkMissing(DmpError):
    """Spark, or what it runs on, is not installed."""


def open_session(master: str, spill: Path | None = None) -> "SparkSession":
    """Start (or join) the one Spark session of this process; its sockets are bound to the loopback on a local master.

    Raises SparkMissing, which says what to install.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise SparkMissing(
            "Spark is not installed: pip install 'tagbid[spark]', or build with --engine duckdb"
        ) from None
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and Path(home, "bin", "java").exists()):
        raise SparkMissing("Spark needs a Java run time (17 or newer): install one, or set JAVA_HOME")
    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",  # an overflow or a division by zero is an error, never a NULL unseen
        "spark.sql.shuffle.partitions": "8" if master.startswith("local") else "200",
    }
    if master.startswith("local"):
        options |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    if spill is not None:
        spill.mkdir(parents=True, exist_ok=True, mode=0o700)
        options["spark.local.dir"] = str(spill)
    builder = SparkSession.builder.master(master).appName("tagbid")
    for key, value in options.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except PySparkException as error:
        raise SparkMissing(f"Spark does not start on {master!r}: {error}") from None
    session.sparkContext.setLogLevel("ERROR")
    return session


def _session(master: str, spill: Path | None) -> "tuple[SparkSession, bool]":
    """The session of this process, and whether it was started for this."""
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        return open_session(master, spill), True  # which says what to install
    running = SparkSession.getActiveSession()
    return (running, False) if running is not None else (open_session(master, spill), True)


class SparkEngine:
    """Temporary views of a session; one that was there before stays when the engine is closed."""

    Error: Errors

    def __init__(
        self, master: str = "local[*]", spill: Path | None = None, session: "SparkSession | None" = None
    ) -> None:
        self._session, started = (session, False) if session is not None else _session(master, spill)
        self._own = started
        self._names: set[str] = set()
        if spill is not None:  # a session that was there before knows nothing of it
            spill.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._scratch = tempfile.mkdtemp(prefix="build-", dir=spill)
        self._made = 0
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        self.Error = (PySparkException, Py4JJavaError)

    def scan(self, name: str, paths: Sequence[Path], columns: Columns) -> None:
        frame: DataFrame | None = None
        for n, alike in enumerate(reading(paths, columns)):
            source = f"{name}_{n}"
            found = self._session.read.parquet(*map(_pattern, alike.paths))
            self._keep(source, found)
            select = to_spark(f"SELECT {alike.columns} FROM {source}")  # noqa: S608 - names are ours
            # The file is told as a URI, in which a plus sign is one.
            file = "regexp_replace(url_decode(replace(input_file_name(), '+', '%2B')), '^file:/+', '/') AS file"
            part = self._session.sql(select.replace(" FROM ", f", {file} FROM ", 1))
            frame = part if frame is None else frame.unionAll(part)
        if frame is not None:
            self._keep(name, frame)

    def table(self, name: str, rows: pa.Table) -> None:
        self._keep(name, self._session.createDataFrame(_known(rows)))

    def view(self, name: str, query: str) -> None:
        self._keep(name, self._session.sql(to_spark(query)))

    def create(self, name: str, query: str) -> int:
        # To disk and back, neither cached nor checkpointed: over views over views Spark's optimiser lost columns.
        self._made += 1
        path = f"file:{self._scratch}/{self._made}"
        self._session.sql(to_spark(query)).write.parquet(path)
        self._keep(name, self._session.read.parquet(path))
        return self.count(name)

    def sql(self, query: str) -> pa.Table:
        return self._session.sql(to_spark(query)).toArrow()

    def write(self, query: str, path: Path) -> int:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            self._session.sql(to_spark(query)).coalesce(1).write.parquet(f"{folder}/out", compression="zstd")
            (part,) = Path(folder, "out").glob("part-*.parquet")
            part.rename(path)
        return int(pq.read_metadata(path).num_rows)

    def count(self, name: str) -> int:
        return int(self._session.table(name).count())

    def close(self) -> None:
        for name in self._names:
            self._session.catalog.dropTempView(name)
        self._names.clear()
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._own:
            self._session.stop()

    def _keep(self, name: str, frame: "DataFrame") -> None:
        frame.createOrReplaceTempView(name)
        self._names.add(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _pattern(path: Path) -> str:
    """A path as a Hadoop pattern that stands for this one file."""
    return "file:" + "".join(f"\\{c}" if c in "[]{}*?\\" else c for c in str(path.resolve()))


def _known(rows: pa.Table) -> pa.Table:
    """Without unsigned types, which Spark does not have."""
    wider = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}
    return rows.cast(pa.schema([(field.name, wider.get(field.type, field.type)) for field in rows.schema]))
