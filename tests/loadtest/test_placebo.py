import pyarrow as pa

from dmp.events import Bid, Click
from dmp.generations import TAG_COLUMNS
from dmp.schema import User
from loadtest import placebo

USERS = [bytes([i]) * 16 for i in range(50)]


def a_table():
    rows = [(uid, tag, i, 20_000, 1) for i, uid in enumerate(USERS) for tag in (1001, 1002 + i % 3)]
    columns = list(zip(*rows, strict=True))
    return pa.table(dict(zip(TAG_COLUMNS.names, columns, strict=True)), schema=TAG_COLUMNS)


def of(table):
    found = {}
    for row in table.to_pylist():
        found.setdefault(row["uid"], []).append((row["tag"], row["score"]))
    return {uid: sorted(tags) for uid, tags in found.items()}


def a_bid(uid, user):
    return Bid(
        event_id="b1",
        time_us=1,
        exchange="x",
        auction_id="a",
        imp_id="1",
        campaign="c",
        creative="k",
        uid=uid,
        price_micros=1,
        user=user,
        vector=b"12345678",
    )


def test_everybody_gets_one_persons_tags_whole():
    donors = placebo.deal(USERS, seed=1)
    before, after = of(a_table()), of(placebo.permuted(a_table(), donors))
    assert sorted(donors.values()) == sorted(USERS)
    assert all(after[uid] == before[donors[uid]] for uid in USERS)
    assert sum(after[uid] == before[uid] for uid in USERS) < 10


def test_one_seed_deals_the_same_hand():
    assert placebo.deal(USERS, seed=1) == placebo.deal(USERS, seed=1) != placebo.deal(USERS, seed=2)


def test_the_table_keeps_its_schema():
    assert placebo.permuted(a_table(), placebo.deal(USERS, 1)).schema == TAG_COLUMNS


def test_a_log_after_the_deal_shows_the_donors_tags_and_its_own_contacts():
    donors = {USERS[0]: USERS[1]}
    seen = User({7: 1}, frozenset({5}))
    (bid,) = placebo.with_others_tags([a_bid(USERS[0], seen)], donors, {USERS[1]: {9: 90}})
    assert bid.user == User({9: 90}, frozenset({5}))
    assert bid.vector == b""


def test_a_log_without_users_knows_nobody_and_keeps_everything_else():
    click = Click(event_id="b1:click", bid_id="b1", imp_id="1", time_us=2, campaign="c", creative="k")
    bid, kept = placebo.without_users([a_bid(USERS[0], User({7: 1})), click])
    assert (bid.user, bid.uid, bid.campaign) == (None, USERS[0], "c")
    assert kept == click
