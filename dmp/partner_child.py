"""The process a partner's artefact runs in: reads the job, writes the rows it gives, and ends.

Queries see views of the build's tables and nothing else: access to other files, to the network and to extensions is
shut before the first of them runs. This is the one place of the room that knows LightGBM, loaded only for a partner
that brings a model; predictions are made from scores of tags alone.
"""

import resource
import sys
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

ROOM_MB = 1_500  # address space of the interpreter and its libraries, beside what the work may take


class Job(msgspec.Struct, frozen=True):
    """As `dmp.partner` writes it. folder: of the tables' Parquet files. query, or model with features and tag."""

    folder: str
    tables: tuple[str, ...]
    query: str
    model: str
    features: tuple[int, ...]
    tag: str
    at_least: float
    max_rows: int
    memory_mb: int
    out: str


def run(job: Job) -> pa.Table:
    """The rows: uid, tag (a name), score, as_of_day."""
    with duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{job.memory_mb}MB'")
        db.execute("SET threads = 1")
        db.execute("SET temp_directory = ''")
        db.execute(f"SET allowed_directories = ['{_quoted(job.folder)}']")
        db.execute("SET enable_external_access = false")
        db.execute("SET autoinstall_known_extensions = false")
        db.execute("SET autoload_known_extensions = false")
        db.execute("SET lock_configuration = true")
        for table in job.tables:
            path = _quoted(f"{job.folder}/{table}.parquet")
            db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{path}')")  # noqa: S608 - ours
        query = job.query or _held(job.features)
        # One row more than allowed tells that there are too many.
        rows = db.sql(f"SELECT * FROM ({query}\n) AS given LIMIT {job.max_rows + 1}").to_arrow_table()  # noqa: S608
    return predicted(rows, job) if job.model else rows


def _quoted(path: str) -> str:
    return path.replace("'", "''")


def _held(features: tuple[int, ...]) -> str:
    """One row a user: the scores of the tags that are the model's columns, NULL for a tag they do not have."""
    columns = ", ".join(f"MAX(CASE WHEN tag = {tag} THEN score END) AS f{n}" for n, tag in enumerate(features))
    return f"SELECT uid, MAX(as_of_day) AS as_of_day, {columns} FROM tags GROUP BY uid"  # noqa: S608 - numbers only


def predicted(held: pa.Table, job: Job) -> pa.Table:
    """Tags of the users whom the model gives at least the threshold."""
    import lightgbm
    import numpy as np

    model = lightgbm.Booster(model_file=job.model)
    if model.num_feature() != len(job.features):
        raise ValueError(f"the model has {model.num_feature()} columns, the manifest names {len(job.features)}")
    matrix = np.column_stack([held[f"f{n}"].cast(pa.float64()).to_numpy() for n in range(len(job.features))])
    chance = np.asarray(model.predict(matrix, num_threads=1), float)
    if chance.ndim != 1 or not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError("the model's predictions are no probabilities")
    picked = np.flatnonzero(chance >= job.at_least)
    return pa.table(
        {
            "uid": held["uid"].take(pa.array(picked)),
            "tag": pa.array([job.tag] * len(picked), pa.string()),
            "score": pa.array(np.maximum(1, np.round(100 * chance[picked])).astype(np.int64)),
            "as_of_day": held["as_of_day"].take(pa.array(picked)),
        }
    )


def main() -> int:
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    most = (job.memory_mb + ROOM_MB) * 1024**2
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        pq.write_table(run(job), job.out)
    except Exception as error:  # noqa: BLE001 - whatever a partner's artefact does is told in one line
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
