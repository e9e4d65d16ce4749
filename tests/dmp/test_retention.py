"""The clock moves on, day after day, and each class of data ends when its own time is over."""

import os

import pytest

from dmp import __main__ as main
from dmp import commands, retention
from dmp.config import DmpConfig, RetentionConfig
from dmp.events import Bid, Click, read_file
from tests.dmp.factories import DAY_US, NOW_US
from tests.stored import encode_all

BID = Bid(
    event_id="b1", time_us=NOW_US, exchange="x", auction_id="a", imp_id="1", campaign="c", creative="k", price_micros=1
)
CLICK = Click(event_id="b1:click", bid_id="b1", imp_id="1", time_us=NOW_US, campaign="c", creative="k")


@pytest.fixture
def folder(tmp_path):
    """A file or day of each class, all of day 20,000 (2024-10-04)."""
    files = {
        "bidlog/bids-1-1-1.mpk": encode_all([BID, CLICK, BID]),
        "bidlog/bids-1-1-2.mpk": encode_all([BID]),
        "insight/acme/1.jsonl": b"{}\n",
        "events/kind=view/date=2024-10-04/hour=12/1-1.parquet": b"x",
        "events/kind=conversion/date=2024-10-04/hour=12/1-2.parquet": b"x",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (NOW_US / 1e6, NOW_US / 1e6))
    return tmp_path


def alive(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.rule("P-70")
def test_each_class_lives_as_long_as_its_setting_and_no_longer(folder):
    keep = RetentionConfig(bid_log_days=7, notice_days=90, behaviour_days=100, conversion_days=180, question_days=400)
    config = DmpConfig(data_dir=str(folder), retention=keep)
    ends = {}
    before = alive(folder)
    for day in range(402):
        retention.sweep(config, NOW_US + day * DAY_US)
        now = alive(folder)
        ends |= dict.fromkeys(before - now, day)
        before = now
        if day == 8:  # the click outlives its bid
            assert list(read_file(folder / "bidlog/notices-1-1-1.mpk")) == [CLICK]
    assert ends == {
        "bidlog/bids-1-1-1.mpk": 8,
        "bidlog/bids-1-1-2.mpk": 8,
        "bidlog/notices-1-1-1.mpk": 91,
        "events/kind=view/date=2024-10-04/hour=12/1-1.parquet": 101,
        "events/kind=conversion/date=2024-10-04/hour=12/1-2.parquet": 181,
        "insight/acme/1.jsonl": 401,
    }


@pytest.mark.rule("P-70")
def test_the_defaults_are_the_rule():
    keep = DmpConfig().retention
    assert (keep.bid_log_days, keep.notice_days, keep.conversion_days) == (7, 90, 180)


def test_a_damaged_bid_log_goes_too_and_a_torn_one_keeps_its_notices(folder):
    config = DmpConfig(data_dir=str(folder))
    torn, damaged = folder / "bidlog/bids-1-1-1.mpk", folder / "bidlog/bids-1-1-2.mpk"
    for path, data in ((torn, encode_all([CLICK, BID])[:-3]), (damaged, b"\xc1\xc1\xc1")):
        path.write_bytes(data)
        os.utime(path, (NOW_US / 1e6, NOW_US / 1e6))
    assert retention.sweep(config, NOW_US + 8 * DAY_US)["bids"] == 2
    assert list(read_file(folder / "bidlog/notices-1-1-1.mpk")) == [CLICK]
    assert retention.sweep(config, NOW_US + 8 * DAY_US)["bids"] == 0


def test_the_command_says_what_went(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TAGBID_DMP_DATA_DIR", str(folder))
    assert commands.run(main.app, "tagbid dmp", ["sweep", "--json"]) == 0
    assert '"bids":2' in capsys.readouterr().out
    assert commands.run(main.app, "tagbid dmp", ["sweep"]) == 0
    assert "0 of bids" in capsys.readouterr().out
