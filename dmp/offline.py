"""The nightly build: event files -> clean events -> tag families in SQL -> one generation, validated and flipped.

A generation's folder `generations/<n>/` holds `tags.parquet` (see `dmp.generations.TAG_COLUMNS`) and
`manifest.json`. Only the live pointer in the store says which one counts: a folder with a higher number was left
by a build that died or was rolled back. A build that fails changes nothing readers see.
"""

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from dmp import bitmaps, carried, events, generations, partner, persons, tagging
from dmp.config import DmpConfig
from dmp.decisions import decisions_file, read
from dmp.engine import DuckEngine, Engine, family_sql, query_names
from dmp.errors import BadEvents, DmpError, StoreUnavailable
from dmp.forgotten import Forgotten
from dmp.grouped import Grouped, grouped
from dmp.schema import SOURCES
from dmp.store import Store, flip, generation_folder, live_generation
from dmp.tables import EVENT_COLUMNS
from dmp.tagging import Made, Progress

EngineName = Literal["duckdb", "spark"]
MAX_DRIFT = 0.5  # of the tag histogram; a nightly build moves it by a few percent
MIN_USERS_KEPT = 0.5  # a build with fewer of the last one's users is more likely a lost input than a bad day


class Generation(msgspec.Struct, frozen=True):
    """The manifest of a build.

    number: what readers compare records with. parent: the generation that was live before. inputs: event files.
    sql: {query: SHA-256 of its text} of all that make tags. rows: {family: tags made}. events: clean events used.
    unmapped: {label: events} of the most frequent categories that are no tag (`dmp.tagging.MAX_UNMAPPED`);
    unmapped_events: of all such. withheld: events whose category is a sensitive tag, which is never inferred. drift:
    see `dmp.generations.drift`. written, unchanged, gone: users, as published. seconds: of the whole build.
    decisions: how many of the log of `dmp.decisions` were obeyed; with as many and the same inputs the build repeats.
    joined: ids that share their profile with another id of the same person (`dmp.persons`). doubted: {codes of
    `dmp.brushing`: events} that count for less than one, or not at all. excluded: tags that a better one of their
    exclusion group beat. engine: what ran the queries, "" for none. steps: {step or family: seconds}.
    notes: {family that is a model: what it found}. vectors: ids with a long-term preference.
    """

    number: int
    parent: int
    created_us: int
    inputs: tuple[str, ...]
    sql: dict[str, str]
    events: int
    users: int
    tags: int
    rows: dict[str, int]
    unmapped: dict[str, int]
    drift: float
    written: int
    unchanged: int
    gone: int
    seconds: float
    withheld: int = 0
    unmapped_events: int = 0
    decisions: int = 0
    joined: int = 0
    doubted: dict[str, int] = {}
    excluded: int = 0
    engine: str = ""
    steps: dict[str, float] = {}
    notes: dict[str, msgspec.Raw] = {}
    vectors: int = 0


def live_tags(config: DmpConfig, client: redis.Redis) -> pa.Table | None:
    """The tags of the live generation, None before the first build (or when its folder is not on this machine)."""
    path = generation_folder(config, live_generation(client)) / "tags.parquet"
    return pq.read_table(path, schema=generations.TAG_COLUMNS) if path.exists() else None


def build(
    config: DmpConfig,
    source: Path,
    now_us: int,
    store: Store,
    force: bool = False,
    progress: Progress = lambda step, done, total: None,
    engine_name: EngineName = "duckdb",
) -> Generation:
    """Build, publish and make live the tags of all `*.parquet` event files under `source`.

    now_us: as of when; later events are left out. force: publish even when the build looks unlike the last one.
    Raises BadEvents for files that cannot be read and GenerationRefused for a build that fails a check.
    """
    paths = event_files(source)

    def make() -> Made:
        decided = read(decisions_file(config.data_dir))
        with closing(open_engine(config, engine_name)) as engine:
            tagging.scan(engine, paths, now_us, config.build.utc_offset_min)
            with store.sync(timeout_s=30.0) as client:
                before = carried.carried(config, client)
            partners = partial(
                partner.family,
                root=partner.partners_folder(config.data_dir),
                spill=Path(config.data_dir) / "spill",
                limits=config.partners,
            )
            learn = partial(persons.learn, engine, config, store)
            return tagging.make(engine, now_us, decided, learn, progress, before, {"partner": partners})

    return _publish(config, store, now_us, tuple(map(str, paths)), make, force, progress, engine_name)


def named_engine(text: str) -> EngineName:
    """An engine by name; raises DmpError naming those there are."""
    try:
        name: EngineName = msgspec.convert(text, EngineName)
    except msgspec.ValidationError:
        raise DmpError(f"there is no engine {text!r}: duckdb or spark") from None
    return name


def open_engine(config: DmpConfig, name: EngineName = "duckdb") -> Engine:
    """The engine of a build; raises SparkMissing where Spark is asked for and not there."""
    spill = Path(config.data_dir) / "spill"
    if name == "spark":
        from dmp.spark import SparkEngine  # loads pyspark, which most installations do not have

        return SparkEngine(config.build.spark_master, spill)
    return DuckEngine(config.build.memory_limit, spill)


def event_files(source: Path) -> tuple[Path, ...]:
    """The event files under a folder, or the one named; raises BadEvents where there is none."""
    found = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    paths = tuple(path for path in found if path.is_file())  # other tools write folders of that name
    if not paths:
        raise BadEvents(f"{source}: no event files (*.parquet) there; `tagbid dmp archive` or `ingest` makes them")
    return paths


def take_up_ids(config: DmpConfig, source: Path, now_us: int) -> int:
    """Write to the identity log what event files say of ids, without a build; returns how many records that took."""
    with closing(open_engine(config)) as engine:
        tagging.scan(engine, event_files(source), now_us)
        return persons.take_up(engine, config)


def doubted(source: Path, now_us: int) -> tuple[int, dict[str, int]]:
    """(events a build would use, {codes of `dmp.brushing`: events that would count for less}), without a build."""
    with DuckEngine() as engine:
        tagging.scan(engine, event_files(source), now_us)
        return tagging.weighed(engine, now_us)


def publish_tags(
    config: DmpConfig,
    tags: pa.Table,
    now_us: int,
    store: Store,
    origin: str,
    progress: Progress = lambda step, done, total: None,
) -> Generation:
    """Make tags from elsewhere (`generations.TAG_COLUMNS`) the live generation, without the likeness checks.

    origin: where they come from, for the manifest.
    """
    return _publish(config, store, now_us, (origin,), lambda: Made(tags), True, progress)


def write_events(path: Path, records: Iterable[events.Behaviour]) -> int:
    """Write behaviour events as one Parquet file that `build` reads; returns how many."""
    rows = [{"kind": events.kind_of(type(record)), **msgspec.structs.asdict(record)} for record in records]
    kinds = {
        "VARCHAR": pa.string(), "BLOB": pa.binary(16), "BIGINT": pa.int64(), "INTEGER": pa.int32(),
        "DOUBLE": pa.float64(),
    }  # fmt: skip
    columns = {name: kinds[kind] for name, (kind, _) in EVENT_COLUMNS.items()} | dict.fromkeys(
        ("ids", "other"), pa.binary()
    )
    schema = pa.schema(list(columns.items()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return len(rows)


def _publish(
    config: DmpConfig,
    store: Store,
    now_us: int,
    inputs: tuple[str, ...],
    make: Callable[[], Made],
    force: bool,
    progress: Progress,
    engine_name: str = "",
) -> Generation:
    started = time.monotonic()
    root = Path(config.data_dir) / "generations"
    with only_build(root), _patient(store) as client:
        made = make()
        forgotten = Forgotten(config.data_dir)
        tags = _remembered(grouped(made.tags), forgotten)
        made = made._replace(vectors={uid: vector for uid, vector in made.vectors.items() if uid not in forgotten})
        made = made._replace(tags=tags.table())
        live = live_generation(client)
        before = live_tags(config, client)
        users = tags.users
        drift = generations.drift(before, made.tags)
        if not force:
            _likeness(before, users, drift)
        number = max([live, *map(_number, root.iterdir())]) + 1
        work = generation_folder(config, number)
        work.mkdir(mode=0o700)
        pq.write_table(made.tags, work / "tags.parquet.part", compression="zstd")
        (work / "tags.parquet.part").rename(work / "tags.parquet")  # whole, or not there: the next build reads it
        if made.space is not None:
            carried.write(work, made.space, made.vectors)
        progress("bitmaps", users, users)
        bitmaps.make(work, tags, now_us)
        others = _others(root, client, live, number)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress("publish", done, users + len(others))

        published = generations.publish(client, tags, number, live, others, vectors=made.vectors, progress=advance)
        generations.verify(client, tags, number, others, made.vectors)
        counts = {SOURCES[e["values"].as_py()]: e["counts"].as_py() for e in made.tags["source"].value_counts()}
        generation = Generation(
            number=number,
            parent=live,
            created_us=now_us,
            inputs=inputs,
            sql={name: hashlib.sha256(family_sql(name).encode()).hexdigest() for name in sorted(query_names())},
            events=made.events,
            users=users,
            tags=len(tags.tag),
            rows=counts,
            unmapped=made.unmapped,
            withheld=made.withheld,
            unmapped_events=made.unmapped_events,
            decisions=made.decisions,
            joined=made.joined,
            doubted=made.doubted,
            excluded=made.excluded,
            engine=engine_name,
            steps=made.steps,
            notes=made.notes,
            vectors=len(made.vectors),
            drift=drift,
            written=published.written,
            unchanged=published.unchanged,
            gone=published.gone,
            seconds=round(time.monotonic() - started, 3),
        )
        (work / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(generation), indent=1))
        if not flip(client, number, live):
            raise generations.GenerationRefused("another build went live meanwhile; build again")
        _prune(root, keep={number, live})
    return generation


@contextmanager
def _patient(store: Store) -> Iterator[redis.Redis]:
    """A client for batch work; raises StoreUnavailable when the store is lost on the way."""
    client = store.sync(timeout_s=30.0)
    try:
        yield client
    except redis.exceptions.RedisError as error:
        raise StoreUnavailable(f"the tag store failed: {error}; nothing went live: mend it and build again") from None
    finally:
        client.close()


def _remembered(tags: Grouped, forgotten: Forgotten) -> Grouped:
    """Without users who were forgotten: event files may have come back from a backup (P-71)."""
    if not len(forgotten):
        return tags
    return tags.some(np.array([user for user in range(tags.users) if tags.uid(user) not in forgotten], np.int64))


def _likeness(before: pa.Table | None, users: int, drift: float) -> None:
    if before is not None and users < MIN_USERS_KEPT * len(pc.unique(before["uid"])):
        raise generations.GenerationRefused(
            f"{users} users have tags, {len(pc.unique(before['uid']))} had before; "
            f"check the inputs, or build with --force if this is meant"
        )
    if drift > MAX_DRIFT:
        raise generations.GenerationRefused(
            f"the tag histogram moved by {drift:.2f} (limit {MAX_DRIFT}); check the inputs, or build with --force"
        )


@contextmanager
def only_build(root: Path) -> Iterator[None]:
    """Hold while generations in the folder `root` are changed; raises DmpError when somebody else does."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DmpError(f"another build is running on {root}; wait for it") from None
        yield


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdigit() else 0


def _others(root: Path, client: redis.Redis, live: int, number: int) -> list[bytes]:
    """Users who may hold a record: those of the live generation and of abandoned ones above it.

    A live generation that was not built here (or whose folder is gone) is read from the store itself.
    """
    if live and not (root / str(live) / "tags.parquet").exists():
        return sorted(generations.holders(client))
    found: set[bytes] = set()
    for path in root.iterdir():
        if live <= _number(path) < number and _number(path) and (path / "tags.parquet").exists():
            found.update(pc.unique(pq.read_table(path / "tags.parquet", columns=["uid"])["uid"]).to_pylist())
    return sorted(found)


def _prune(root: Path, keep: set[int]) -> None:
    for path in root.iterdir():
        if _number(path) and _number(path) not in keep:
            shutil.rmtree(path)


def rollback(config: DmpConfig, store: Store) -> int:
    """Make the generation before the live one live again; returns its number.

    Raises DmpError when there is none, or when a newer build has begun to overwrite it.
    """
    root = Path(config.data_dir) / "generations"
    with only_build(root), _patient(store) as client:
        live = live_generation(client)
        manifest = generation_folder(config, live) / "manifest.json"
        if not manifest.exists():
            raise DmpError("no live generation on this machine to roll back from")
        parent = msgspec.json.decode(manifest.read_bytes(), type=Generation).parent
        if not parent or not generation_folder(config, parent).exists():
            raise DmpError(f"generation {live} has no earlier one to roll back to")
        if any(_number(path) > live for path in root.iterdir()):
            raise DmpError("a newer build has begun and overwrote what a rollback needs; finish or repeat that build")
        if not flip(client, parent, live):
            raise DmpError("another build went live meanwhile; nothing was rolled back")
    return parent
