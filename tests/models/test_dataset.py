import random

import pytest

from dmp import events
from dmp.errors import BadEvents
from dmp.events import Click, Impression, Win
from dmp.schema import User
from models import dataset, features
from models.features import Vocabulary
from tests.models.factories import ADS, BORN_US, MINUTE_US, SECOND_US, TRAVEL, bid, impressions, notice, uid
from tests.stored import encode_all

LATER_US = BORN_US + 120 * MINUTE_US


@pytest.fixture
def log(tmp_path):
    """Writes events as the bidder's log does and returns the folder."""

    def write(*logged):
        (tmp_path / "bids-1.mpk").write_bytes(encode_all(logged))
        return tmp_path

    return write


def test_an_impression_is_a_row_and_its_click_the_label(log):
    user = User({TRAVEL: 70})
    folder = log(bid(1, BORN_US, user=user), bid(2, BORN_US + SECOND_US, ad=ADS[1]), bid(3, BORN_US + 2 * SECOND_US))
    rows = dataset.rows(
        folder,
        [
            notice(Impression, 2, BORN_US + 3 * SECOND_US),
            notice(Impression, 1, BORN_US + 5 * SECOND_US),
            notice(Click, 1, BORN_US + 9 * SECOND_US),
            notice(Win, 3, BORN_US + 3 * SECOND_US),
        ],
        until_us=LATER_US,
    )
    assert rows.keys == ["b1/1", "b2/1"]
    assert rows.clicks.tolist() == [1.0, 0.0]
    assert rows.uids == [uid(1), uid(2)]
    context, seen, ad, time_us = rows.items[0]
    assert (context.domain, seen, ad, time_us) == ("site1.example", user, ADS[0], BORN_US)
    assert rows.items[1][1] is None
    assert (rows.counts["bids"], rows.counts["impressions"], rows.counts["clicks"]) == (3, 2, 1)


def test_notices_may_stand_in_the_log_itself_twice_and_in_any_order(log):
    logged = [bid(i, BORN_US + i * SECOND_US) for i in range(20)]
    logged += [notice(Impression, i, BORN_US + MINUTE_US) for i in range(20)]
    logged += [notice(Click, i, BORN_US + 2 * MINUTE_US) for i in range(0, 20, 4)]
    straight = dataset.rows(log(*logged), until_us=LATER_US)
    random.Random(5).shuffle(logged)
    shuffled = dataset.rows(log(*logged, *logged[:30]), logged[20:], until_us=LATER_US)
    assert shuffled.keys == straight.keys == [f"b{i}/1" for i in range(20)]
    assert shuffled.clicks.tolist() == straight.clicks.tolist() == [1.0, 0, 0, 0] * 5
    assert shuffled.items == straight.items
    assert shuffled.counts == straight.counts


@pytest.mark.parametrize(("after_us", "label"), [(0, 1), (30 * MINUTE_US, 1), (30 * MINUTE_US + 1, 0)])
def test_a_click_counts_within_half_an_hour_of_its_impression(log, after_us, label):
    shown = BORN_US + MINUTE_US
    rows = dataset.rows(
        log(bid(1, BORN_US)), [notice(Impression, 1, shown), notice(Click, 1, shown + after_us)], until_us=LATER_US
    )
    assert rows.clicks.tolist() == [label]
    assert rows.counts["late_clicks"] == 1 - label


@pytest.mark.parametrize(("age_us", "ripe"), [(30 * MINUTE_US, True), (30 * MINUTE_US - 1, False)])
def test_an_impression_that_may_still_be_clicked_does_not_train(log, age_us, ripe):
    folder = log(bid(1, BORN_US), bid(2, BORN_US))
    shown = [notice(Impression, 1, BORN_US), notice(Impression, 2, LATER_US - age_us)]
    rows = dataset.rows(folder, shown, until_us=LATER_US)
    assert rows.keys == (["b1/1", "b2/1"] if ripe else ["b1/1"])
    assert rows.counts["unripe"] == (0 if ripe else 1)
    # Without a time the youngest event is now; without a wait everything is ripe.
    assert len(dataset.rows(folder, shown, click_wait_us=0)) == 2


def test_what_cannot_be_joined_is_counted(log):
    rows = dataset.rows(
        log(bid(1, BORN_US), bid(2, BORN_US)),
        [notice(Impression, 1, BORN_US), notice(Impression, 9, BORN_US), notice(Click, 2, BORN_US)],
        until_us=LATER_US,
    )
    assert len(rows) == 1
    assert (rows.counts["orphans"], rows.counts["unseen_clicks"]) == (1, 1)


def test_a_bid_logged_without_its_ad_takes_it_from_the_campaigns(log):
    folder = log(bid(1, BORN_US, logged_ad=False))
    shown = [notice(Impression, 1, BORN_US)]
    assert dataset.rows(folder, shown, ADS, until_us=LATER_US).items[0][2] == ADS[0]
    with pytest.raises(BadEvents, match="travel/t1 was logged without its ad"):
        dataset.rows(folder, shown, until_us=LATER_US)


def test_a_torn_last_record_is_the_end_of_the_log(tmp_path):
    whole = encode_all([bid(1, BORN_US), notice(Impression, 1, BORN_US)])
    (tmp_path / "a.mpk").write_bytes(whole + events.encode(bid(2, BORN_US))[:-5])
    assert dataset.rows(tmp_path, until_us=LATER_US).keys == ["b1/1"]


@pytest.mark.parametrize("why", ["no .*mpk", "not event records|not an event", "no impression"])
def test_a_folder_nothing_can_be_learnt_from_says_why(tmp_path, why):
    if "event" in why:
        (tmp_path / "a.mpk").write_bytes(b"\x01\x02\x03")
    elif "impression" in why:
        (tmp_path / "a.mpk").write_bytes(events.encode(bid(1, BORN_US)))
    with pytest.raises(BadEvents, match=why):
        dataset.rows(tmp_path)


def test_users_can_be_switched_off_or_permuted_for_a_placebo():
    rows = impressions(50)
    vocabulary = Vocabulary({})
    off = dataset.with_users(rows, lambda uid, user: None)
    assert [user for _, user, _, _ in off.items] == [None] * 50
    assert off.clicks is rows.clicks
    X, blank = features.matrix(vocabulary, rows.items), features.matrix(vocabulary, off.items)
    kept = [i for i in range(X.shape[1]) if i not in features.USER_COLUMNS]
    assert (features.np.nan_to_num(X[:, kept], nan=-1) == features.np.nan_to_num(blank[:, kept], nan=-1)).all()
    assert features.np.isnan(blank[:, list(features.USER_COLUMNS)]).all()
    other = {uid: User({7: 1}) for uid in rows.uids}
    placebo = dataset.with_users(rows, lambda uid, user: other[uid])
    assert all(user == User({7: 1}) for _, user, _, _ in placebo.items)


def test_some_rows_keep_everything_that_belongs_to_them():
    rows = impressions(10)
    some = dataset.take(rows, [7, 2])
    assert (some.keys, some.uids, some.items) == (
        ["b7/1", "b2/1"],
        [rows.uids[7], rows.uids[2]],
        [rows.items[7], rows.items[2]],
    )
    assert some.clicks.tolist() == [rows.clicks[7], rows.clicks[2]]
