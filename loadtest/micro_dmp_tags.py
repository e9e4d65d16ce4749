"""How long a build takes to make tags, against SQL that is written by hand for DuckDB, and how much memory it takes.

Synthetic events, the same for both; each measurement in a process of its own, so that its peak is its own. The
yardstick (`micro_dmp_tags.sql`) makes interest, RFM and sessions from the event file, duplicates and consent obeyed.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dmp import persons, tagging, taxonomy
from dmp.engine import DuckEngine
from dmp.errors import TagbidError
from dmp.schema import SOURCES

EVENTS = 20_000_000
NOW_US = 20_000 * 86_400_000_000
EVENTS_A_USER = 20
THE_SAME = ("interest", "rfm", "habit")
"""Our families that the yardstick makes too."""


class MeasurementFailed(TagbidError):
    """A process that measured did not end well."""


def measure(events: int, work: Path, progress: Callable[[str], None] = lambda step: None) -> dict[str, Any]:
    """The numbers of a tag build at `events` events and at a tenth of them; files go to the folder `work`.

    tags_over_hand_sql: our seconds for the three families over the yardstick's, each from its table of clean events.
    build_over_hand_sql: the same with the making of that table, where ours keeps all fields for all families.
    tags_peak_mb: resident memory of the whole build's process, in MB of 10^6 bytes. cost_20m_over_2m: seconds an event
    at the full size over those at a tenth. seconds: {step or family: seconds} of the whole build. hand_seconds: of the
    yardstick.
    """
    work.mkdir(parents=True, exist_ok=True)
    small = max(1_000, events // 10)
    told: dict[str, dict[str, Any]] = {}
    for size, names in ((small, ("ours",)), (events, ("ours", "hand"))):
        progress(f"writing {size:,} events")
        path = work / f"events_{size}.parquet"
        write_events(size, path)
        for name in names:
            progress(f"{name}: {size:,} events")
            told[f"{name} {size}"] = _child(name, path, work)
        path.unlink()
    ours, hand, less = told[f"ours {events}"], told[f"hand {events}"], told[f"ours {small}"]
    same = sum(ours["seconds"][name] for name in THE_SAME)
    by_hand = sum(hand["seconds"].values())
    return {
        "tags_events": events,
        "tags_users": ours["users"],
        "tags_made": ours["tags"],
        "tags_over_hand_sql": round(same / (by_hand - hand["seconds"]["hand_events"]), 3),
        "build_over_hand_sql": round((same + ours["seconds"]["clean"]) / by_hand, 3),
        "tags_peak_mb": round(ours["peak_mb"]),
        "cost_20m_over_2m": round(ours["total_s"] / events / (less["total_s"] / small), 3),
        "tags_total_s": ours["total_s"],
        "seconds": ours["seconds"],
        "hand_seconds": hand["seconds"],
        "tags_hand_peak_mb": round(hand["peak_mb"]),
    }


def write_events(events: int, path: Path) -> None:
    """Ninety days of events, twenty a user on average, a few users far more; one in a thousand is there twice."""
    labels = [tag.name for tag in taxonomy.TAGS if tag.parent == "interest" and not tag.sensitive]
    labels += ["something else", ""]
    users = max(1, events // EVENTS_A_USER)
    query = f"""
    WITH numbered AS (
        SELECT range AS i, CAST(hash(range) >> 2 AS BIGINT) AS h, CAST(hash(-1 - range) >> 2 AS BIGINT) AS g
        FROM range({events})
    ),
    drawn AS (
        SELECT
            i, g, h % 1000 / 1000.0 AS dice,
            CAST(FLOOR({users} * POW((h // 1000) % 1000003 / 1000003.0, 1.3)) AS BIGINT) AS who
        FROM numbered
    )
    SELECT
        MD5(CAST(IF(i % 1000 = 999, i - 1, i) AS VARCHAR)) AS event_id,
        CASE WHEN dice < 0.7 THEN 'view' WHEN dice < 0.82 THEN 'search' WHEN dice < 0.92 THEN 'cart' ELSE 'purchase'
            END AS kind,
        UNHEX(MD5(CAST(who AS VARCHAR))) AS uid,
        {NOW_US} - (g % 7776000) * 1000000 - 1 AS time_us,
        IF(g % 50 = 0, 0, 7) AS consent,
        'bench' AS source,
        ([{", ".join(f"'{label}'" for label in labels)}])[1 + (g // 7) % {len(labels)}] AS category,
        IF(dice >= 0.92, (1 + (g // 11) % 200) * 1000000, 0) AS value_micros,
        'item' || CAST((g // 13) % 5000 AS VARCHAR) AS item,
        (['', 'Acme', 'Bolt', 'Cora', 'Dune', 'Echo'])[1 + (g // 17) % 6] AS brand,
        (['phone', 'pc', 'tablet', ''])[1 + (g // 19) % 4] AS device,
        (['app', 'web', 'email', ''])[1 + (g // 23) % 4] AS channel,
        IF((g // 29) % 10 < 9, (['CN-GD', 'CN-BJ', 'DE', 'FR', ''])[1 + who % 5], 'US') AS region,
        IF(dice >= 0.92, 'order' || CAST(i // 2 AS VARCHAR), '') AS order_id
    FROM drawn
    """.replace('", "', "', '")  # noqa: S608 - numbers and names are ours
    with closing(DuckEngine()) as engine:
        engine.write(query, path)


def _child(name: str, path: Path, work: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "loadtest.micro_dmp_tags", name, str(path), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        raise MeasurementFailed(f"{' '.join(command[1:])} failed:\n{done.stderr[-2_000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def ours(path: Path, work: Path) -> dict[str, Any]:
    """A build without its publication."""
    begun = time.monotonic()

    def strangers() -> int:
        engine.table("persons", persons.PERSONS.empty_table())
        return 0

    with closing(DuckEngine(spill=work / "spill")) as engine:
        tagging.scan(engine, [path], NOW_US)
        made = tagging.make(engine, NOW_US, [], strangers)
        users = len(made.tags["uid"].unique())
    total_s = round(time.monotonic() - begun, 3)
    counts = made.tags["source"].value_counts().to_pylist()
    rows = {SOURCES[entry["values"]]: entry["counts"] for entry in counts}
    return {"seconds": made.steps, "total_s": total_s, "tags": len(made.tags), "users": users, "rows": rows}


def hand(path: Path, work: Path) -> dict[str, Any]:
    """The yardstick."""
    labels = [tag for tag in taxonomy.TAGS if tag.parent == "interest" and not tag.sensitive]
    table = pa.table(
        {
            "label": [tag.name for tag in labels], "tag": [tag.id for tag in labels],
            "half_life_days": [tag.half_life_days for tag in labels], "ttl_days": [tag.ttl_days for tag in labels],
        }
    )  # fmt: skip
    text = files("loadtest").joinpath("micro_dmp_tags.sql").read_text(encoding="utf-8")
    seconds = {}
    begun = time.monotonic()
    with duckdb.connect() as db:
        for setting in (
            "memory_limit = '4GB'",
            f"temp_directory = '{work / 'spill'}'",
            "preserve_insertion_order = false",
        ):
            db.execute(f"SET {setting}").fetchall()
        db.register("hand_labels", table)
        for statement in text.replace("{file}", str(path)).replace("{now_us}", str(NOW_US)).split(";"):
            at = time.monotonic()
            db.execute(statement).fetchall()
            made = statement.partition("CREATE TABLE ")[2].split(maxsplit=1)[0]
            seconds[made] = round(time.monotonic() - at, 3)
        total_s = round(time.monotonic() - begun, 3)
        rows = {made: len(db.table(made)) for made in seconds}
    return {"seconds": seconds, "total_s": total_s, "rows": rows}


if __name__ == "__main__":
    _, _name, _path, _work = sys.argv
    _told = {"ours": ours, "hand": hand}[_name](Path(_path), Path(_work))
    _peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    sys.stdout.write(json.dumps(_told | {"peak_mb": _peak_mb}) + "\n")
