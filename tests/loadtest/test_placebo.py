import pyarrow as pa

from dmp.generations import TAG_COLUMNS
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
