import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.metrics import BUCKETS, BY_CAMPAIGN, PIECE, Histogram, Metrics


@given(st.integers(0, 10**9))
def test_a_duration_is_counted_in_the_bucket_whose_bound_is_the_first_above_it(us):
    histogram = Histogram()
    histogram.observe(us)
    bucket = histogram.buckets.index(1)
    assert us < histogram.bound_us(bucket) or bucket == BUCKETS - 1
    assert bucket == 0 or us >= histogram.bound_us(bucket - 1)


@given(st.integers(4, 30_000_000))
def test_a_quantile_read_from_the_buckets_is_at_most_a_quarter_too_high(us):
    histogram = Histogram()
    histogram.observe(us)
    assert histogram.bound_us(histogram.buckets.index(1)) <= us * 1.25 + 1


def test_the_same_series_is_one_slot_and_an_unknown_name_is_a_mistake():
    metrics = Metrics()
    assert metrics.slot("tagbid_responses_total", status="204") == metrics.slot("tagbid_responses_total", status="204")
    assert metrics.slot("tagbid_responses_total", status="204") != metrics.slot("tagbid_responses_total", status="200")
    with pytest.raises(KeyError):
        metrics.slot("tagbid_typo_total")


def test_the_exposition_is_prometheus_text():
    metrics = Metrics()
    metrics.counts[metrics.slot("tagbid_notices_total", kind='a"b\\c\nd', result="counted")] += 3
    metrics.latency.observe(100)
    metrics.latency.observe(3)
    text = metrics.expose()
    line = re.compile(r'[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"(,[a-z]+="([^"\\\n]|\\["\\n])*")*\})? [0-9.e+-]+')
    for row in text.splitlines():
        assert row.startswith("# ") or line.fullmatch(row), row
    assert r'tagbid_notices_total{kind="a\"b\\c\nd",result="counted"} 3' in text
    assert 'tagbid_bid_seconds_bucket{le="+Inf"} 2' in text
    assert "tagbid_bid_seconds_sum 0.000103" in text
    assert float(re.search(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)[1]) > 0
    assert len(re.findall("# TYPE tagbid_bid_seconds histogram", text)) == 1
    counts = [int(n) for n in re.findall(r"bid_seconds_bucket\{.*\} (\d+)", text)]
    assert counts == sorted(counts)


def a_large_page():
    metrics = Metrics()
    for i in range(2 * PIECE):
        metrics.slot("tagbid_campaign_total", campaign=f"c{i}", step="sent")
    metrics.read_many("tagbid_budget_micros", lambda: (((("campaign", f"c{i}"),), i) for i in range(2 * PIECE)))
    return metrics


def test_a_large_page_is_made_in_small_pieces():
    metrics = a_large_page()
    pieces = list(metrics.pieces())
    assert max(piece.count("\n") for piece in pieces) == PIECE
    whole = metrics.expose()
    assert sum(piece.count("\n") for piece in pieces) == whole.count("\n")
    assert whole.count("tagbid_campaign_total{") == whole.count("tagbid_budget_micros{") == 2 * PIECE


def test_what_is_counted_between_two_pieces_breaks_no_page():
    metrics = a_large_page()
    rows = []
    for i, piece in enumerate(metrics.pieces()):
        rows += piece.splitlines()
        metrics.slot("tagbid_campaign_total", campaign=f"new{i}", step="sent")
        metrics.slot("tagbid_no_bid_total", reason=f"new{i}")
    names = [row.split()[2] for row in rows if row.startswith("# TYPE")]
    assert len(names) == len(set(names))
    samples = [row.rpartition(" ")[0] for row in rows if not row.startswith("#")]
    assert len(samples) == len(set(samples))


def test_a_brief_page_is_the_page_without_what_is_told_by_campaign():
    metrics = a_large_page()
    metrics.slot("tagbid_no_bid_total", reason="overload")
    brief, whole = "".join(metrics.pieces(brief=True)), metrics.expose()
    assert "tagbid_no_bid_total" in brief
    assert not [name for name in BY_CAMPAIGN if name in brief]
    mine = [row for row in whole.splitlines() if not any(name in row for name in BY_CAMPAIGN)]
    assert [row.split(" ")[0] for row in brief.splitlines()] == [row.split(" ")[0] for row in mine]
