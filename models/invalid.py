"""Clicks nobody made: which impressions of the bid log do not train, and why (decision science 8).

Each rule has a code and a severity. "drop": the impression leaves the training data, click or no click, as it tells of
a machine; "score": it stays with the weight of what is probably true of it. The log keeps everything, so other rules
can judge it again; raise `VERSION` with them, and joined days are joined again.

    fast           drop   within 300 ms of the impression; not judged where most clicks are, as then clocks are wrong
    repeated       drop   more than three clicks on one impression
    user_rate      drop   a person's day with more clicks than a millionth of people with its impressions would have,
                          if clicks came by Poisson's law at everybody's rate; all impressions of that day
    ip_rate        drop   the same of an address, which the bid log tells by a keyed mark of those who may train
    place_rate     drop   a placement's day whose click rate is certainly (Wilson's bound, z = 4) ten times everybody's
    even_gaps      drop   a person's day of six and more clicks like clockwork, ten seconds or more apart, gaps equal to
                          two seconds
    sleepless      drop   a person's day whose clicks are spread over all hours: entropy above nine tenths of even ones
    late           score  more than a day after the impression; it is no click, the impression counts by half

Clicks on what was never shown meet no impression and so never train; the join counts them (`unseen_clicks`).
"""

import math
from typing import Literal

import duckdb
import msgspec

VERSION = 2
FAST_US = 300_000
FAST_MOST = 0.5  # of all clicks; beyond, the rule is not believed
LATE_US = 86_400_000_000
REPEATED = 3
RARE = 1e-6
LATE_WEIGHT = 0.5
LEAST_CLICKS = 4  # of a person's or an address's day, before it is looked at
PLACE_TIMES = 10.0
PLACE_Z = 4.0  # a millionth of thirty placements a day
EVEN_CLICKS, EVEN_US, LEAST_GAP_US = 6, 2_000_000, 10_000_000
SLEEPLESS_CLICKS, SLEEPLESS = 24, 0.9

Severity = Literal["drop", "score"]


class Rule(msgspec.Struct, frozen=True):
    """weight: of an impression it holds for, 0 where it is dropped."""

    severity: Severity
    weight: float


RULES = {
    "fast": Rule("drop", 0.0),
    "repeated": Rule("drop", 0.0),
    "user_rate": Rule("drop", 0.0),
    "ip_rate": Rule("drop", 0.0),
    "place_rate": Rule("drop", 0.0),
    "even_gaps": Rule("drop", 0.0),
    "sleepless": Rule("drop", 0.0),
    "late": Rule("score", LATE_WEIGHT),
}


def judge(database: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Fill table `invalid` (bid_id, imp_id, code) from table `met`; returns how many there are of each code.

    met: impressions with bid_id, imp_id, day, uid and ip (NULL where not known), place, shown_us, pressed_us (first
    click, NULL for none), presses. An impression has the code of the first rule above that holds for it.
    """
    clicks, fast = database.execute(
        f"SELECT count(pressed_us), count(*) FILTER (pressed_us - shown_us < {FAST_US}) FROM met"  # noqa: S608
    ).fetchall()[0]
    too_fast = FAST_US if fast <= FAST_MOST * clicks else -LATE_US
    database.execute("CREATE TABLE suspect (code VARCHAR, uid BLOB, ip VARCHAR, place VARCHAR, day BIGINT)")
    for code, column, groups in (
        ("user_rate", "uid", _rushed(database, "uid")),
        ("ip_rate", "ip", _rushed(database, "ip")),
        ("place_rate", "place", _too_good(database)),
        ("even_gaps", "uid", _even(database)),
        ("sleepless", "uid", _sleepless(database)),
    ):
        if groups:
            database.executemany(f"INSERT INTO suspect (code, {column}, day) VALUES ('{code}', ?, ?)", groups)  # noqa: S608
    database.execute(f"""
        CREATE TABLE invalid AS SELECT * FROM (
            SELECT bid_id, imp_id, CASE
                WHEN pressed_us - shown_us < {too_fast} THEN 'fast'
                WHEN presses > {REPEATED} THEN 'repeated'
                WHEN u.code = 'user_rate' THEN u.code
                WHEN i.code IS NOT NULL THEN i.code
                WHEN p.code IS NOT NULL THEN p.code
                WHEN u.code IS NOT NULL THEN u.code
                WHEN pressed_us - shown_us > {LATE_US} THEN 'late' END AS code
            FROM met
            LEFT JOIN (SELECT uid, day, max(code) AS code FROM suspect GROUP BY ALL) AS u USING (uid, day)
            LEFT JOIN (SELECT DISTINCT ip, day, code FROM suspect WHERE ip IS NOT NULL) AS i USING (ip, day)
            LEFT JOIN (SELECT DISTINCT place, day, code FROM suspect WHERE place IS NOT NULL) AS p USING (place, day)
        ) WHERE code IS NOT NULL
    """)  # noqa: S608 - only integers of our own are put in
    return dict(database.execute("SELECT code, count(*) FROM invalid GROUP BY code ORDER BY code").fetchall())


def _rushed(database: duckdb.DuckDBPyConnection, by: Literal["uid", "ip"]) -> list[tuple[bytes | str, int]]:
    """(person or address, day) of who clicked more than chance allows."""
    from scipy import stats

    days = database.execute(f"""
        SELECT {by}, day, count(*), count(pressed_us), (SELECT count(pressed_us) / count(*) FROM met)
        FROM met WHERE {by} IS NOT NULL GROUP BY {by}, day HAVING count(pressed_us) >= {LEAST_CLICKS}
    """).fetchall()  # noqa: S608 - a name and a number of ours
    return [
        (who, day)
        for who, day, shown, clicked, rate in days
        if clicked > stats.poisson.isf(RARE, max(rate * shown, 1e-9))
    ]


def _too_good(database: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    """(placement, day) that people do not click on like that."""
    days = database.execute(f"""
        SELECT place, day, count(*), count(pressed_us), (SELECT count(pressed_us) / count(*) FROM met)
        FROM met GROUP BY place, day HAVING count(pressed_us) >= {LEAST_CLICKS}
    """).fetchall()  # noqa: S608 - as above
    return [(place, day) for place, day, shown, clicked, rate in days if wilson(clicked, shown) > PLACE_TIMES * rate]


def wilson(clicks: float, shown: float, z: float = PLACE_Z) -> float:
    """The lower end of Wilson's interval of a rate.

    >>> round(wilson(50, 100, z=1.96), 3)
    0.404
    """
    p, square = clicks / shown, z * z / shown
    return (p + square / 2 - z * math.sqrt(p * (1 - p) / shown + square / 4 / shown)) / (1 + square)


def _even(database: duckdb.DuckDBPyConnection) -> list[tuple[bytes, int]]:
    """(person, day) of who clicks like clockwork."""
    return database.execute(f"""
        SELECT uid, day FROM (
            SELECT uid, day, pressed_us - lag(pressed_us) OVER (PARTITION BY uid, day ORDER BY pressed_us) AS gap_us
            FROM met WHERE uid IS NOT NULL AND pressed_us IS NOT NULL)
        GROUP BY uid, day HAVING count(*) >= {EVEN_CLICKS} AND max(gap_us) - min(gap_us) <= {EVEN_US}
            AND min(gap_us) >= {LEAST_GAP_US}
    """).fetchall()  # noqa: S608 - as above


def _sleepless(database: duckdb.DuckDBPyConnection) -> list[tuple[bytes, int]]:
    """(person, day) of who clicks at all hours."""
    return database.execute(f"""
        SELECT uid, day FROM (
            SELECT uid, day, count(*) AS n FROM met WHERE uid IS NOT NULL AND pressed_us IS NOT NULL
            GROUP BY uid, day, pressed_us // {LATE_US // 24})
        GROUP BY uid, day HAVING sum(n) >= {SLEEPLESS_CLICKS}
            AND ln(sum(n)) - sum(n * ln(n)) / sum(n) > {SLEEPLESS} * ln(24)
    """).fetchall()  # noqa: S608 - as above
