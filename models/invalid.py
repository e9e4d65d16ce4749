"""Clicks nobody made: which impressions of the bid log do not train, and why (decision science 8).

Each rule has a code and a severity. "drop": the impression leaves the training data, click or no click, as it tells of
a machine; "score": it stays with the weight of what is probably true of it. The log keeps everything, so other rules
can judge it again; raise `VERSION` with them, and joined days are joined again.

    fast           drop   within 300 ms of the impression; not judged where most clicks are, as then clocks are wrong
    repeated       drop   more than three clicks on one impression
    user_rate      drop   a person's day with more clicks than a millionth of people with its impressions would have,
                          if clicks came by Poisson's law at everybody's rate; all impressions of that day
    late           score  more than a day after the impression; it is no click, the impression counts by half

Clicks on what was never shown meet no impression and so never train; the join counts them (`unseen_clicks`).
"""

from typing import Literal

import duckdb
import msgspec

VERSION = 1
FAST_US = 300_000
FAST_MOST = 0.5  # of all clicks; beyond, the rule is not believed
LATE_US = 86_400_000_000
REPEATED = 3
RARE = 1e-6
LATE_WEIGHT = 0.5
LEAST_CLICKS = 4  # of a person's day, before it is looked at

Severity = Literal["drop", "score"]


class Rule(msgspec.Struct, frozen=True):
    """weight: of an impression it holds for, 0 where it is dropped."""

    severity: Severity
    weight: float


RULES = {
    "fast": Rule("drop", 0.0),
    "repeated": Rule("drop", 0.0),
    "user_rate": Rule("drop", 0.0),
    "late": Rule("score", LATE_WEIGHT),
}


def judge(database: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Fill table `invalid` (bid_id, imp_id, code) from table `met`; returns how many there are of each code.

    met: impressions with bid_id, imp_id, day, uid, shown_us, pressed_us (first click, NULL for none), presses. An
    impression has the code of the first rule above that holds for it.
    """
    clicks, fast = database.execute(
        f"SELECT count(pressed_us), count(*) FILTER (pressed_us - shown_us < {FAST_US}) FROM met"  # noqa: S608
    ).fetchall()[0]
    too_fast = FAST_US if fast <= FAST_MOST * clicks else -LATE_US
    database.execute("CREATE TABLE rushed (uid BLOB, day BIGINT)")
    rushed = _rushed(database)
    if rushed:
        database.executemany("INSERT INTO rushed VALUES (?, ?)", rushed)
    database.execute(f"""
        CREATE TABLE invalid AS SELECT * FROM (
            SELECT bid_id, imp_id, CASE
                WHEN pressed_us - shown_us < {too_fast} THEN 'fast'
                WHEN presses > {REPEATED} THEN 'repeated'
                WHEN r.uid IS NOT NULL THEN 'user_rate'
                WHEN pressed_us - shown_us > {LATE_US} THEN 'late' END AS code
            FROM met LEFT JOIN rushed AS r USING (uid, day)) WHERE code IS NOT NULL
    """)  # noqa: S608 - only integers of our own are put in
    return dict(database.execute("SELECT code, count(*) FROM invalid GROUP BY code ORDER BY code").fetchall())


def _rushed(database: duckdb.DuckDBPyConnection) -> list[tuple[bytes, int]]:
    """(person, day) of who clicked more than chance allows."""
    from scipy import stats

    days = database.execute(f"""
        SELECT uid, day, count(*), count(pressed_us), (SELECT count(pressed_us) / count(*) FROM met)
        FROM met WHERE uid IS NOT NULL GROUP BY uid, day HAVING count(pressed_us) >= {LEAST_CLICKS}
    """).fetchall()  # noqa: S608 - as above
    return [
        (uid, day)
        for uid, day, shown, clicked, rate in days
        if clicked > stats.poisson.isf(RARE, max(rate * shown, 1e-9))
    ]
