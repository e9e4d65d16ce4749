import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.metrics import BUCKETS, Histogram, Metrics


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
