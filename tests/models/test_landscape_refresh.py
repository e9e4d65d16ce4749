"""A landscape that stays as it was trained, and a market that does not."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dmp import events
from models import artefacts, landscape, landscape_refresh, landscape_train
from models.context import Context, encode_context
from tests.models.price_world import DAY_US, Market, a_market
from tests.stored import encode_all

HOUR_US = 3_600_000_000
HALF_US = landscape_refresh.HALF_HOUR_US
NOW_US = DAY_US + 7 * HOUR_US


def a_log(folder: Path, market: Market, factor: float = 1.0, since_us: int = 0) -> Path:
    """Bids of the last two hours before NOW_US, every loss told. factor: on the prices from since_us on."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(market.m)
    bids = np.exp(np.random.default_rng(5).normal(14.2, 0.5, n))
    records: list[events.Event] = []
    for i, (context, m, bid) in enumerate(zip(market.contexts, market.m, bids.tolist(), strict=True)):
        at_us = NOW_US - 2 * HOUR_US + i * 2 * HOUR_US // n
        price = float(m) * (factor if at_us >= since_us else 1.0)
        common = {"bid_id": f"b{i}", "imp_id": "1", "campaign": "c", "creative": "k", "exchange": "x"}
        records.append(
            events.Bid(
                event_id=f"b{i}", time_us=at_us, exchange="x", auction_id=f"a{i}", imp_id="1", campaign="c",
                creative="k", price_micros=int(bid), value_micros=int(bid / 0.85), at=1,
                context=encode_context(context),
            )
        )  # fmt: skip
        if bid >= price:
            records.append(events.Win(event_id=f"b{i}:win", time_us=at_us, price_micros=int(bid), **common))
        else:
            told = {"reason": 102, "min_to_win_micros": int(price) + 1}
            records.append(events.Loss(event_id=f"b{i}:loss", time_us=at_us, **told, **common))
    (folder / "bids-1.mpk").write_bytes(encode_all(records))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    data = landscape_train.observations(a_log(tmp_path / "before", a_market(6_000)))
    made = tmp_path / "models"
    assert landscape_train.train(data, made, now_us=NOW_US - HOUR_US).version
    return made


def test_a_market_as_it_was_is_believed_and_recalibrated(tmp_path: Path, root: Path) -> None:
    before = landscape.load(root)
    found = landscape_refresh.refresh(a_log(tmp_path / "log", a_market(4_000, seed=7)), root, now_us=NOW_US)
    (drift,) = found.drifts
    assert not drift.held
    assert drift.bids == (1_000, 1_000)
    assert drift.wins[0] == pytest.approx(drift.expected[0], rel=landscape_refresh.OFF)
    after = landscape.load(root)
    assert after.version == found.version
    assert after.manifest.parent == before.version
    assert found.recalibrated == ["x"]
    assert after.manifest.spreads == before.manifest.spreads
    same = landscape_refresh.refresh(tmp_path / "log", root, now_us=NOW_US + 1)
    assert (same.version, same.recalibrated) == (None, [])  # nothing came since
    assert landscape.rollback(root) == before.version


def test_prices_that_rise_by_half_are_an_alarm_and_the_segments_ratios_are_bid(tmp_path: Path, root: Path) -> None:
    context = Context(exchange="x", domain="s1.example", width=300, height=250, at=1)
    assert landscape.shade(landscape.terms(landscape.load(root), context, 0.0), 4e6).how == "model"
    log = a_log(tmp_path / "log", a_market(4_000, seed=7), factor=1.5, since_us=NOW_US - 2 * HALF_US)
    (drift,) = landscape_refresh.refresh(log, root, now_us=NOW_US).drifts
    assert drift.held
    assert drift.wins[0] < drift.expected[0] * (1 - landscape_refresh.OFF)
    assert landscape.shade(landscape.terms(landscape.load(root), context, 0.0), 4e6).how == "segment"
    # Recalibrated to the new prices and back to the old: as expected again, so it is believed again.
    calm = a_log(tmp_path / "calm", a_market(4_000, seed=8))
    again = landscape_refresh.refresh(calm, root, now_us=NOW_US + 1)
    again = landscape_refresh.refresh(calm, root, now_us=NOW_US + 2)
    assert [drift.held for drift in again.drifts] == [False]
    assert landscape.shade(landscape.terms(landscape.load(root), context, 0.0), 4e6).how == "model"


def test_half_an_hour_of_it_is_not_enough(tmp_path: Path, root: Path) -> None:
    log = a_log(tmp_path / "log", a_market(4_000, seed=7), factor=1.5, since_us=NOW_US - HALF_US)
    assert [drift.held for drift in landscape_refresh.refresh(log, root, now_us=NOW_US).drifts] == [False]


def test_a_handful_of_bids_says_nothing(tmp_path: Path, root: Path) -> None:
    log = a_log(tmp_path / "log", a_market(400, seed=7), factor=3.0)
    assert [drift.held for drift in landscape_refresh.refresh(log, root, now_us=NOW_US).drifts] == [False]


def test_manifests_of_before_keep_their_names(root: Path) -> None:
    """A field that came later must not change the hash of what was written without it."""
    live = landscape.load(root)
    stored = msgspec.json.decode((root / landscape.KIND / live.version / "manifest.json").read_bytes())
    assert "held" not in stored
    assert artefacts.current(root, landscape.KIND) == live.version


def test_files_of_before_the_window_are_not_read(tmp_path: Path) -> None:
    folder = a_log(tmp_path / "log", a_market(100))
    old = folder / "bids-0.mpk"
    old.write_bytes(b"no log at all")
    os.utime(old, (NOW_US / 1e6 - 86_400,) * 2)
    found = landscape_train.gather(folder, since_us=NOW_US - 6 * HOUR_US)
    assert len(found.bids) == 100
