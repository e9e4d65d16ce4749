from bidder.merge import Merged
from bidder.metrics import Metrics
from loadtest.scrape import parse


def a_worker(bids, in_flight, latencies_us=()):
    metrics = Metrics()
    metrics.counts[metrics.slot("tagbid_no_bid_total", reason='a"b')] = bids
    metrics.read("tagbid_in_flight", lambda: {(): in_flight})
    for us in latencies_us:
        metrics.latency.observe(us)
    return metrics.expose()


def test_counters_add_up_and_gauges_keep_their_worker():
    merged = Merged()
    merged.update("1", a_worker(3, 5, [10, 2_000]))
    merged.update("2", a_worker(4, 7, [3_000]))
    page = merged.expose()
    found = parse(page)
    assert found['tagbid_no_bid_total{reason="a\\"b"}'] == 7
    assert found['tagbid_in_flight{worker="1"}'] == 5
    assert found['tagbid_in_flight{worker="2"}'] == 7
    assert found["tagbid_bid_seconds_count"] == 3
    assert found['tagbid_bid_seconds_bucket{le="+Inf"}'] == 3
    assert page.count("# TYPE tagbid_bid_seconds histogram") == 1
    buckets = [value for name, value in found.items() if name.startswith("tagbid_bid_seconds_bucket")]
    assert buckets == sorted(buckets)


def test_what_a_worker_counted_stays_when_it_is_gone_and_its_gauges_do_not():
    merged = Merged()
    merged.update("1", a_worker(3, 5))
    merged.update("2", a_worker(4, 7))
    merged.leave("1")
    merged.leave("never seen")
    merged.update("3", a_worker(0, 9))
    found = parse(merged.expose())
    assert found['tagbid_no_bid_total{reason="a\\"b"}'] == 7
    assert 'tagbid_in_flight{worker="1"}' not in found
    assert found['tagbid_in_flight{worker="3"}'] == 9


def test_gauges_of_nobody_in_particular_have_no_label():
    merged = Merged()
    merged.update("", a_worker(1, 2))
    assert parse(merged.expose())["tagbid_in_flight"] == 2


def test_a_brief_page_leaves_what_it_does_not_tell_as_it_was():
    metrics = Metrics()
    sent = metrics.slot("tagbid_campaign_total", campaign="c", step="sent")
    bids = metrics.slot("tagbid_bids_total")
    metrics.counts[sent] = metrics.counts[bids] = 3
    merged = Merged()
    merged.update("1", metrics.expose())
    metrics.counts[sent] = metrics.counts[bids] = 5
    merged.update("1", "".join(metrics.pieces(brief=True)), brief=True)
    found, brief = parse(merged.expose()), parse(merged.expose(brief=True))
    assert found['tagbid_campaign_total{campaign="c",step="sent"}'] == 3
    assert found["tagbid_bids_total"] == brief["tagbid_bids_total"] == 5
    assert 'tagbid_campaign_total{campaign="c",step="sent"}' not in brief
    merged.leave("1")
    assert parse(merged.expose())["tagbid_bids_total"] == 5
