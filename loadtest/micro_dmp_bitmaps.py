"""How long sizes, overlaps and target group indices take at ten million users, and making their bitmaps."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pyroaring import BitMap

from dmp import bitmaps, taxonomy
from dmp.bitmaps import Bitmaps, Values
from dmp.insight import Asker, overlap_of, tag_indices

USERS, TAGS, TODAY = 10_000_000, 300, 20_000
ROUNDS = 25
TAG_IDS = [tag.id for tag in taxonomy.TAGS if tag.kind not in ("root", "group") and not tag.sensitive][:TAGS]


def measure(scale: float, work: Path, step: Callable[[str], None]) -> dict[str, Any]:
    """size_expression_ms, overlap_ms, tgi_ms: medians of ROUNDS with other tags each; bitmap_build_s: of all tags.

    size is of `Asker.size`, with parsing, the tenant's log and its floors, about tags asked about before with other
    scores; size_cold_ms: about tags that nobody asked about, whose bitmaps are read from the file.
    """
    users = max(20_000, round(USERS * scale))
    making_s = 0.0

    def columns() -> Iterator[Values]:
        nonlocal making_s
        begun = time.perf_counter()
        for column in _columns(users):
            making_s += time.perf_counter() - begun
            yield column
            begun = time.perf_counter()

    step(f"bitmaps of {users:,} users, {TAGS} tags")
    uids = np.sort(np.frombuffer(np.random.default_rng(1).bytes(16 * users), "S16")).tobytes()
    begun = time.perf_counter()
    bitmaps.write(work, uids, columns(), TODAY)
    build_s = time.perf_counter() - begun - making_s
    index = Bitmaps(work)
    rows = sum(column.users for column in index.index.columns.values())

    def nobody(_: object) -> BitMap:
        return BitMap()

    asker = Asker("!bench", 1, index, nobody, work / "log.jsonl", lambda: 0)
    rng = np.random.default_rng(2)
    names = [taxonomy.tag_name(tag) for tag in TAG_IDS]
    step("sizes")
    cold: list[float] = []
    sizes: list[float] = []
    overlaps, indices = [], []
    for _ in range(ROUNDS):
        a, b, c, d = rng.choice(names[: TAGS // 2], 4, replace=False)
        for found in (cold, sizes):  # the second question is about the same tags and other scores
            score, other = rng.integers(20, 90, 2)
            text = f"{a} >= {score} AND NOT {b} AND ({c} OR {d} > {other}) AND seen < 30d"
            found.append(_ms(asker.size, text))
        left, right = index.having(int(rng.choice(TAG_IDS[:100]))), index.at_least(bitmaps.SEEN, 10)
        overlaps.append(_ms(lambda a, b: overlap_of("a", "b", 1, a, b, a.intersection_cardinality(b)), left, right))
        indices.append(_ms(tag_indices, index, left, index.everybody))
    index.close()
    return {
        "size_expression_ms": round(statistics.median(sizes), 3),
        "size_cold_ms": round(statistics.median(cold), 3),
        "overlap_ms": round(statistics.median(overlaps), 3),
        "tgi_ms": round(statistics.median(indices), 2),
        "bitmap_build_s": round(build_s, 1),
        "bitmap_mb": round((work / bitmaps.BITS_FILE).stat().st_size / 1e6),
        "bitmap_users": users,
        "bitmap_rows": rows,
    }


def _columns(users: int) -> Iterator[Values]:
    """Days since last seen, and tags that 30 % to 0.2 % of the users have, with scores from 0 to 100."""
    rng = np.random.default_rng(3)
    everybody = np.arange(users, dtype=np.uint32)
    yield Values(bitmaps.SEEN, everybody, np.minimum(rng.exponential(20, users), 180).astype(np.uint32))
    for place, tag in enumerate(TAG_IDS):
        share = 0.3 * (0.002 / 0.3) ** (place / (len(TAG_IDS) - 1))
        having = everybody[rng.random(users, dtype=np.float32) < share]
        yield Values(tag, having, rng.integers(0, 101, len(having), dtype=np.uint8))


def _ms(act: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    act(*arguments)
    return (time.perf_counter() - begun) * 1e3
