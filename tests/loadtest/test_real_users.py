from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmp.pseudonym import KeyRing
from dmp.taxonomy import tag_id
from loadtest import real_users
from loadtest.real_users import IMPRESSIONS, REQUESTS, SEGMENTS, MissingData

NOW = 1_780_000_000_000_000
RING = KeyRing(bytes(32))
REAL = Path(__file__).parents[3] / "shared" / "data"


def a_log(folder, rows):
    (folder / "ipinyou_log").mkdir(exist_ok=True)
    names = [(1, "Long-term interest/sports"), (2, "In-market/travel"), (3, "Long-term interest/health")]
    pq.write_table(pa.table({"id": [i for i, _ in names], "name": [n for _, n in names]}), folder / SEGMENTS)
    columns = {
        "user_id": pa.array([row[0] for row in rows], pa.string()),
        "user_tags": pa.array([row[1] for row in rows], pa.list_(pa.int64())),
        "ts": pa.array([row[2] for row in rows], pa.int64()),
    }
    pq.write_table(pa.table(columns), folder / IMPRESSIONS)


def test_segments_become_standard_tags_dated_as_if_the_log_ended_today(tmp_path):
    a_log(
        tmp_path,
        [("u", [1, 2], 20131020120000000), ("v", [1], 20131022120000000), ("w", None, 20131022120000000)],
    )
    imported = real_users.segments(tmp_path, RING, NOW)
    today = NOW // 86_400_000_000
    found = {(row["uid"], row["tag"]): row["as_of_day"] for row in imported.tags.to_pylist()}
    u, v = (RING.uid("exchange", f"ipinyou:{name}") for name in "uv")
    assert found == {
        (u, tag_id("interest.sports")): today - 2,
        (u, tag_id("intent.travel")): today - 2,
        (v, tag_id("interest.sports")): today,
    }
    assert imported.users == 2


def test_sensitive_and_unknown_segments_are_left_out_and_counted(tmp_path):
    a_log(tmp_path, [("u", [3, 99], 20131020120000000)])
    imported = real_users.segments(tmp_path, RING, NOW)
    assert len(imported.tags) == 0
    assert imported.sensitive == {"Long-term interest/health": 1}
    assert imported.unmapped == {"segment 99": 1}


def test_page_topics_become_views_of_the_first_requests_only(tmp_path):
    rows = {
        "ts": [100.0, 101.0, 101.5, 102.0],
        "request_id": ["a", "b", "c", "d"],
        "user_id": ["u", None, "v", "w"],
        "url": ["http://x.example/"] * 4,
        "verticals": [[67, 20], [67], None, [67]],
        "vertical_weights": [[0.5, 0.5], [1.0], None, [1.0]],
    }
    pq.write_table(pa.table(rows), tmp_path / "r.parquet")
    n = real_users.page_views(tmp_path / "r.parquet", 3, "adx", RING, NOW, tmp_path / "events" / "views.parquet")
    events = pq.read_table(tmp_path / "events" / "views.parquet").to_pylist()
    u, v = (RING.uid("exchange", f"adx:{name}") for name in "uv")
    assert n == len(events)
    assert {(event["uid"], event["category"], event["time_us"]) for event in events} == {
        (u, "interest.travel", NOW - 2_000_000),
        (u, "interest.sports", NOW - 2_000_000),
        (v, "", NOW - 500_000),
    }


def test_a_folder_without_the_logs_names_every_missing_file(tmp_path):
    with pytest.raises(MissingData) as error:
        real_users.check(tmp_path, (REQUESTS, IMPRESSIONS))
    assert str(tmp_path / REQUESTS) in str(error.value)
    assert str(tmp_path / IMPRESSIONS) in str(error.value)


def test_real_segments_map_to_standard_tags():
    if not (REAL / IMPRESSIONS).exists():
        pytest.skip("needs ../shared/data/ipinyou_log")
    imported = real_users.segments(REAL, RING, NOW)
    mapped = len(imported.tags) + sum(imported.sensitive.values())
    assert imported.users > 5_000
    assert mapped > 5 * sum(count for name, count in imported.unmapped.items() if not name.startswith("segment "))
