"""Event files -> tags: clean events, weigh them, run the families, let no user have two tags of one exclusion group.

Everything here is queries to an engine (`dmp.engine`); what to do with the tags is `dmp.offline`'s.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dmp import events, factors, families, persons, standardise, taxonomy, words
from dmp.carried import NOTHING, Carried
from dmp.decisions import Decision, replay
from dmp.engine import Engine, family_sql
from dmp.errors import BadEvents
from dmp.events import BEHAVIOUR
from dmp.family_columns import FAMILY_COLUMNS, NOTES, WEIGHT_COLUMNS
from dmp.generations import TAG_COLUMNS
from dmp.preference import Space
from dmp.schema import SOURCES, Uid
from dmp.tables import EVENT_COLUMNS
from dmp.words import DAY_US, MINUTE_US

MAX_UNMAPPED = 100  # labels told: enough to extend the taxonomy by; rare free text may be about single persons
NO_FAMILIES: Mapping[str, families.ModelFamily] = MappingProxyType({})
Progress = Callable[[str, int, int], None]
"""Told the step, how many are done and how many there are."""


class Made(NamedTuple):
    """What the families made of the events; fields as in `dmp.offline.Generation`.

    space, vectors: see `dmp.factors.learn`.
    """

    tags: pa.Table
    events: int = 0
    unmapped: dict[str, int] = {}  # noqa: RUF012 - never changed
    withheld: int = 0
    unmapped_events: int = 0
    decisions: int = 0
    joined: int = 0
    doubted: dict[str, int] = {}  # noqa: RUF012 - never changed
    excluded: int = 0
    steps: dict[str, float] = {}  # noqa: RUF012 - never changed
    notes: dict[str, msgspec.Raw] = {}  # noqa: RUF012 - never changed
    space: Space | None = None
    vectors: dict[Uid, bytes] = {}  # noqa: RUF012 - never changed


def scan(engine: Engine, paths: Sequence[Path], now_us: int, utc_offset_min: int = 0) -> None:
    """Make the tables `raw_events`, `params` and `kinds`; utc_offset_min: local time where no region tells."""
    engine.scan("raw_events", paths, EVENT_COLUMNS)
    params = {
        "now_us": pa.array([now_us], pa.int64()),
        "day": pa.array([now_us // DAY_US], pa.int64()),
        "year": pa.array([datetime.fromtimestamp(now_us / 1e6, UTC).year], pa.int32()),
        "offset_us": pa.array([utc_offset_min * MINUTE_US], pa.int64()),
    }
    engine.table("params", pa.table(params))
    engine.table("kinds", pa.table({"kind": events.KINDS, "behaviour": [kind in BEHAVIOUR for kind in events.KINDS]}))


def make(
    engine: Engine,
    now_us: int,
    decided: Sequence[Decision],
    learn_persons: Callable[[], int],
    progress: Progress = lambda step, done, total: None,
    before: Carried = NOTHING,
    further: Mapping[str, families.ModelFamily] = NO_FAMILIES,
) -> Made:
    """The tags of the scanned events. learn_persons: makes the table `persons` (`dmp.persons.learn`).
    before: from the live generation. further: families that this installation adds, run last.

    Raises BadEvents for files that cannot be read or make no tag.
    """
    watch = _Watch(5 + len(families.SQL_FAMILIES) + len(families.MODEL_FAMILIES) + len(further), progress)
    with watch("clean"):
        used, joined = _clean(engine, learn_persons)
    with watch("weigh"):
        used, doubted = _weigh(engine, now_us, used)
    if not used:
        raise BadEvents("no usable event: all are without consent for profiling (bit 1), from the future, or of ads")
    with watch("labels"):
        labels = make_words(engine, decided)
    made = []
    for name in families.SQL_FAMILIES:
        with watch(name):
            made.append(_family(engine, name))
    engine.table("before", before.clusters)
    notes = {}
    for name, family in {**families.MODEL_FAMILIES, **further}.items():
        with watch(name):
            _view_tags(engine, made)
            found = family(engine, now_us)
            if told := (found.schema.metadata or {}).get(NOTES):
                notes[name] = msgspec.Raw(told)
            engine.table(f"tags_{name}", _sourced(found, name))
            made.append(name)
    with watch("preference"):
        space, vectors = factors.learn(engine, now_us, before.space, before.vectors) or (None, {})
        if joined:
            vectors = persons.of_members(engine, vectors)
    with watch("exclude"):
        _view_tags(engine, made)
        excluded = _exclude(engine)
        tags = engine.sql(family_sql("members" if joined else "made")).cast(TAG_COLUMNS)
    if not len(tags):
        raise BadEvents(f"{used} usable events make no tag: they are too old, or records that state nothing")
    return Made(
        tags,
        used,
        unmapped=dict(labels.unmapped.most_common(MAX_UNMAPPED)),
        unmapped_events=labels.unmapped.total(),
        withheld=labels.withheld,
        decisions=len(decided),
        joined=joined,
        doubted=doubted,
        excluded=excluded,
        steps=watch.seconds,
        notes=notes,
        space=space,
        vectors=vectors,
    )


def weighed(engine: Engine, now_us: int) -> tuple[int, dict[str, int]]:
    """Make the table `events` of scanned files, nobody being anybody's person; returns what `_weigh` does."""
    engine.table("persons", persons.PERSONS.empty_table())
    used, _ = _clean(engine, lambda: 0)
    return _weigh(engine, now_us, used)


class _Watch:
    """Tells each step as it begins and keeps how long it took."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._total = total
        self._progress = progress

    def __call__(self, step: str) -> "_Watch":
        self._progress(step, len(self.seconds), self._total)
        self._step, self._begun = step, time.monotonic()
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.seconds[self._step] = round(time.monotonic() - self._begun, 3)


def _clean(engine: Engine, learn_persons: Callable[[], int]) -> tuple[int, int]:
    """Make the table `cleaned`; returns its events, and how many ids share a person."""
    try:
        broken = engine.sql(family_sql("broken")).to_pylist()
        if broken:
            raise BadEvents("; ".join(f"{fault['file']}: {fault['n']} rows with {fault['what']}" for fault in broken))
        joined = learn_persons()
        engine.create("copies", family_sql("copies"))
        return engine.create("cleaned", family_sql("clean")), joined
    except engine.Error as error:
        raise BadEvents(f"event files cannot be read: {error}") from None


def _weigh(engine: Engine, now_us: int, cleaned: int) -> tuple[int, dict[str, int]]:
    """Make the table `events`; returns how many count at all, and {reason: events} that do not in full."""
    said = [weigher(engine, now_us).cast(WEIGHT_COLUMNS) for weigher in families.WEIGHERS.values()]
    weights = pa.concat_tables([WEIGHT_COLUMNS.empty_table(), *said])
    if not len(weights):
        engine.view("events", "SELECT c.*, 1e0 AS weight FROM cleaned AS c")
        return cleaned, {}
    engine.table("weights", weights)
    used = engine.create("events", family_sql("weigh"))
    engine.create("cleaned", "SELECT c.* FROM cleaned AS c WHERE FALSE")  # its memory is needed for the families
    return used, {row["values"]: row["counts"] for row in pc.value_counts(weights["reason"]).to_pylist()}


class Labels(NamedTuple):
    unmapped: Counter[str]
    withheld: int


def make_words(engine: Engine, decided: Sequence[Decision]) -> Labels:
    """Make the tables of what texts mean; returns the categories that mean no tag, and events about sensitive ones."""
    engine.table("taxonomy", words.taxonomy_table())
    labels = _texts(engine, "category")
    resolve = standardise.resolver(replay(decided))
    meant = {label: tag for label in labels if (tag := resolve(label)) is not None}
    # What somebody does must not say what they believe or suffer from: no sensitive tag is inferred.
    found = {label: tag for label, tag in meant.items() if not taxonomy.BY_ID[tag].sensitive}
    engine.table("labels", words.labels_table(found))
    engine.table("devices", words.words_table("device", _texts(engine, "device")))
    engine.table("channels", words.words_table("channel", _texts(engine, "channel")))
    engine.table("regions", words.regions_table(_texts(engine, "region")))
    return Labels(
        Counter({label: n for label, n in sorted(labels.items()) if label not in meant}),
        sum(n for label, n in labels.items() if label in meant and label not in found),
    )


def _texts(engine: Engine, column: str) -> dict[str, int]:
    """{text: events} of a column, without the empty one."""
    counted = f"SELECT {column} AS label, COUNT(*) AS n FROM events WHERE {column} <> '' GROUP BY {column}"  # noqa: S608
    return {entry["label"]: entry["n"] for entry in engine.sql(counted).to_pylist()}


def _family(engine: Engine, name: str) -> str:
    """Run a family in SQL into a table of its own."""
    columns = (
        f"uid, CAST(tag AS BIGINT) AS tag, CAST(score AS INT) AS score, as_of_day, {SOURCES.index(name)} AS source"
    )
    engine.create(f"tags_{name}", f"SELECT {columns} FROM (\n{family_sql(name)}\n) AS family")  # noqa: S608 - ours
    return name


def _sourced(rows: pa.Table, family: str) -> pa.Table:
    """What a model made, as a table of tags: each of a user once, none of them sensitive."""
    sensitive = pa.array([tag.id for tag in taxonomy.TAGS if tag.sensitive], pa.uint32())
    rows = rows.select(FAMILY_COLUMNS.names).cast(FAMILY_COLUMNS)
    rows = rows.filter(pc.invert(pc.is_in(rows["tag"], value_set=sensitive)))
    best = rows.group_by(["uid", "tag"]).aggregate([("score", "max"), ("as_of_day", "max")])
    columns = [best["uid"], best["tag"], best["score_max"], best["as_of_day_max"]]
    source = pa.array([SOURCES.index(family)] * len(best), pa.int32())
    kinds = (pa.binary(16), pa.int64(), pa.int32(), pa.int32())
    return pa.table([*(c.cast(k) for c, k in zip(columns, kinds, strict=True)), source], names=TAG_COLUMNS.names)


def _view_tags(engine: Engine, made: Sequence[str]) -> None:
    """Name what the families made so far `tags`."""
    engine.view("tags", " UNION ALL ".join(f"SELECT t.* FROM tags_{name} AS t" for name in made))  # noqa: S608 - ours


def _exclude(engine: Engine) -> int:
    """Make the table `losers`: tags that a better one of their exclusion group beats; returns how many those are."""
    # A family in SQL gives one tag of a group at most; only other sources, and groups of several, are looked at.
    proven = [SOURCES.index(name) for name in families.SQL_FAMILIES]
    engine.table("proven", pa.table({"source": pa.array(proven, pa.int32())}))
    engine.create("clashes", family_sql("clashes"))
    return engine.create("losers", family_sql("losers"))
