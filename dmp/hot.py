"""Hot topics: categories and keywords whose rate breaks out against their own history.

Events of the archive are counted per topic in tiles of an hour: topics are labels as senders and searchers use them,
in one spelling (`taxonomy.normal`). The newest whole tile of a topic is compared with its tiles of the week before:

    z = (n - median) / max(1.4826 MAD, sqrt(max(median, 1)))

The spread is robust against earlier bursts and never below what counting alone scatters (Poisson). A topic is hot at
z >= MIN_Z with MIN_USERS different users, from the tile's begin until LASTS_TILES tiles after its end. What is hot lies
under `hot:topics` in the store, where trigger rules read it (`acted hot`), and goes by itself when it is not renewed.

Nothing is told of a topic with fewer users than MIN_USERS, and whom it is hot among only from `min_insight` users on;
users are told with two digits (P-65).
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmp import taxonomy
from dmp.audiences import told
from dmp.engine import DuckEngine
from dmp.offline import event_files
from dmp.trends import Hot

TILE_US = 3_600_000_000
HISTORY_TILES, MIN_HISTORY_TILES = 7 * 24, 24
MIN_Z = 6.0  # by chance once in a billion tiles of a normal distribution; counts have heavier tails
MIN_USERS = 50  # P-65: cells below are suppressed
LASTS_TILES = 2
MAD_TO_SIGMA = 1.4826
MAX_TOPICS = 1_000
COLUMNS: dict[str, tuple[str, str | None]] = {
    "uid": ("BLOB", None),
    "time_us": ("BIGINT", None),
    "consent": ("INTEGER", None),
    "category": ("VARCHAR", "''"),
    "query": ("VARCHAR", "''"),
}
_SAID = """
SELECT category AS label, time_us // tile_us AS tile, uid, consent FROM happened, params WHERE category <> ''
UNION ALL
SELECT query AS label, time_us // tile_us AS tile, uid, consent FROM happened, params WHERE query <> ''
"""
_LABELLED = """
SELECT topic, s.tile, uid, consent FROM said s JOIN spelt USING (label), params
WHERE s.tile > params.tile - history AND s.tile <= params.tile
"""
_COUNTS = """
SELECT topic, tile, COUNT(*) AS n, COUNT(DISTINCT CASE WHEN consent % 2 = 1 THEN uid END) AS users
FROM labelled GROUP BY topic, tile
"""
_FANS = """
SELECT DISTINCT l.topic, l.uid FROM labelled l JOIN broken_out USING (topic), params
WHERE l.tile = params.tile AND l.consent % 2 = 1
"""
_LIFTS = """
SELECT topic, tag, theirs, fans, everybody, people
FROM (SELECT topic, tag, COUNT(*) AS theirs FROM fans JOIN tags USING (uid) GROUP BY topic, tag)
JOIN (SELECT topic, COUNT(*) AS fans FROM fans GROUP BY topic) USING (topic)
JOIN (SELECT tag, COUNT(*) AS everybody FROM tags GROUP BY tag) USING (tag),
(SELECT COUNT(DISTINCT uid) AS people FROM tags)
"""


def robust_z(n: int, before: npt.NDArray[np.float64]) -> float:
    """How many robust standard deviations n is above its own history.

    >>> robust_z(100, np.array([10.0] * 30))  # median 10, MAD 0: the floor is sqrt(10)
    28.46
    """
    median = float(np.median(before))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(before - median)))
    return round(float((n - median) / max(spread, max(median, 1.0) ** 0.5)), 2)


def find(source: Path, now_us: int, tags: pa.Table | None, min_users: int) -> list[Hot]:
    """Topics that are hot in the newest tile that is over at `now_us`, the hottest first.

    tags: of the live generation, None without one. min_users: with fewer, nothing is told of whom a topic is hot among.
    """
    tile = now_us // TILE_US - 1
    with contextlib.closing(DuckEngine()) as engine:
        engine.scan("happened", event_files(source), COLUMNS)
        params = {"tile_us": [TILE_US], "tile": [tile], "history": [HISTORY_TILES]}
        engine.table("params", pa.table({name: pa.array(value, pa.int64()) for name, value in params.items()}))
        engine.view("said", _SAID)
        labels = engine.sql("SELECT DISTINCT label FROM said")["label"].to_pylist()
        spelt = {"label": labels, "topic": [taxonomy.normal(label) for label in labels]}
        engine.table("spelt", pa.table({name: pa.array(texts, pa.string()) for name, texts in spelt.items()}))
        engine.create("labelled", _LABELLED)
        found = breakouts(engine.sql(_COUNTS), tile)
        if not found or tags is None:
            return found
        engine.table("tags", tags.select(["uid", "tag"]))
        engine.table("broken_out", pa.table({"topic": [hot.topic for hot in found]}))
        engine.create("fans", _FANS)
        lifts = engine.sql(_LIFTS).to_pylist()
    stronger: dict[str, dict[str, int]] = {}
    for row in lifts:
        definition = taxonomy.BY_ID.get(row["tag"])
        if row["fans"] >= min_users and row["theirs"] >= MIN_USERS and definition and not definition.sensitive:
            lift = (told(row["theirs"]) / told(row["fans"])) / (row["everybody"] / row["people"])
            stronger.setdefault(row["topic"], {})[definition.name] = round(100 * (lift - 1))
    return [msgspec.structs.replace(hot, among=_three(stronger.get(hot.topic, {}))) for hot in found]


def breakouts(counted: pa.Table, tile: int) -> list[Hot]:
    """counted: columns topic, tile, n, users. The first tile of all bounds the history of every topic."""
    rows = counted.to_pylist()
    first = min((row["tile"] for row in rows), default=tile)
    if tile - first < MIN_HISTORY_TILES:
        return []
    counts: dict[str, dict[int, int]] = {}
    for row in rows:
        counts.setdefault(row["topic"], {})[row["tile"]] = row["n"]
    found = []
    for row in rows:
        topic = row["topic"]
        if topic and row["tile"] == tile and row["users"] >= MIN_USERS:
            before = np.array([counts[topic].get(at, 0) for at in range(first, tile)], dtype=np.float64)
            z = robust_z(row["n"], before)
            if z >= MIN_Z:
                found.append(
                    Hot(
                        topic=topic,
                        tag=taxonomy.find(topic) or 0,
                        z=z,
                        n=row["n"],
                        usual=float(np.median(before)),
                        users=told(row["users"]),
                        since_us=tile * TILE_US,
                        until_us=(tile + 1 + LASTS_TILES) * TILE_US,
                    )
                )
    return sorted(found, key=lambda hot: (-hot.z, hot.topic))[:MAX_TOPICS]


def _three(lifts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(((name, lift) for name, lift in lifts.items() if lift > 0), key=lambda item: -item[1])[:3])
