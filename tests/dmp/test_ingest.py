import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmp import ingest, journal, mapping, offline, quarantine, seen
from dmp.config import DmpConfig
from dmp.errors import BadEvents, ConfigError, DmpError
from dmp.pseudonym import KeyRing
from dmp.taxonomy import tag_id

RING = KeyRing(b"k" * 32)
NOW_US = int(datetime(2024, 10, 4, 12, tzinfo=UTC).timestamp()) * 1_000_000
DAY_US = 86_400_000_000
SHOP = """
source = "shop"
id = [{column = "user", type = "cookie"}]
time = {column = "at"}
category = {column = "topic"}
value = {column = "cents", micros_per_unit = 10_000}
[kind]
column = "action"
values = {pv = "view", buy = "purchase"}
[consent]
column = "ok"
values = {yes = 7, no = 0}
"""
GOOD = {"user": "alice", "at": "2024-10-01T00:00:00", "topic": "travel", "cents": "250", "action": "pv", "ok": "yes"}
AT_US = 1_727_740_800_000_000  # 2024-10-01 00:00 UTC


def a_mapping(extra: str = "", **replaced: str) -> mapping.Mapping:
    text = SHOP
    for old, new in replaced.items():
        text = text.replace(*json.loads(f'["{old}", {json.dumps(new)}]'))
    return mapping.parse(extra + text, "shop")


def a_csv(path: Path, *rows: dict[str, str] | str) -> Path:
    """A log of rows; a text is a line as it stands."""
    lines = [row if isinstance(row, str) else ",".join(row.values()) for row in rows]
    path.write_text("\n".join([",".join(GOOD), *lines]) + "\n")
    return path


def run(into: Path, *paths: Path, using: mapping.Mapping | None = None, now_us: int = NOW_US) -> ingest.Report:
    return ingest.ingest(paths, into, using or a_mapping(), RING, now_us)


def events_of(into: Path) -> list[dict]:
    rows = [row for path in sorted(into.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["time_us"], row["event_id"]))


def refused(into: Path) -> list[tuple[int, str]]:
    steps = journal.quarantined(journal.read(into))
    return [(row.row, row.reason) for row in quarantine.listed([journal.quarantine(into, s.n) for s in steps])]


def test_a_row_becomes_the_event_the_mapping_says(tmp_path):
    log = a_csv(tmp_path / "log.csv", GOOD, GOOD | {"action": "buy", "ok": "no", "topic": "", "user": "bob"})
    report = run(tmp_path / "ev", log)
    assert (report.rows, report.events, report.duplicates, report.bad) == (2, 2, 0, {})
    found = {row["kind"]: row for row in events_of(tmp_path / "ev")}
    view, purchase = found["view"], found["purchase"]
    assert view["uid"] == RING.uid("cookie", "alice")
    assert (view["time_us"], view["consent"], view["source"], view["category"]) == (AT_US, 7, "shop", "travel")
    assert (view["value_micros"], view["gender"], view["birth_year"]) == (2_500_000, "", 0)
    assert len(view["event_id"]) == 32
    assert purchase["uid"] == RING.uid("cookie", "bob")
    assert (purchase["consent"], purchase["category"]) == (0, "")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"user": ""}, "missing_id"),
        ({"user": "  "}, "missing_id"),
        ({"user": "00000000-0000-0000-0000-000000000000"}, "bad_id"),
        ({"user": "null"}, "bad_id"),
        ({"at": ""}, "missing_time"),
        ({"at": "soon"}, "bad_time"),
        ({"at": "2024-13-01"}, "bad_time"),
        ({"at": "1999-12-31T23:59:59"}, "too_old"),
        ({"at": "2024-10-04T12:05:01"}, "future"),
        ({"action": "wave"}, "unknown_kind"),
        ({"action": ""}, "unknown_kind"),
        ({"ok": "perhaps"}, "unknown_consent"),
        ({"ok": ""}, "unknown_consent"),
        ({"cents": "many"}, "bad_number"),
        ({"cents": "nan"}, "bad_number"),
        ({"cents": "-1"}, "bad_number"),
        ({"cents": "1e30"}, "bad_number"),
        ({"topic": "t" * 513}, "too_long"),
        ({"topic": "t" * 70_000}, "too_long"),
        ({"topic": "tra\x01vel"}, "bad_text"),
        ({"topic": "alice@example.com"}, "holds_email"),
    ],
)
def test_a_row_that_is_no_event_is_refused_for_its_reason(tmp_path, fault, reason):
    log = a_csv(tmp_path / "log.csv", GOOD, GOOD | fault, GOOD | {"user": "bob"})
    report = run(tmp_path / "ev", log)
    assert (report.rows, report.events, report.bad) == (3, 2, {reason: 1})
    assert refused(tmp_path / "ev") == [(1, reason)]


@pytest.mark.parametrize(
    "edge", [{"at": "2024-10-04T12:05:00"}, {"at": "2000-01-01"}, {"cents": ""}, {"cents": "0.5"}, {"topic": "t" * 512}]
)
def test_a_row_at_the_edge_of_a_rule_is_an_event(tmp_path, edge):
    assert run(tmp_path / "ev", a_csv(tmp_path / "log.csv", GOOD | edge)).bad == {}


def test_records_with_other_columns_are_refused_and_keep_their_number(tmp_path):
    log = a_csv(tmp_path / "log.csv", GOOD, "alice,2024-10-01", "", GOOD | {"user": "bob", "at": "x"})
    run(tmp_path / "ev", log)
    assert refused(tmp_path / "ev") == [(1, "malformed"), (2, "bad_time")]  # the blank line is no record


@pytest.mark.parametrize(
    ("format_", "text", "micros"),
    [
        ("epoch_s", "1727740800", AT_US),
        ("epoch_s", "1727740800.25", AT_US + 250_000),
        ("epoch_ms", "1727740800007", AT_US + 7_000),
        ("epoch_us", "1727740800000009", AT_US + 9),
        ("%Y%m%d%H%M%S%g", "20241001000000623", AT_US + 623_000),
        ("%d/%m/%Y %H:%M", "01/10/2024 00:00", AT_US),
        ("%Y-%m-%d %H:%M:%S %z", "2024-10-01 02:00:00 +0200", AT_US),
        ("iso", "2024-10-01T02:00:00+02:00", AT_US),
        ("iso", "2024-10-01T00:00:00.000005Z", AT_US + 5),
        ("iso", "2024-10-01", AT_US),
    ],
)
def test_time_is_read_in_its_format(tmp_path, format_, text, micros):
    using = a_mapping(**{'column = \\"at\\"': f'column = "at", format = "{format_}"'})
    run(tmp_path / "ev", a_csv(tmp_path / "log.csv", GOOD | {"at": text}), using=using)
    assert [row["time_us"] for row in events_of(tmp_path / "ev")] == [micros]


@pytest.mark.parametrize(
    ("text", "hours"), [("2024-10-01T08:00:00", 0), ("2024-10-01T08:00:00Z", 8), ("2024-10-01T08:00:00+02:00", 6)]
)
def test_a_time_without_offset_is_of_the_zone_and_one_with_is_not(tmp_path, text, hours):
    using = a_mapping(**{'column = \\"at\\"': 'column = "at", zone = "Asia/Shanghai"'})
    run(tmp_path / "ev", a_csv(tmp_path / "log.csv", GOOD | {"at": text}), using=using)
    assert [row["time_us"] for row in events_of(tmp_path / "ev")] == [AT_US + hours * 3_600_000_000]


def test_typed_parquet_columns_are_read_as_they_are(tmp_path):
    log = tmp_path / "log.parquet"
    columns = {
        "user": pa.array(["alice", None, "bob"]).dictionary_encode(),
        "at": pa.array([AT_US, AT_US, AT_US + 1], pa.timestamp("us", tz="UTC")),
        "topic": pa.array(["food", "food", None]),
        "cents": pa.array([1.5, 2.0, None]),
        "action": pa.array(["pv", "pv", "buy"], pa.large_string()),
        "ok": pa.array(["yes"] * 3),
    }
    pq.write_table(pa.table(columns), log)
    assert run(tmp_path / "ev", log).bad == {"missing_id": 1}
    found = [(r["time_us"], r["value_micros"], r["category"]) for r in events_of(tmp_path / "ev")]
    assert found == [(AT_US, 15_000, "food"), (AT_US + 1, 0, "")]


@pytest.mark.parametrize("numbers", [pa.int64(), pa.uint64(), pa.float64(), pa.int32()])
def test_numeric_times_are_read_from_any_type(tmp_path, numbers):
    log = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD]).set_column(1, "at", pa.array([1_727_740_800, None][:1], numbers)), log)
    run(tmp_path / "ev", log, using=a_mapping(**{'column = \\"at\\"': 'column = "at", format = "epoch_s"'}))
    assert [row["time_us"] for row in events_of(tmp_path / "ev")] == [AT_US]


def test_the_same_rows_are_the_same_events_in_every_format(tmp_path):
    rows = [GOOD | {"user": f"u{n}", "cents": str(n)} for n in range(5)]
    plain = a_csv(tmp_path / "a.csv", *rows)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    lines = "".join(json.dumps(row | {"cents": int(row["cents"]), "more": {"x": [1]}}) + "\n" for row in rows)
    (tmp_path / "c.jsonl").write_text(lines)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    made = []
    for log in sorted(tmp_path.iterdir()):
        into = tmp_path / ("ev-" + log.name)
        assert run(into, log).events == 5
        made.append(events_of(into))
    assert all(one == made[0] for one in made)


def test_lines_that_are_no_json_object_are_refused(tmp_path):
    good = json.dumps(GOOD)
    deep = "[" * 5_000
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join([good, "{", "[1]", "7", deep, '{"user":"' + "x" * 70_000 + '"}', "", "{}"]))
    assert run(tmp_path / "ev", log).bad == {"malformed": 4, "too_long": 1, "missing_id": 1}
    assert refused(tmp_path / "ev")[-1] == (6, "missing_id")


def test_json_columns_may_be_paths(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(GOOD | {"user": {"id": "alice"}}))
    run(tmp_path / "ev", log, using=a_mapping(**{'column = \\"user\\"': 'column = "user.id"'}))
    assert [row["uid"] for row in events_of(tmp_path / "ev")] == [RING.uid("cookie", "alice")]


def test_the_first_usable_id_counts(tmp_path):
    using = a_mapping(
        **{'type = \\"cookie\\"}': 'type = "cookie"}, {column = "idfa", type = "device"}'},
    )
    log = tmp_path / "log.jsonl"
    ids = [{"user": "a", "idfa": "b"}, {"user": None, "idfa": "c"}, {"user": "null", "idfa": "d"}, {"user": "null"}]
    log.write_text("\n".join(json.dumps({k: v for k, v in GOOD.items() if k != "user"} | one) for one in ids))
    assert run(tmp_path / "ev", log, using=using).bad == {"bad_id": 1}
    assert {row["uid"] for row in events_of(tmp_path / "ev")} == {
        RING.uid("cookie", "a"),
        RING.uid("device", "c"),
        RING.uid("device", "d"),
    }


def test_a_list_becomes_one_event_an_element_and_a_row_without_stays_one(tmp_path):
    using = a_mapping('explode = "topic"\nexplode_separator = "|"\nevent_id = {column = "cents"}\n')
    log = a_csv(tmp_path / "log.csv", GOOD | {"topic": "food|travel|food"}, GOOD | {"topic": "", "cents": "7"})
    report = run(tmp_path / "ev", log, using=using)
    assert (report.rows, report.events, report.duplicates) == (2, 3, 1)
    assert sorted((row["event_id"], row["category"]) for row in events_of(tmp_path / "ev")) == [
        ("250#food", "food"),
        ("250#travel", "travel"),
        ("7", ""),
    ]


def test_a_row_with_one_bad_element_is_refused_whole(tmp_path):
    using = a_mapping('explode = "topic"\nexplode_separator = "|"\n')
    log = a_csv(tmp_path / "log.csv", GOOD | {"topic": "food|a@b.example|art"}, GOOD)
    assert run(tmp_path / "ev", log, using=using).bad == {"holds_email": 1}
    assert [row["category"] for row in events_of(tmp_path / "ev")] == ["travel"]


def test_of_a_url_the_host_is_kept(tmp_path):
    log = a_csv(tmp_path / "log.csv", GOOD | {"topic": "https://u:p@Shop.example:80/p?mail=a@b.example"})
    using = a_mapping('site = {column = "topic", take = "domain"}\n', **{'category = {column = \\"topic\\"}': ""})
    run(tmp_path / "ev", log, using=using)
    assert [row["site"] for row in events_of(tmp_path / "ev")] == ["shop.example"]


def test_copies_are_left_out_within_a_file_across_files_and_across_runs(tmp_path):
    later = GOOD | {"at": "2024-10-02"}
    first = a_csv(tmp_path / "a.csv", GOOD, GOOD, later)
    second = a_csv(tmp_path / "b.csv", later, GOOD | {"user": "bob"})
    third = a_csv(tmp_path / "c.csv", GOOD | {"user": "bob"}, GOOD | {"cents": "251"})
    report = run(tmp_path / "ev", first, second)
    assert (report.events, report.duplicates) == (3, 2)
    report = run(tmp_path / "ev", third)
    assert (report.events, report.duplicates) == (1, 1)
    assert len(events_of(tmp_path / "ev")) == 4


def test_a_file_done_is_not_read_again_under_any_name(tmp_path):
    log = a_csv(tmp_path / "a.csv", GOOD)
    run(tmp_path / "ev", log)
    log.rename(tmp_path / "b.csv")
    report = run(tmp_path / "ev", tmp_path / "b.csv")
    assert (report.skipped, report.rows) == (1, 0)


def test_an_empty_log_is_done(tmp_path):
    assert run(tmp_path / "ev", a_csv(tmp_path / "a.csv")).events == 0
    assert run(tmp_path / "ev", tmp_path / "a.csv").skipped == 1


def test_a_missing_column_is_told_without_showing_the_first_line(tmp_path):
    (tmp_path / "a.csv").write_text("alice,2024\n")
    with pytest.raises(BadEvents, match=r"column 'user', 'at', .*--mapping") as told:
        run(tmp_path / "ev", tmp_path / "a.csv")
    assert "alice" not in str(told.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.txt"])
def test_a_file_that_is_not_what_it_says_is_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1 what is this")
    with pytest.raises(BadEvents, match=name):
        run(tmp_path / "ev", tmp_path / name)


def test_a_damaged_file_keeps_what_came_before(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 300)
    rows = [GOOD | {"user": f"user {n * 7919}"} for n in range(3_000)]
    whole = gzip.compress(a_csv(tmp_path / "a.csv", *rows).read_bytes())
    (tmp_path / "b.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadEvents, match=r"b\.csv\.gz: damaged"):
        run(tmp_path / "ev", tmp_path / "b.csv.gz")
    before = len(events_of(tmp_path / "ev"))
    assert 0 < before < 3_000
    (tmp_path / "b.csv.gz").write_bytes(whole)
    report = run(tmp_path / "ev", tmp_path / "b.csv.gz")
    assert report.duplicates == before
    assert len(events_of(tmp_path / "ev")) == 3_000


def test_a_file_half_read_with_another_mapping_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 1)
    log = a_csv(tmp_path / "a.csv", GOOD, GOOD | {"user": "bob"})

    def stop(file: str, share: float, rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest.ingest([log], tmp_path / "ev", a_mapping(), RING, NOW_US, stop)
    with pytest.raises(ConfigError, match="half read"):
        run(tmp_path / "ev", log, using=a_mapping(shop="app"))
    report = run(tmp_path / "ev", log)
    assert (report.rows, report.events) == (1, 1)


def test_one_writer_at_a_time(tmp_path):
    with journal.opened(tmp_path / "ev"), pytest.raises(DmpError, match="another ingest"):
        run(tmp_path / "ev", a_csv(tmp_path / "a.csv", GOOD))


def test_a_torn_line_of_the_journal_tells_nothing_and_its_files_are_made_again(tmp_path):
    log = a_csv(tmp_path / "a.csv", GOOD, GOOD | {"at": "x"})
    run(tmp_path / "ev", log)
    before = events_of(tmp_path / "ev")
    book = tmp_path / "ev" / "_ingest" / "journal.jsonl"
    book.write_bytes(book.read_bytes()[:-5])
    (tmp_path / "ev" / "part-00000009.parquet.draft").write_bytes(b"half")
    assert run(tmp_path / "ev", log).events == 1
    assert events_of(tmp_path / "ev") == before
    assert refused(tmp_path / "ev") == [(1, "bad_time")]
    assert not list((tmp_path / "ev").glob("*.draft"))


def test_days_let_go_are_read_again_from_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "MAX_CONTENTS", 1)
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 2)
    rows = [GOOD | {"user": f"u{n % 4}", "at": f"2024-10-0{1 + n % 3}"} for n in range(24)]
    report = run(tmp_path / "ev", a_csv(tmp_path / "a.csv", *rows))
    assert (report.events, report.duplicates) == (12, 12)


def test_contents_are_new_once(tmp_path):
    held = seen.Seen(tmp_path, [])
    times = np.array([0, 0, 1, DAY_US])
    content = np.array([5, 5, 6, 7], np.uint64)
    assert held.fresh(times, content).tolist() == [True, False, True, True]
    assert held.add(1, times[[0, 2]], content[[0, 2]]) == {0: 2}
    assert held.fresh(times, content).tolist() == [False, False, False, True]


@pytest.mark.rule("P-60")
def test_no_raw_id_reaches_the_folder(tmp_path):
    canaries = ["canary-cookie-778812", "6d92078a-8246-4ba4-ae5b-76104861e7dc", "canary@mail.example", "+491701234567"]
    rows = [GOOD | {field: canary} for canary in canaries for field in ("user", "at", "action", "ok", "cents")]
    rows += [GOOD | {"user": canary, "at": "x"} for canary in canaries]
    lines = [f"{canary},{canary},x" for canary in canaries]
    run(tmp_path / "ev", a_csv(tmp_path / "a.csv", *rows, *lines))
    assert len(refused(tmp_path / "ev")) == 4 * 4 + 4 + 4
    for path in (tmp_path / "ev").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix in (".parquet", ".pq"):
                content = repr(pq.read_table(path).to_pylist()).encode()
            for canary in canaries:
                assert canary.encode() not in content.lower(), path


def test_a_real_log_goes_through_to_tags_of_users(tmp_path, shared, store, client):
    log = shared / "data" / "ipinyou_log" / "impressions.parquet"
    if not log.exists():
        pytest.skip("needs ../shared/data/ipinyou_log")
    using = mapping.load("ipinyou")
    report = run(tmp_path / "ev", log, using=using)
    raw = pq.read_table(log, columns=["user_id", "user_tags"])
    usable = [row for row in raw.to_pylist() if row["user_id"] is not None]
    assert report.bad == {"missing_id": len(raw) - len(usable)}
    assert report.events + report.duplicates == sum(max(1, len(row["user_tags"] or [])) for row in usable)
    now_us = int(datetime(2013, 10, 28, tzinfo=UTC).timestamp()) * 1_000_000
    made = offline.build(DmpConfig(data_dir=str(tmp_path / "data")), tmp_path / "ev", now_us, store)
    assert made.users > 10_000
    tags = offline.live_tags(DmpConfig(data_dir=str(tmp_path / "data")), client)
    fan = RING.uid("cookie", next(row["user_id"] for row in usable if 10083 in (row["user_tags"] or [])))
    assert tag_id("interest.sports") in [row["tag"] for row in tags.to_pylist() if row["uid"] == fan]


RICH = """
item = {column = "sku"}
region = {column = "region", values = {216 = "CN-GD"}, default = ""}
address = {column = "addr"}
ip = {column = "ip"}
place = {lat = "y", lon = "x"}
due = {column = "ends", format = "%Y-%m-%d"}
optional = ["sku", "addr", "ends", "y", "x"]
"""


def a_rich_log(path, **columns):
    rows = {name: [value] for name, value in (GOOD | {"region": "216", "ip": "10.0.0.1"} | columns).items()}
    pq.write_table(pa.table(rows), path)
    return path


@pytest.mark.rule("P-60")
def test_further_fields_are_read_where_the_log_has_them_and_addresses_only_as_marks(tmp_path):
    log = a_rich_log(
        tmp_path / "a.parquet", sku="S-1", addr="1, Elm Street", ends="2024-12-31", y="48.13743", x=11.57549
    )
    run(tmp_path / "ev", log, using=a_mapping(RICH))
    (event,) = events_of(tmp_path / "ev")
    assert (event["item"], event["region"], event["lat"], event["lon"]) == ("S-1", "CN-GD", 48.14, 11.58)
    assert event["due_us"] == 1_735_603_200_000_000  # 2024-12-31 00:00 UTC
    assert (event["address"], event["ip"]) == (RING.mark("address", "1 elm street"), RING.mark("ip", "10.0.0.1"))
    assert not any(b"Elm" in path.read_bytes() for path in (tmp_path / "ev").rglob("*") if path.is_file())


def test_a_log_without_the_optional_columns_has_none_of_them_in_its_events(tmp_path):
    run(tmp_path / "ev", a_rich_log(tmp_path / "a.parquet", region="7"), using=a_mapping(RICH))
    (event,) = events_of(tmp_path / "ev")
    assert event["region"] == ""
    assert not {"item", "address", "due_us", "lat", "lon"} & set(event)


def test_an_empty_further_field_leaves_the_identity_of_an_event_as_it_was(tmp_path):
    run(tmp_path / "ev", a_csv(tmp_path / "a.csv", GOOD))
    (event,) = events_of(tmp_path / "ev")
    plain = pq.read_table(a_rich_log(tmp_path / "b.parquet", sku="", region="7", ip="")).drop_columns(["cents"])
    log = tmp_path / "c.parquet"
    pq.write_table(plain.append_column("cents", pa.array(["250"])), log)
    run(tmp_path / "ev2", log, using=a_mapping(RICH))
    (again,) = events_of(tmp_path / "ev2")
    assert again["content"] == event["content"]
    assert again["event_id"] == event["event_id"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"sku": "x" * 513}, "too_long"),
        ({"sku": "a@b.example"}, "holds_email"),
        ({"sku": "a\x01b"}, "bad_text"),
        ({"ends": "soon"}, "bad_time"),
        ({"y": "90.01", "x": "0"}, "bad_number"),
        ({"y": "north", "x": "0"}, "bad_number"),
        ({"y": "0", "x": "-180.01"}, "bad_number"),
    ],
)
def test_a_further_field_that_cannot_be_is_refused(tmp_path, fault, reason):
    report = run(tmp_path / "ev", a_rich_log(tmp_path / "a.parquet", **fault), using=a_mapping(RICH))
    assert report.bad == {reason: 1}


@pytest.mark.rule("P-60")
def test_the_quarantine_shows_no_address(tmp_path):
    log = a_rich_log(tmp_path / "a.parquet", addr="Elm Street", ends="soon")
    run(tmp_path / "ev", log, using=a_mapping(RICH))
    (row,) = quarantine.listed([journal.quarantine(tmp_path / "ev", 1)])
    assert json.loads(row.raw)["addr"] == json.loads(row.raw)["ip"] == "[redacted]"


def test_the_clickstream_preset_reads_a_log_with_or_without_its_optional_columns(tmp_path):
    plain = {"user_id": ["a"], "timestamp": ["2024-10-01"], "event": ["purchase"], "event_id": ["e"]}
    plain |= {"category": ["food"], "url": ["https://x.example/"], "price": [3.5]}
    pq.write_table(pa.table(plain), tmp_path / "a.parquet")
    pq.write_table(pa.table(plain | {"event_id": ["f"], "brand": ["Acme"], "lat": [1.234]}), tmp_path / "b.parquet")
    report = run(tmp_path / "ev", tmp_path / "a.parquet", tmp_path / "b.parquet", using=mapping.load("clickstream"))
    assert (report.events, report.bad) == (2, {})
    assert [event.get("brand") for event in events_of(tmp_path / "ev")] == [None, "Acme"]
