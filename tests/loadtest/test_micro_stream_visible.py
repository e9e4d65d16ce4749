from loadtest import micro_stream_visible


def test_every_probe_is_seen_and_half_of_what_is_carried_is_sent():
    found = micro_stream_visible.measure(seconds=0.5)
    assert found.unseen == 0
    assert 2 * found.events_s <= found.capacity_events_s + 200  # rounded to whole events
    assert 0 < found.p50_us <= found.p99_us
