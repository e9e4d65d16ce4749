import gzip
import json
from pathlib import Path

import pytest

from loadtest import adx_parquet, traffic
from loadtest.adx_parquet import BadRecord
from loadtest.traffic import BadTraffic

SHARED = Path(__file__).parents[2].parent / "shared"


def a_row(**fields):
    return {
        "ts": 1_326_240_000.5, "request_id": "r1", "exchange": "dblclk_adx", "user_id": "u1", "ip24": "192.0.2",
        "user_agent": "Browser/1.0,gzip(gfe)", "language": "en", "country": "US", "region": "IL", "city": "Chicago",
        "dma": 602, "postal": "606", "tz_minutes": -360, "url": "https://www.cars.example/a/b.html",
        "imp_formats": ["300x250"], "imp_positions": ["NONE"], "imp_floors": [0.25], "verticals": [],
        "vertical_weights": [],
        "blocked_advertisers": [], "blocked_creative_attributes": [], "blocked_sensitive_categories": [],
        "blocked_verticals": [], **fields,
    }  # fmt: skip


def a_file(path: Path, *lines: str | bytes) -> Path:
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n"
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson"])
def test_a_bare_request_is_sent_byte_for_byte(tmp_path, name):
    line = '{"id": "1",  "imp": [{"id":"1"}], "ext": 1.50}'
    assert traffic.read(a_file(tmp_path / name, line, "", line)) == [line.encode()] * 2


def test_a_record_is_sent_as_its_request_stands_there(tmp_path):
    path = a_file(tmp_path / "a.jsonl", '{"source": "x", "tags": ["imp"], "request": {"id": "1", "imp":  [1.50]}}')
    assert traffic.read(path) == [b'{"id": "1", "imp":  [1.50]}']


def test_the_raw_text_of_a_broken_request_stays_broken(tmp_path):
    path = a_file(tmp_path / "a.jsonl", json.dumps({"body": '{"id": "é', "reason": "cut"}), '{"body": ""}')
    assert traffic.read(path) == ['{"id": "é'.encode(), b""]


def test_a_request_without_imp_is_still_a_request(tmp_path):
    assert traffic.read(a_file(tmp_path / "a.jsonl", '{"id":"1"}')) == [b'{"id":"1"}']


def test_a_limit_takes_the_first_ones(tmp_path):
    assert (
        traffic.read(a_file(tmp_path / "a.jsonl", '{"id":"1"}', '{"id":"2"}', "broken"), limit=2)[-1] == b'{"id":"2"}'
    )


@pytest.mark.parametrize("line", ["broken", "[]", "3", b"\xff{}", '{"id": "1"'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    with pytest.raises(BadTraffic, match="line 2"):
        traffic.read(a_file(tmp_path / "a.jsonl", '{"id":"1"}', line))


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id":"1"}\n' * 1000, mtime=0)[:-20])
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"id":"1"}\n')
    (tmp_path / "other.csv").write_bytes(b"a,b\n")
    (tmp_path / "fake.parquet").write_bytes(b"no parquet")
    a_file(tmp_path / "empty.jsonl")
    for name in ("cut.jsonl.gz", "plain.jsonl.gz", "other.csv", "missing.jsonl", "empty.jsonl", "."):
        with pytest.raises(BadTraffic):
            traffic.read(tmp_path / name) if name != "." else traffic.read(tmp_path / "missing")
    with pytest.raises(BadRecord, match=r"fake\.parquet"):
        traffic.read(tmp_path / "fake.parquet")


def test_tmax_is_the_requests_own_or_the_default():
    bodies = [
        b'{"tmax":80}',
        b'{"tmax":86.9}',
        b'{"tmax":null}',
        b'{"tmax":"80"}',
        b'{"tmax":-1}',
        b"\xff",
        b'{"id":"1"}',
    ]
    assert traffic.tmax_ms(bodies, 100) == [80, 86, 100, 100, 100, 100, 100]


@pytest.mark.parametrize("out", ["out.jsonl", "sub/out.jsonl.gz"])
def test_converting_keeps_requests_and_the_rest_of_a_record(tmp_path, out):
    lines = ['{"id":"1","imp":[]}', '{"source":"x","request":{"id":"2"}}']
    source = a_file(tmp_path / "in.jsonl", *lines)
    assert traffic.convert(source, tmp_path / out) == 2
    assert traffic.read(tmp_path / out) == traffic.read(source)
    data = (tmp_path / out).read_bytes()
    assert (gzip.decompress(data) if out.endswith(".gz") else data).decode().splitlines() == lines


def test_a_conversion_that_fails_leaves_what_was_there(tmp_path):
    out = a_file(tmp_path / "out.jsonl", '{"id":"old"}')
    with pytest.raises(BadTraffic):
        traffic.convert(a_file(tmp_path / "in.jsonl", '{"id":"1"}', "broken"), out)
    assert traffic.read(out) == [b'{"id":"old"}']
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_conversion_writes_jsonl_only(tmp_path):
    with pytest.raises(BadTraffic, match="jsonl"):
        traffic.convert(a_file(tmp_path / "in.jsonl", '{"id":"1"}'), tmp_path / "out.parquet")


def test_a_recorded_request_becomes_openrtb():
    assert adx_parquet.request(a_row()) == {
        "id": "r1",
        "imp": [
            {"id": "1", "banner": {"format": [{"w": 300, "h": 250}]}, "bidfloor": 0.25, "bidfloorcur": "USD"},
        ],
        "site": {"domain": "cars.example", "page": "https://www.cars.example/a/b.html"},
        "device": {
            "ua": "Browser/1.0",
            "ip": "192.0.2.0",
            "language": "en",
            "geo": {
                "country": "USA", "region": "IL", "city": "Chicago", "metro": "602", "zip": "606", "utcoffset": -360,
                "type": 2,
            },
        },
        "user": {"id": "u1"},
        "at": 2,
        "cur": ["USD"],
    }  # fmt: skip


def test_several_impressions_and_sizes_are_numbered_and_listed():
    row = a_row(
        imp_formats=["300x250,336x280", "728x90"], imp_positions=["ABOVE_THE_FOLD", "NONE"], imp_floors=[0.0, 1.5]
    )
    first, second = adx_parquet.request(row)["imp"]
    assert first["banner"] == {"format": [{"w": 300, "h": 250}, {"w": 336, "h": 280}], "pos": 1}
    assert (first["id"], first["bidfloor"]) == ("1", 0.0)
    assert (second["id"], second["bidfloor"]) == ("2", 1.5)


@pytest.mark.parametrize(
    ("exchange", "minutes", "offset"),
    [("dblclk_adx", -360, -360), ("context_web", 360, -360), ("dblclk_adx", -1095, None), ("dblclk_adx", None, None)],
)
def test_clocks_count_east_of_utc_whatever_the_exchange_says(exchange, minutes, offset):
    found = adx_parquet.request(a_row(exchange=exchange, tz_minutes=minutes))["device"]["geo"]
    assert found.get("utcoffset") == offset


@pytest.mark.parametrize(("code", "country"), [("GB", "GBR"), ("CA", "CAN"), ("A1", None), (None, None)])
def test_countries_have_three_letters_or_are_unknown(code, country):
    assert adx_parquet.request(a_row(country=code))["device"]["geo"].get("country") == country


def test_restrictions_are_translated_as_far_as_the_standard_can_say_them():
    row = a_row(
        blocked_advertisers=["rival.example"],
        blocked_creative_attributes=[1, *range(13, 21), 22],
        blocked_sensitive_categories=[4, 5, 9999],
        blocked_verticals=[10746, 99999],
    )
    found = adx_parquet.request(row)
    assert found["badv"] == ["rival.example"]
    assert found["imp"][0]["banner"]["battr"] == [3, 4, 5, 12]  # all expandables, and text
    assert found["bcat"] == ["IAB14-1", "IAB23", "IAB4-5"]  # dating, religion, job listings


def test_other_exchanges_attributes_are_the_standards_own():
    found = adx_parquet.request(a_row(exchange="context_web", blocked_creative_attributes=[3, 1]))
    assert found["imp"][0]["banner"]["battr"] == [1, 3]


def test_page_topics_become_categories_the_weightiest_first():
    found = adx_parquet.request(a_row(verticals=[8, 47, 999_999], vertical_weights=[0.2, 0.7, 0.1]))
    assert found["site"]["cat"] == ["IAB2", "IAB9-30"]  # cars, games


def test_what_is_unknown_is_left_out():
    row = a_row(url=None, user_id=None, user_agent=None, language=None, ip24=None, city=None, dma=None)
    found = adx_parquet.request(row)
    assert "user" not in found
    assert found["site"] == {}
    assert set(found["device"]) == {"geo"}
    assert set(found["device"]["geo"]) == {"country", "region", "zip", "utcoffset", "type"}


@pytest.mark.parametrize("floor", [-0.01, 250_000.0, float("nan")])
def test_a_floor_that_is_no_cpm_in_dollars_is_refused(floor):
    with pytest.raises(BadRecord, match="imp_floors"):
        adx_parquet.request(a_row(imp_floors=[floor]))


def test_every_interest_a_topic_stands_for_has_a_category():
    from loadtest import adx

    assert {name.partition(".")[2] for name in adx.TAG_OF.values()} <= set(adx_parquet.IAB_OF_INTEREST)


def test_a_parquet_file_of_other_columns_is_named(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"ts": [1.0], "x": [2]}), tmp_path / "a.parquet")
    with pytest.raises(BadRecord, match="no column"):
        traffic.read(tmp_path)


def test_parquet_rows_keep_their_times(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [a_row(), a_row(ts=1_326_240_002.25, request_id="r2")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = list(adx_parquet.read([tmp_path / "a.parquet"]))
    assert [(row.offset_us, row.source, row.request["id"]) for row in found] == [
        (0, "dblclk_adx", "r1"),
        (1_750_000, "dblclk_adx", "r2"),
    ]
    assert traffic.convert(tmp_path, tmp_path / "out.jsonl") == 2
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    assert (first["offset_us"], first["source"], first["request"]["id"]) == (1_750_000, "dblclk_adx", "r2")
    assert [json.loads(body)["id"] for body in traffic.read(tmp_path)] == ["r1", "r2"]


def test_recorded_requests_of_a_real_exchange_are_all_well_formed():
    folder = SHARED / "data" / "bid_requests"
    if not folder.exists():
        pytest.skip("needs ../shared/data")
    bodies = traffic.read(folder)
    assert len(bodies) == 12_000
    for body in bodies:
        request = json.loads(body)
        assert request["id"]
        assert all(imp["banner"]["format"] for imp in request["imp"])
        assert len(request["device"]["geo"].get("country", "USA")) == 3


@pytest.mark.parametrize(("name", "count"), [("requests.jsonl.gz", 2095), ("invalid.jsonl.gz", 288)])
def test_collected_requests_are_all_read_unaltered(name, count):
    path = SHARED / "openrtb" / name
    if not path.exists():
        pytest.skip("needs ../shared/openrtb")
    bodies = traffic.read(path)
    assert len(bodies) == count
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line, body in zip(lines, bodies, strict=True):
            record = json.loads(line)
            if "request" in record:
                assert json.loads(body) == record["request"]
            else:
                assert body == record["body"].encode()
