"""The second engine: what DuckDB says, Spark says too. One session for the whole lane (`make test-spark`)."""

import os
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmp import families, offline, tagging
from dmp.config import BuildConfig, DmpConfig
from dmp.engine import DuckEngine, family_sql
from dmp.errors import BadEvents
from dmp.events import Cart, Purchase, Search, View
from dmp.spark import SparkEngine, SparkMissing, open_session
from tests.dmp.factories import NOW_US, act, customer, user
from tests.dmp.golden import CASES, family_tags, prepared

pytestmark = [pytest.mark.spark, pytest.mark.timeout(900)]  # the session starts within the first test's time


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    pytest.importorskip("pyspark", reason="needs the extra spark: pip install 'tagbid[spark]'")
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        pytest.skip("needs a Java run time")
    session = open_session("local[2]", tmp_path_factory.mktemp("spark"))
    session.conf.set("spark.sql.shuffle.partitions", "1")
    yield session
    session.stop()


@pytest.fixture
def engine(session):
    with SparkEngine(session=session) as engine:
        yield engine


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_a_family_makes_of_its_golden_events_what_it_makes_on_duckdb(engine, case, tmp_path):
    assert family_tags(engine, case, prepared(case, tmp_path / "events.parquet")) == case.tags


def test_files_of_different_columns_and_types_become_one_table(engine, tmp_path):
    columns = {"name": ("VARCHAR", None), "n": ("BIGINT", "7")}
    pq.write_table(pa.table({"name": ["a"], "n": pa.array([1], pa.int32()), "more": [True]}), tmp_path / "a[1].parquet")
    pq.write_table(pa.table({"n": pa.array([2, None]), "name": pa.array(["b", "c"])}), tmp_path / "b+ü *.parquet")
    pq.write_table(pa.table({"name": ["d"], "n": pa.nulls(1)}), tmp_path / "it's.parquet")
    pq.write_table(pa.table({"name": ["another"]}), tmp_path / "a1.parquet")
    names = ("a[1].parquet", "b+ü *.parquet", "it's.parquet")
    engine.scan("t", [tmp_path / name for name in names], columns)
    rows = engine.sql("SELECT name, n, file FROM t ORDER BY name ASC NULLS LAST").to_pylist()
    files = [str(tmp_path / names[n]) for n in (0, 1, 1, 2)]
    assert [tuple(row.values()) for row in rows] == list(zip("abcd", (1, 2, 7, 7), files, strict=True))


def test_a_missing_column_is_named(engine, tmp_path):
    pq.write_table(pa.table({"nmae": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(BadEvents, match=r"a\.parquet: column 'name' is missing"):
        engine.scan("t", [tmp_path / "a.parquet"], {"name": ("VARCHAR", None)})


def test_tables_views_and_files(engine, tmp_path):
    engine.table("t", pa.table({"x": pa.array([1, 2, 3], pa.uint8()), "uid": pa.array([user(1)] * 3, pa.binary(16))}))
    engine.view("v", "SELECT x, uid FROM t WHERE x > 1")
    assert engine.create("kept", "SELECT x FROM v") == engine.count("kept") == 2
    assert engine.write("SELECT x, uid FROM v", tmp_path / "out.parquet") == 2
    assert sorted(pq.read_table(tmp_path / "out.parquet")["x"].to_pylist()) == [2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def random_events(n):
    """Everything the families look at, with ties, copies, and times all around the clock."""
    rng = random.Random(7)
    labels = ["travel", "food", "interest.shopping.supermarket", "In-market/automobile", "zorbing", "religion", ""]
    made = [
        customer(k, rng.randrange(200), gender=rng.choice("mf"), birth_year=rng.randrange(1940, 2010))
        for k in range(60)
    ]
    for _ in range(n):
        kind = rng.choice([View, View, View, Search, Cart, Purchase])
        fields = {
            "category": rng.choice(labels), "brand": rng.choice(["", "A", "B", "C"]),
            "device": rng.choice(["pc", "mobile", "iOS", "Android", ""]),
            "channel": rng.choice(["app", "web", "email", ""]),
            "region": rng.choice(["", "CN-GD", "DE", "Beijing", "US-CA"]), "item": rng.choice("xyz"),
        }  # fmt: skip
        if kind is Purchase:
            fields |= {"value_micros": rng.randrange(0, 90) * 10**6, "order_id": rng.choice(["", "o1", "o2", "o3"])}
            fields["due_us"] = rng.choice([0, NOW_US + rng.randrange(-90, 90) * 86_400_000_000])
        if rng.random() < 0.05:
            fields["event_id"] = f"copied{rng.randrange(20)}"
        made.append(act(rng.randrange(80), kind, rng.choice([rng.random() * 3, rng.random() * 120]), **fields))
    return made


def test_a_whole_build_of_random_events_is_the_same_on_both(session, tmp_path, store):
    offline.write_events(tmp_path / "events.parquet", random_events(3_000))
    built = {}
    for name in ("duckdb", "spark"):
        config = DmpConfig(
            data_dir=str(tmp_path / name), build=BuildConfig(utc_offset_min=480, spark_master="local[2]")
        )
        made = offline.build(config, tmp_path / "events.parquet", NOW_US, store, force=True, engine_name=name)
        assert made.engine == name
        with store.sync() as client:
            rows = offline.live_tags(config, client).to_pylist()
        built[name] = made, sorted(tuple(row.values()) for row in rows)
    assert built["duckdb"][1] == built["spark"][1]
    assert {*built["spark"][0].rows} >= set(families.SQL_FAMILIES)
    session.sql("SELECT 1").collect()  # a build that joined the session leaves it running


def test_a_number_that_is_too_large_is_an_error_on_both(engine):
    for one in (engine, DuckEngine()):
        one.table("t", pa.table({"x": [2**62, 2**62]}))
        with pytest.raises(one.Error):
            one.sql("SELECT CAST(SUM(x) AS BIGINT) AS n FROM t")


def test_broken_files_are_told(engine, tmp_path):
    columns = {
        "event_id": ["e"],
        "kind": ["veiw"],
        "uid": pa.array([user(1)], pa.binary(16)),
        "time_us": [1],
        "consent": [7],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    tagging.scan(engine, [tmp_path / "a.parquet"], NOW_US)
    (fault,) = engine.sql(family_sql("broken")).to_pylist()
    assert fault == {"file": str(tmp_path / "a.parquet"), "what": "the unknown kind veiw", "n": 1}


def test_without_java_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(SparkMissing, match="Java"):
        open_session("local[1]")
