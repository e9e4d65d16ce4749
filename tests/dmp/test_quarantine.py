import json
import re

import pyarrow as pa
import pytest

from dmp import ingest, journal, quarantine
from dmp.errors import BadEvents, ConfigError
from dmp.shaping import _statement
from tests.dmp.test_ingest import GOOD, NOW_US, RING, a_csv, a_mapping, events_of, refused, run


def replay(into, using, now_us=NOW_US):
    return ingest.replay(into, using, RING, now_us)


def rows_of(into):
    steps = journal.quarantined(journal.read(into))
    return list(quarantine.listed([journal.quarantine(into, step.n) for step in steps]))


def test_a_quarantined_row_says_where_it_stands_whose_it_is_and_what_it_looked_like(tmp_path):
    log = a_csv(tmp_path / "a.csv", GOOD, GOOD | {"action": "wave", "topic": "box 4711"})
    run(tmp_path / "ev", log)
    (row,) = rows_of(tmp_path / "ev")
    alice = RING.uid("cookie", "alice").hex()
    assert (row.reason, row.file, row.row, row.uid) == ("unknown_kind", str(log), 1, alice)
    assert json.loads(row.raw) == {
        "user": f"user {alice}",
        "at": "9999-99-99a99:99:99",
        "action": "wave",
        "ok": "yes",
        "topic": "aaa 9999",
        "cents": "999",
    }


def test_every_reason_of_the_statement_is_explained():
    said = set(re.findall(r"THEN '(\w+)'\n", _statement(a_mapping(), [pa.string()] * 5, ())))
    assert said
    assert said <= set(quarantine.REASONS)


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 100])
def test_a_better_mapping_takes_the_rows_and_leaves_the_rest(tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr(ingest, "CHUNK_ROWS", chunk_rows)
    rows = [
        GOOD,
        GOOD | {"action": "wave"},
        GOOD | {"at": "x"},
        GOOD | {"user": "bob"},
        "a,b",
        GOOD | {"action": "wave"},
    ]
    run(tmp_path / "ev", a_csv(tmp_path / "a.csv", *rows))
    assert refused(tmp_path / "ev") == [(1, "unknown_kind"), (2, "bad_time"), (4, "malformed"), (5, "unknown_kind")]
    report = replay(tmp_path / "ev", a_mapping(**{'pv = \\"view\\"': 'pv = "view", wave = "search"'}))
    assert (report.rows, report.events, report.duplicates) == (4, 1, 1)
    assert report.bad == {"bad_time": 1, "malformed": 1}
    assert refused(tmp_path / "ev") == [(2, "bad_time"), (4, "malformed")]
    assert sorted(row["kind"] for row in events_of(tmp_path / "ev")) == ["search", "view", "view"]
    again = replay(tmp_path / "ev", a_mapping())
    assert (again.rows, again.events) == (2, 0)
    assert run(tmp_path / "ev", tmp_path / "a.csv").skipped == 1


def test_rows_from_the_future_come_in_when_it_has_come(tmp_path):
    run(tmp_path / "ev", a_csv(tmp_path / "a.csv", GOOD), now_us=NOW_US - 30 * 86_400_000_000)
    assert refused(tmp_path / "ev") == [(0, "future")]
    assert replay(tmp_path / "ev", a_mapping()).events == 1
    assert refused(tmp_path / "ev") == []


def test_a_log_that_changed_is_not_replayed(tmp_path):
    log = a_csv(tmp_path / "a.csv", GOOD | {"at": "x"})
    run(tmp_path / "ev", log)
    a_csv(log, GOOD)
    with pytest.raises(BadEvents, match="changed since"):
        replay(tmp_path / "ev", a_mapping())
    assert refused(tmp_path / "ev") == [(0, "bad_time")]


def test_a_mapping_that_numbers_rows_in_another_way_is_refused(tmp_path):
    run(tmp_path / "ev", a_csv(tmp_path / "a.csv", GOOD | {"at": "x"}))
    with pytest.raises(ConfigError, match="numbers the rows in another way"):
        replay(tmp_path / "ev", a_mapping(f"header = {json.dumps(list(GOOD))}\n"))
