import pytest

from dmp.portable import Table, problems, to_spark

TABLES = {
    "events": Table(
        {
            "uid": "BLOB", "source": "VARCHAR", "event_id": "VARCHAR", "kind": "VARCHAR", "time_us": "BIGINT",
            "n": "INT", "x": "DOUBLE",
        },
        (frozenset({"source", "event_id"}),),
    ),
    "names": Table({"tag": "BIGINT", "name": "VARCHAR"}, (frozenset({"tag"}), frozenset({"name"}))),
    "params": Table({"now_us": "BIGINT"}, (frozenset(),)),
}  # fmt: skip

GOOD = """
WITH acts AS (
    SELECT uid, kind, COUNT(*) AS n, SUM(CAST(ROUND(1000e0 * x) AS BIGINT)) AS weight, MAX(time_us) AS last_us
    FROM events
    GROUP BY uid, kind
)

SELECT
    a.uid, t.tag, CAST(FLOOR(100e0 * a.n / NULLIF(a.weight, 0)) AS INT) AS score,
    ROW_NUMBER() OVER (PARTITION BY a.uid ORDER BY a.n DESC NULLS LAST, a.kind ASC NULLS LAST) AS place,
    RANK() OVER (ORDER BY a.weight DESC NULLS LAST) AS rank
FROM acts AS a
CROSS JOIN params AS p
INNER JOIN names AS t ON t.name = CONCAT(a.kind, CAST(a.n AS VARCHAR))
WHERE p.now_us - a.last_us > 0
"""


def test_a_query_that_keeps_every_rule_has_no_problem():
    assert problems(GOOD, TABLES) == []


@pytest.mark.parametrize(
    ("rule", "old", "planted"),
    [
        ("statement", "a.uid, t.tag", "a.uid, MEDIAN(a.n) AS m, t.tag"),
        ("statement", "a.uid, t.tag", "a.uid, LIST_VALUE(a.n) AS m, t.tag"),
        ("statement", "a.uid, t.tag", "a.uid, a.n // 2 AS m, t.tag"),
        ("statement", "a.uid, t.tag", "a.uid, AVG(a.n) OVER () AS m, t.tag"),
        ("statement", "a.uid, t.tag", "a.uid, RANDOM() AS m, t.tag"),
        ("statement", "> 0\n", "> 0\nLIMIT 5"),
        ("statement", "> 0\n", "> (SELECT MAX(n) FROM acts)"),
        ("statement", "> 0\n", "> 0 AND a.n IN (SELECT n FROM acts)"),
        ("statement", "> 0\n", "> 0 QUALIFY place = 1"),
        ("statement", "> 0\n", "> 0; SELECT 1"),
        ("statement", "SELECT\n", "SELEC\n"),
        ("time", "p.now_us - a.last_us", "EPOCH_US(NOW()) - a.last_us"),
        ("time", "p.now_us - a.last_us", "p.now_us + CURRENT_TIMESTAMP"),
        ("time", "a.uid, t.tag", "a.uid, MAKE_TIMESTAMP(a.last_us) AS m, t.tag"),
        ("time", "a.uid, t.tag", "a.uid, CAST(a.last_us AS TIMESTAMP) AS m, t.tag"),
        ("time", "a.uid, t.tag", "a.uid, DATE '2024-01-01' AS m, t.tag"),
        ("order", "a.n DESC NULLS LAST", "a.n DESC"),
        ("order", "a.kind ASC NULLS LAST", "a.kind ASC"),
        ("order", "a.kind ASC NULLS LAST", "a.kind NULLS LAST"),
        ("order", "a.weight DESC NULLS LAST", "EXP(a.weight) DESC NULLS LAST"),
        ("total", "a.n DESC NULLS LAST, a.kind ASC NULLS LAST", "a.n DESC NULLS LAST"),
        ("total", "RANK() OVER (ORDER BY", "NTILE(5) OVER (ORDER BY"),
        ("total", "RANK() OVER (ORDER BY", "LAG(a.n) OVER (ORDER BY"),
        ("total", "RANK() OVER (ORDER BY a.weight DESC NULLS LAST)",
         "SUM(a.n) OVER (ORDER BY a.weight DESC NULLS LAST ROWS UNBOUNDED PRECEDING)"),
        ("total", "GROUP BY uid, kind\n)", "GROUP BY uid, kind, source\n)"),
        ("division", "NULLIF(a.weight, 0)", "a.weight"),
        ("division", "NULLIF(a.weight, 0)", "NULLIF(a.weight, 1)"),
        ("division", "NULLIF(a.weight, 0)", "0"),
        ("division", "p.now_us - a.last_us", "p.now_us % a.last_us"),
        ("literal", "1000e0", "1000.0"),
        ("cast", "CAST(ROUND(1000e0 * x) AS BIGINT)", "CAST(1000e0 * x AS BIGINT)"),
        ("cast", "CAST(ROUND(1000e0 * x) AS BIGINT)", "CAST(ROUND(1000e0 * x, 2) AS BIGINT)"),
        ("cast", "CAST(ROUND(1000e0 * x) AS BIGINT)", "CAST(kind AS BIGINT)"),
        ("cast", "CAST(a.n AS VARCHAR)", "TRY_CAST(a.n AS VARCHAR)"),
        ("cast", "CAST(a.n AS VARCHAR)", "CAST(a.n / 2e0 AS VARCHAR)"),
        ("cast", "CAST(a.n AS VARCHAR)", "a.n"),
        ("cast", "CAST(a.n AS VARCHAR)", "CAST(CAST(a.n AS SMALLINT) AS VARCHAR)"),
        ("cast", "p.now_us - a.last_us > 0", "a.kind > 5"),
        ("sum", "SUM(CAST(ROUND(1000e0 * x) AS BIGINT))", "SUM(x)"),
        ("equality", "p.now_us - a.last_us > 0", "a.weight / 2e0 = 1e0"),
        ("equality", "GROUP BY uid, kind", "GROUP BY uid, kind, x"),
        ("join", "CROSS JOIN params AS p", ", params AS p"),
        ("join", "CROSS JOIN params AS p", "CROSS JOIN params AS p CROSS JOIN names AS m"),
        ("join", "INNER JOIN names", "JOIN names"),
        ("join", "INNER JOIN names", "FULL JOIN names"),
        ("join", " ON t.name = CONCAT(a.kind, CAST(a.n AS VARCHAR))", " USING (n)"),
        ("name", "a.last_us > 0", "a.last_ms > 0"),
        ("name", "FROM acts", "FROM actz"),
    ],
)  # fmt: skip
def test_each_rule_catches_its_offence(rule, old, planted):
    assert GOOD.count(old) == 1, old
    found = problems(GOOD.replace(old, planted), TABLES)
    assert rule in {problem.partition(":")[0] for problem in found}, found


@pytest.mark.parametrize(
    "query",
    [
        # ordered by the key of the table itself
        "SELECT ROW_NUMBER() OVER (ORDER BY event_id ASC NULLS LAST, source ASC NULLS LAST) AS place FROM events",
        # ties of what is read itself change nothing
        "SELECT time_us - LAG(time_us) OVER (PARTITION BY uid ORDER BY time_us ASC NULLS FIRST) AS gap FROM events",
        # a lookup by its key finds one row at most, so that the key of the events still is one
        """SELECT ROW_NUMBER() OVER (ORDER BY e.event_id ASC NULLS LAST, e.source ASC NULLS LAST) AS place
        FROM events AS e LEFT JOIN names AS t ON e.kind = t.name""",
        # distinct rows differ in all columns
        """SELECT ROW_NUMBER() OVER (PARTITION BY kind ORDER BY n ASC NULLS LAST) AS place
        FROM (SELECT DISTINCT kind, n FROM events) AS d""",
    ],
)
def test_an_order_is_known_to_be_total_where_it_is(query):
    assert problems(query, TABLES) == []


@pytest.mark.parametrize(
    "query",
    [
        # a join not by a key multiplies rows
        """SELECT ROW_NUMBER() OVER (ORDER BY e.event_id ASC NULLS LAST, e.source ASC NULLS LAST) AS place
        FROM events AS e LEFT JOIN names AS t ON e.n = t.tag - 1""",
        # the key is hidden by the query in between, and what an alias stands for counts
        """SELECT ROW_NUMBER() OVER (ORDER BY s.uid ASC NULLS LAST) AS place
        FROM (SELECT kind AS uid, COUNT(*) AS n FROM events GROUP BY kind, n) AS s""",
        # also in a query within the query
        """WITH w AS (SELECT uid, ROW_NUMBER() OVER (ORDER BY uid ASC NULLS LAST) AS place FROM events)
        SELECT uid FROM w WHERE place = 1""",
    ],
)
def test_an_order_is_not_taken_for_total_where_it_may_not_be(query):
    assert {problem.partition(":")[0] for problem in problems(query, TABLES)} == {"total"}


def test_spark_says_it_in_its_own_words():
    assert to_spark("SELECT CONCAT('a', CAST(n AS VARCHAR)) AS c, x / 2e0 AS h FROM events") == (
        "SELECT CONCAT('a', COALESCE(CAST(n AS STRING), '')) AS c, x / 2e0 AS h FROM events"
    )
