import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmp.engine import DuckEngine, family_sql, query_names
from dmp.errors import BadEvents
from dmp.portable import problems
from dmp.tables import TABLES

COLUMNS: dict[str, tuple[str, str | None]] = {"name": ("VARCHAR", None), "n": ("BIGINT", "7")}


@pytest.fixture
def engine():
    with DuckEngine() as engine:
        yield engine


def test_files_of_different_columns_and_types_become_one_table(engine, tmp_path):
    pq.write_table(pa.table({"name": ["a"], "n": pa.array([1], pa.int32()), "more": [True]}), tmp_path / "a.parquet")
    pq.write_table(
        pa.table({"n": pa.array([2, None]), "name": pa.array(["b", "c"]).dictionary_encode()}), tmp_path / "b"
    )
    pq.write_table(pa.table({"name": ["d"]}), tmp_path / "it's.parquet")
    engine.scan("t", [tmp_path / "a.parquet", tmp_path / "b", tmp_path / "it's.parquet"], COLUMNS)
    rows = engine.sql("SELECT name, n, file FROM t ORDER BY name").to_pylist()
    assert [(row["name"], row["n"]) for row in rows] == [("a", 1), ("b", 2), ("c", 7), ("d", 7)]
    assert rows[3]["file"] == str(tmp_path / "it's.parquet")


def test_partition_folders_add_no_columns(engine, tmp_path):
    folder = tmp_path / "n=5"
    folder.mkdir()
    pq.write_table(pa.table({"name": ["a"]}), folder / "a.parquet")
    engine.scan("t", [folder / "a.parquet"], COLUMNS)
    assert engine.sql("SELECT n FROM t").to_pylist() == [{"n": 7}]


@pytest.mark.parametrize("name", ["a[1].parquet", "a*.parquet", "a?.parquet", "a[.parquet"])
def test_a_file_name_is_no_pattern(engine, tmp_path, name):
    for each in (name, "a1.parquet"):
        pq.write_table(pa.table({"name": [each]}), tmp_path / each)
    engine.scan("t", [tmp_path / name], COLUMNS)
    assert engine.sql("SELECT name, file FROM t").to_pylist() == [{"name": name, "file": str(tmp_path / name)}]


def test_a_column_that_is_there_twice_is_refused(engine, tmp_path):
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["name", "name"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(BadEvents, match=r"a\.parquet: column 'name' is there more than once"):
        engine.scan("t", [tmp_path / "a.parquet"], COLUMNS)


def test_a_missing_column_is_named_with_its_file_and_what_there_is(engine, tmp_path):
    pq.write_table(pa.table({"nmae": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(BadEvents, match=r"a\.parquet: column 'name' is missing; it has nmae"):
        engine.scan("t", [tmp_path / "a.parquet"], COLUMNS)


def test_tables_are_copied_in_and_counted(engine):
    engine.table("t", pa.table({"x": [1, 2, 3]}))
    assert engine.count("t") == 3
    assert engine.create("u", "SELECT x FROM t WHERE x > 1") == 2


@pytest.mark.parametrize("name", query_names())
def test_every_query_of_a_build_is_portable(name):
    assert problems(family_sql(name), TABLES) == []


def test_what_a_build_spilled_is_gone_after_it_also_when_one_was_killed(tmp_path):
    spill = tmp_path / "spill"
    spill.mkdir()
    (spill / "build-dead.duckdb").write_bytes(b"left")
    with DuckEngine(spill=spill) as engine:
        assert engine.create("t", "SELECT range AS x FROM range(10)") == 10
        assert [path.name == "build-dead.duckdb" for path in spill.glob("*.duckdb")] == [False]
    assert list(spill.iterdir()) == []
