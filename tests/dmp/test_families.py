import pyarrow as pa
import pytest

from dmp import families, offline
from dmp.config import DmpConfig
from dmp.events import Purchase
from dmp.family_columns import FAMILY_COLUMNS, WEIGHT_COLUMNS
from dmp.schema import SOURCES
from dmp.taxonomy import tag_id
from tests.dmp.factories import NOW_US, act, user

TRAVEL, CLUSTER = tag_id("interest.travel"), tag_id("cluster.1")


@pytest.fixture
def made(tmp_path, store):
    """Build from these events; returns {(user number, tag): (score, source)} and the manifest."""
    config = DmpConfig(data_dir=str(tmp_path / "data"))

    def run(*records):
        offline.write_events(tmp_path / "events.parquet", records)
        generation = offline.build(config, tmp_path / "events.parquet", NOW_US, store, force=True)
        with store.sync() as client:
            rows = offline.live_tags(config, client).to_pylist()
        found = {(int.from_bytes(r["uid"]), r["tag"]): (r["score"], SOURCES[r["source"]]) for r in rows}
        return found, generation

    return run


def test_every_family_has_a_source_of_its_own():
    assert len(set(SOURCES)) == len(SOURCES) < 256
    assert {*families.SQL_FAMILIES, *families.MODEL_FAMILIES} <= set(SOURCES)


def test_the_numbers_of_sources_that_stored_profiles_hold_never_change():
    assert SOURCES[:5] == ("unknown", "interest", "rfm", "demographic", "import")


def test_a_model_family_sees_events_and_tags_and_adds_its_own(made, monkeypatch):
    def travellers(engine, now_us):
        assert now_us == NOW_US
        return engine.sql(
            f"SELECT t.uid, {CLUSTER} AS tag, 70 AS score, MAX(t.as_of_day) AS as_of_day FROM tags AS t "  # noqa: S608
            f"INNER JOIN events AS e ON t.uid = e.uid WHERE t.tag = {TRAVEL} GROUP BY t.uid"
        )

    monkeypatch.setitem(families.MODEL_FAMILIES, "cluster", travellers)
    found, generation = made(act(1, category="travel"), act(2, category="food"))
    assert found[1, CLUSTER] == (70, "cluster")
    assert (2, CLUSTER) not in found
    assert generation.rows["cluster"] == 1


def test_what_weighers_say_of_events_counts_before_any_family(made, monkeypatch):
    brushed = act(1, Purchase, category="travel", address="a1", seller="s")  # 8, but a quarter of it: 2
    bot = act(2, Purchase, category="travel", event_id=brushed.event_id, source="bots")

    def orders(engine, now_us):
        return engine.sql(
            "SELECT source, event_id, 0.25 AS weight, 'B' AS reason FROM cleaned "
            "WHERE address = 'a1' AND seller = 's' AND item = ''"
        )

    def bots(engine, now_us):
        return pa.table(
            {"source": ["bots", "test"], "event_id": [brushed.event_id] * 2, "weight": [0, 0.9], "reason": ["X", "X"]},
            schema=WEIGHT_COLUMNS,
        )

    monkeypatch.setattr(families, "WEIGHERS", {"orders": orders, "bots": bots})
    three = [act(3, category="travel") for _ in range(3)]
    found, generation = made(brushed, bot, *three)
    assert [found.get((n, TRAVEL)) for n in (1, 2, 3)] == [(50, "interest"), None, (100, "interest")]
    assert generation.events == 4
    assert generation.doubted == {"B": 1, "X": 2}
    assert not {key for key in found if key[0] == 2}


def test_new_fields_of_events_reach_the_families(made, monkeypatch):
    seen = []

    def look(engine, now_us):
        seen.extend(
            engine.sql("SELECT item, brand, device, channel, region, order_id, due_us, ip FROM events").to_pylist()
        )
        return FAMILY_COLUMNS.empty_table()

    monkeypatch.setitem(families.MODEL_FAMILIES, "cluster", look)
    made(
        act(
            1, Purchase, item="i", brand="b", device="pc", channel="app", region="CN-GD", order_id="o", due_us=7, ip="x"
        )
    )
    assert seen == [
        {
            "item": "i", "brand": "b", "device": "pc", "channel": "app", "region": "CN-GD", "order_id": "o",
            "due_us": 7, "ip": "x",
        }
    ]  # fmt: skip
    assert user(1)
