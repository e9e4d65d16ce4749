import asyncio
import os
import resource
import signal

import pytest

from bidder.bidlog import BidLog
from dmp.events import Bid, encode, read_file


def a_bid(n):
    return encode(
        Bid(
            event_id=f"bid{n}",
            time_us=n,
            exchange="x",
            auction_id="a",
            imp_id="1",
            campaign="c",
            creative="k",
            price_micros=n,
        )
    )


def logged(directory):
    return [event.event_id for path in sorted(directory.iterdir()) for event in read_file(path)]


async def test_every_bid_is_read_back_in_order(tmp_path):
    log = BidLog(tmp_path)
    for n in range(1000):
        log.put(lambda n=n: a_bid(n))
        if n % 100 == 0:
            await asyncio.sleep(0)
    log.close()
    assert logged(tmp_path) == [f"bid{n}" for n in range(1000)]
    assert (log.written, log.dropped) == (1000, 0)


async def test_what_there_is_no_room_for_is_dropped_and_counted(tmp_path):
    log = BidLog(tmp_path, max_waiting=10)
    for n in range(25):
        log.put(lambda n=n: a_bid(n))
    log.close()
    assert logged(tmp_path) == [f"bid{n}" for n in range(10)]
    assert log.dropped == 15


async def test_a_record_that_cannot_be_made_takes_none_of_its_neighbours_with_it(tmp_path):
    told = []
    log = BidLog(tmp_path, report=told.append)
    for n in range(3):
        log.put(lambda n=n: a_bid(n) if n != 1 else 1 // 0)
    await asyncio.sleep(0)
    log.put(lambda: a_bid(3))
    log.close()
    assert logged(tmp_path) == ["bid0", "bid2", "bid3"]
    assert (log.written, log.dropped) == (3, 1)
    assert [type(error) for error in told] == [ZeroDivisionError]


async def test_files_are_closed_at_their_size_and_are_for_the_owner_only(tmp_path):
    log = BidLog(tmp_path, rotate_bytes=1)
    for n in range(3):
        log.put(lambda n=n: a_bid(n))
        log.flush()
    log.close()
    assert logged(tmp_path) == ["bid0", "bid1", "bid2"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


async def test_making_the_record_waits_until_the_answer_is_out(tmp_path):
    log = BidLog(tmp_path)
    made = []
    log.put(lambda: made.append(1) or a_bid(1))
    assert not made
    log.close()
    assert made


async def test_a_torn_last_record_hides_nothing_before_it(tmp_path):
    log = BidLog(tmp_path)
    for n in range(3):
        log.put(lambda n=n: a_bid(n))
    log.close()
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - 5)
    assert logged(tmp_path) == ["bid0", "bid1"]


async def test_a_full_disk_costs_records_not_bids(tmp_path):
    """A file may not grow beyond a limit here: the writer sees the same error as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        log = BidLog(tmp_path)
        for n in range(30):
            log.put(lambda n=n: a_bid(n))
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.dropped == 30
    assert isinstance(log.failure, OSError)


async def test_records_after_a_failure_are_written_again(tmp_path):
    directory = tmp_path / "log"
    log = BidLog(directory)
    directory.rmdir()
    log.put(lambda: a_bid(1))
    log.flush()
    while log.failure is None:  # noqa: ASYNC110 - set by the writer's thread
        await asyncio.sleep(0)
    directory.mkdir()
    log.put(lambda: a_bid(2))
    log.close()
    assert logged(directory) == ["bid2"]
    assert (log.dropped, log.failure) == (1, None)


def test_a_log_without_a_directory_cannot_be_opened(tmp_path):
    (tmp_path / "log").write_text("a file")
    with pytest.raises(FileExistsError):
        BidLog(tmp_path / "log")
