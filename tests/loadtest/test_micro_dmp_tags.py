import pyarrow.parquet as pq

from dmp.tables import EVENT_COLUMNS
from loadtest import micro_dmp_tags


def test_the_yardstick_makes_the_same_of_the_same_events(tmp_path):
    path = tmp_path / "events.parquet"
    micro_dmp_tags.write_events(5_000, path)
    events = pq.read_table(path)
    assert len(events) == 5_000
    assert len(set(events["event_id"].to_pylist())) == 4_995
    assert set(events.column_names) <= set(EVENT_COLUMNS)
    ours, hand = micro_dmp_tags.ours(path, tmp_path), micro_dmp_tags.hand(path, tmp_path)
    assert hand["rows"]["hand_interest"] == ours["rows"]["interest"] > 1_000
    assert hand["rows"]["hand_rfm"] == hand["rows"]["hand_sessions"] == ours["users"]
    assert set(micro_dmp_tags.THE_SAME) <= set(ours["seconds"])
