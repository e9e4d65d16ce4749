import random
import shutil

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmp.errors import BadEvents
from dmp.events import Click, Impression, Viewable
from dmp.schema import User
from models import dataset, features, frames, joining
from tests.models.factories import ADS, BORN_US, DAY_US, MINUTE_US, SECOND_US, TRAVEL, bid, notice, uid
from tests.stored import encode_all

HOUR_US = 60 * MINUTE_US
LATER_US = BORN_US + 30 * DAY_US


@pytest.fixture
def world(tmp_path):
    """A bid log, an archive of conversions and a cache."""

    class World:
        log, archive, cache = tmp_path / "log", tmp_path / "archive", tmp_path / "cache"

        def write(self, *logged, name="bids-1.mpk"):
            self.log.mkdir(exist_ok=True)
            (self.log / name).write_bytes(encode_all(logged))

        def convert(self, *lines):
            folder = self.archive / "kind=conversion" / "date=2024-10-04" / "hour=00"
            folder.mkdir(parents=True, exist_ok=True)
            blank = {"campaign": "travel", "bid_id": "", "order_id": "", "value_micros": 0}
            rows = [{"event_id": f"c{n}", **blank, **line} for n, line in enumerate(lines)]
            pq.write_table(pa.Table.from_pylist(rows, joining.CONVERSIONS), folder / "1.parquet")

        def table(self, **options):
            log = joining.frame_of(self.log, self.cache, self.archive, **{"until_us": LATER_US, **options})
            return pa.concat_tables([part(None) for part in log.frame.parts]).to_pylist(), log.counts

    return World()


def shown_and_clicked(number, at_us, clicked_us=None):
    found = [bid(number, at_us), notice(Impression, number, at_us + SECOND_US)]
    return found if clicked_us is None else [*found, notice(Click, number, clicked_us)]


def test_the_frame_of_a_log_is_the_frame_of_its_rows(world):
    logged = []
    for i in range(300):
        user = User({TRAVEL: i % 100}) if i % 3 else None
        logged.append(bid(i, BORN_US + i * 11 * MINUTE_US, ad=ADS[i % 2], user=user))
        if i % 5:
            logged.append(notice(Impression, i, BORN_US + i * 11 * MINUTE_US + SECOND_US))
        if i % 7 == 1:
            logged.append(notice(Click, i, BORN_US + i * 11 * MINUTE_US + (20 + i % 20) * MINUTE_US))
    random.Random(1).shuffle(logged)
    world.write(*logged[:200])
    world.write(*logged[200:], *logged[:50], name="bids-2.mpk")
    rows = dataset.rows(world.log, until_us=LATER_US)
    log = joining.frame_of(world.log, world.cache, until_us=LATER_US)
    assert log.frame.column("key").tolist() == rows.keys
    assert log.frame.column("clicked").tolist() == (rows.clicks > 0).tolist()
    assert {name: log.counts[name] for name in rows.counts} == rows.counts
    vocabulary = features.fit_vocabulary(rows.items)
    X = np.concatenate([frames.matrix(vocabulary, part(None)) for part in log.frame.parts])
    assert np.array_equal(X, features.matrix(vocabulary, rows.items), equal_nan=True)


def test_days_are_joined_once_and_again_only_when_they_change(world):
    first, second = BORN_US, BORN_US + DAY_US
    world.write(*shown_and_clicked(1, first), *shown_and_clicked(2, second))
    world.table()
    before = {path.name: path.stat().st_mtime_ns for path in (world.cache / "days").iterdir()}
    assert len(before) == 2
    world.write(notice(Click, 2, second + MINUTE_US), name="bids-2.mpk")
    rows, _ = world.table()
    after = {path.name: path.stat().st_mtime_ns for path in (world.cache / "days").iterdir()}
    assert [row["clicked"] for row in rows] == [False, True]
    kept = before.items() & after.items()
    assert len(kept) == 1
    assert len(after) == 2


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(world):
    world.write(*shown_and_clicked(1, BORN_US))
    for folder, name in (("events", "bids-1.part"), ("days", "1.part")):
        (world.cache / folder).mkdir(parents=True)
        (world.cache / folder / name).write_bytes(b"PAR1")
    rows, _ = world.table()
    assert len(rows) == 1
    shutil.rmtree(world.cache)
    assert repr(world.table()[0]) == repr(rows)  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("touch", "after_us", "attributed"),
    [("click", 7 * DAY_US, True), ("click", 7 * DAY_US + 1, False), ("view", DAY_US, True), ("view", DAY_US + 1, False),
     ("click", 0, False)],
)  # fmt: skip
def test_a_conversion_counts_for_the_last_click_of_a_week_or_the_last_view_of_a_day(world, touch, after_us, attributed):
    clicked = BORN_US + MINUTE_US if touch == "click" else None
    world.write(*shown_and_clicked(1, BORN_US, clicked))
    touched = clicked if clicked is not None else BORN_US + SECOND_US
    world.convert({"uid": uid(1), "time_us": touched + after_us, "value_micros": 5_000_000})
    (row,), counts = world.table()
    if touch == "click" and after_us == 0:
        # At the very moment of the click the click is not before it; the view a minute before is.
        assert row["converted_us"] == touched
        return
    assert row["converted_us"] == (touched + after_us if attributed else 0)
    assert row["value_micros"] == (5_000_000 if attributed else 0)
    assert counts["attributed"] == attributed


def person(number, at_us, who, clicked_us=None):
    """As `shown_and_clicked`, for one person met several times."""
    return [msgspec.structs.replace(event, uid=uid(who)) for event in shown_and_clicked(number, at_us, clicked_us)]


def test_a_click_goes_before_a_later_view_and_a_named_bid_before_both(world):
    clicked = BORN_US + MINUTE_US
    world.write(*person(1, BORN_US, 9, clicked), *person(2, BORN_US + HOUR_US, 9), *person(3, BORN_US + 2 * HOUR_US, 8))
    world.convert({"uid": uid(9), "time_us": BORN_US + 3 * HOUR_US})
    assert [row["converted_us"] > 0 for row in world.table()[0]] == [True, False, False]
    world.convert({"uid": uid(9), "time_us": BORN_US + 3 * HOUR_US, "bid_id": "b2"})
    assert [row["converted_us"] > 0 for row in world.table()[0]] == [False, True, False]


def test_where_viewability_is_measured_only_viewable_impressions_count_as_views(world):
    seen = person(1, BORN_US, 9)
    world.write(
        *seen, *person(2, BORN_US + MINUTE_US, 9), msgspec.structs.replace(notice(Viewable, 1, BORN_US + 9), uid=uid(9))
    )
    world.convert({"uid": uid(9), "time_us": BORN_US + HOUR_US})
    assert [row["converted_us"] > 0 for row in world.table()[0]] == [True, False]


def test_an_order_counts_once_and_only_for_its_campaign(world):
    world.write(*person(1, BORN_US, 9, BORN_US + MINUTE_US))
    at_us = BORN_US + HOUR_US
    order = {"uid": uid(9), "order_id": "o1", "value_micros": 7}
    world.convert(
        {**order, "time_us": at_us + 5}, {**order, "time_us": at_us}, {**order, "time_us": at_us, "campaign": "x"}
    )
    (row,), counts = world.table()
    assert row["converted_us"] == at_us
    assert (counts["conversions"], counts["attributed"]) == (2, 1)


def test_what_cannot_be_read_says_so(world):
    with pytest.raises(BadEvents, match=r"no \*\.mpk"):
        world.table()
    world.write(bid(1, BORN_US))
    with pytest.raises(BadEvents, match=r"no impression to learn from yet \(1 bids\); one counts 1,800 s after it"):
        world.table()
    world.write(*shown_and_clicked(1, LATER_US))
    with pytest.raises(BadEvents, match=r"yet \(1 bids, .*1 unripe\)"):
        world.table()
    world.write(*shown_and_clicked(1, BORN_US)[1:], bid(1, BORN_US, logged_ad=False))
    with pytest.raises(BadEvents, match="logged without its ad"):
        world.table()
