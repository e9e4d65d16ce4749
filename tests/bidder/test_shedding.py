"""What a bidder answers when it is asked more than it can decide."""

import asyncio
import signal
import time

import pytest

from bidder.overload import LATE_S
from dmp.config import DmpConfig
from dmp.store import open_store
from tests.bidder.running import body, body_of_user, running


def users(n):
    return [body_of_user(f"{i:08d}-8246-4ba4-ae5b-76104861e7dc") for i in range(n)]


async def test_requests_read_long_after_the_loop_stood_still_are_shed(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        pressure = bidder.service.pressure
        assert (await bidder.bid(body()))[0] == 200
        pressure.stop()
        pressure._due_s = time.monotonic() - 10 * LATE_S
        assert await bidder.bid(body()) == (204, b"")
        pressure.start()
        assert (await bidder.bid(body()))[0] == 200
        metrics = await bidder.metrics()
        assert metrics['tagbid_no_bid_total{reason="overload"}'] == 1
        assert metrics["tagbid_longest_stall_seconds"] >= 0


@pytest.mark.parametrize("headers", [{}, {"x-openrtb-version": "2.6"}])
async def test_every_way_in_sheds_alike_and_counts_alike(tmp_path, store, headers):
    """Read by the parser, known by its bytes, or by the ordinary route."""
    told = []
    for folder, lane in (("lane", True), ("route", False)):
        (tmp_path / folder).mkdir()
        async with running(tmp_path / folder, store, lane=lane) as bidder:
            assert [(await bidder.bid(body(), **headers))[0] for _ in range(3)] == [200] * 3
            bidder.service.pressure.stop()  # or the next beat would find room again
            bidder.service.pressure.limit = bidder.service.pressure.standing = 0
            assert [await bidder.bid(body(), **headers) for _ in range(4)] == [(204, b"")] * 4
            metrics = await bidder.metrics()
            told.append(
                {
                    name: value
                    for name, value in metrics.items()
                    if name.startswith(("tagbid_requests", "tagbid_no_bid", "tagbid_responses"))
                    or name == "tagbid_bid_seconds_count"
                }
            )
    assert told[0] == told[1]
    assert told[0]['tagbid_no_bid_total{reason="overload"}'] == 4
    assert told[0]["tagbid_bid_seconds_count"] == 7


async def test_a_stall_counts_against_a_requests_own_time(tmp_path, store):
    async with running(tmp_path, store, exchanges={"x": {"default_tmax_ms": 30, "margin_ms": 20}}) as bidder:
        pressure = bidder.service.pressure
        pressure.stop()
        pressure._due_s = time.monotonic() - LATE_S / 2  # 25 of the 10 ms there are; far from late enough to shed
        assert (await bidder.bid(body()))[0] == 204
        assert (await bidder.metrics())['tagbid_no_bid_total{reason="no_time"}'] == 1


async def test_an_exchange_gets_no_more_decisions_than_its_quota(tmp_path, store):
    settings = {"exchanges": {"x": {"max_qps": 20, "default_tmax_ms": 1000}}}
    async with running(tmp_path, store, **settings) as bidder:
        answers = [status for status, _ in await asyncio.gather(*(bidder.bid(body()) for _ in range(12)))]
        refused = (await bidder.metrics())['tagbid_no_bid_total{reason="rate_limit"}']
        assert answers.count(204) == refused > 0  # two at once, and one more each 50 ms
        assert answers.count(200) >= 2
        others = [status for status, _ in await asyncio.gather(*(bidder.bid(body(), "other") for _ in range(12)))]
        assert others == [200] * 12


async def test_workers_share_a_quota(tmp_path, store):
    settings = {"exchanges": {"x": {"max_qps": 40}}, "workers": 4}
    async with running(tmp_path, store, **settings) as bidder:
        assert bidder.service.endpoints._by_name["x"].quota._gap_s == pytest.approx(4 / 40)


async def test_a_store_that_says_nothing_makes_bids_contextual_and_sheds_none(tmp_path, monkeypatch):
    """More requests than may wait at once: those that cannot wait are decided without their user."""
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with open_store(DmpConfig(data_dir=str(tmp_path / "data"))) as own:
        async with running(tmp_path, own, max_in_flight=16) as bidder:
            bidder.service.lookup.link.lines[0]._wire._stall_s = 60.0  # however slow this machine is
            own.server.send_signal(signal.SIGSTOP)
            try:
                first = [asyncio.create_task(bidder.bid(request)) for request in users(16)]
                async with asyncio.timeout(10):
                    while bidder.service.lookup.link.stuck() < 16:  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                more = await asyncio.gather(*map(bidder.bid, users(20)))
                assert [status for status, _ in more + list(await asyncio.gather(*first))] == [200] * 36
                metrics = await bidder.metrics()
                assert metrics['tagbid_no_bid_total{reason="overload"}'] == 0
                assert metrics['tagbid_contextual_total{because="store"}'] == 36
            finally:
                own.server.send_signal(signal.SIGCONT)
