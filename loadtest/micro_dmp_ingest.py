"""How many rows a second `tagbid dmp ingest` takes from a Parquet log, every guarantee on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmp import ingest, mapping
from dmp.pseudonym import KeyRing

ROWS, ROWS_A_USER = 3_000_000, 20
DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US
PIECE = 500_000  # rows of a row group


def measure(scale: float, work: Path, step: Callable[[str], None]) -> dict[str, Any]:
    """ingest_rows_per_s: of a clickstream in order of time with a hundredth of bad rows; pseudonyms, typed reasons,
    de-duplication and the sync to disk included.
    """
    rows = max(50_000, round(ROWS * scale))
    log = work / "log.parquet"
    step(f"writing {rows:,} rows")
    _write(log, rows)
    step(f"ingesting {rows:,} rows")
    begun = time.perf_counter()
    report = ingest.ingest([log], work / "events", mapping.load("clickstream"), KeyRing(bytes(32)), NOW_US)
    seconds = time.perf_counter() - begun
    return {"ingest_rows_per_s": round(report.rows / seconds), "ingest_rows": report.rows, "ingest_bad": report.bad}


def _write(path: Path, rows: int) -> None:
    rng = np.random.default_rng(4)
    users = max(1, rows // ROWS_A_USER)
    events = np.array(["view", "view", "view", "view", "search", "cart", "purchase", "wave"])
    topics = np.array(["travel", "food", "interest.gaming", "automotive", "", "books", "something else"])
    with pq.ParquetWriter(path, _SCHEMA) as out:
        for start in range(0, rows, PIECE):
            n = min(PIECE, rows - start)
            at = NOW_US - 90 * DAY_US + (np.arange(start, start + n) * (89 * DAY_US / rows)).astype(np.int64)
            kind = rng.choice(len(events), n, p=[0.2, 0.2, 0.2, 0.2, 0.09, 0.06, 0.04, 0.01])
            price = np.where(kind == 6, rng.integers(100, 50_000, n) / 100, np.nan)
            columns = [
                pa.array([f"e{number}" for number in range(start, start + n)]),
                pa.array([f"user-{number:08x}" for number in rng.integers(0, users, n)]),
                pa.array(at, pa.timestamp("us", "UTC")),
                pa.array(events[kind]),
                pa.array(topics[rng.integers(0, len(topics), n)]),
                pa.array([f"https://www.site{number}.example/p/{number}" for number in rng.integers(0, 500, n)]),
                pa.array(price, mask=np.isnan(price)),
            ]
            out.write_table(pa.table(columns, schema=_SCHEMA))


_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("event", pa.string()),
        ("category", pa.string()),
        ("url", pa.string()),
        ("price", pa.float64()),
    ]
)
