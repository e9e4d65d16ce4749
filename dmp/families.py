"""Which families of tags a build makes, in order, and what they are made from.

A family in SQL is one file `dmp/sql/<name>.sql` over the tables `events` (see `dmp/sql/clean.sql`; each with a
`weight`, 0 to 1), `taxonomy`, `labels` and `params`. A family that is a model is a function of the engine and the time
of the build; it reads the same tables, `tags`, what the families before it made (`dmp.generations.TAG_COLUMNS`), and
`before`, the clusters of the live generation. Both give uid, tag, score 0..100 and as_of_day; a model may tell what it
found in the metadata of its table (`dmp.family_columns.NOTES`), for the manifest. A family's name is its source in
`dmp.schema.SOURCES`.

A weigher looks at the clean events before any family does, in the table `cleaned` (`events` without the weight), and
says which of them count for less, and why. Of several the least counts; weight 0 drops an event.
"""

from collections.abc import Callable

import pyarrow as pa

from dmp import association, brushing, clusters, influence
from dmp.engine import Engine

SQL_FAMILIES: tuple[str, ...] = (
    "interest", "rfm", "value", "power", "brand", "habit", "shopping", "time", "location", "device", "channel",
    "lifecycle", "ltv", "due", "demographic",
)  # fmt: skip

ModelFamily = Callable[[Engine, int], pa.Table]
"""(engine, now_us) -> tags with the columns `dmp.family_columns.FAMILY_COLUMNS`."""

MODEL_FAMILIES: dict[str, ModelFamily] = {
    "association": association.tags,
    "cluster": clusters.tags,
    "influence": influence.tags,
}
"""{name: family}, run in this order after the SQL families."""

Weigher = Callable[[Engine, int], pa.Table]
"""(engine, now_us) -> `dmp.family_columns.WEIGHT_COLUMNS` of the events that do not count in full."""

WEIGHERS: dict[str, Weigher] = {"brushing": brushing.weights}
"""{name: weigher}, all over the same clean events."""
