-- Recency (whole days since the last act) and frequency (weighted acts) of everybody, and monetary (weighted spend) of
-- buyers, as quintiles; 5 = most recent, most frequent, most spent. Who is equal is in one quintile: that of the middle
-- of their places, 1 + floor(5 * (below + equal / 2) / all).
WITH habits AS (
    SELECT
        e.uid,
        MAX(e.time_us) AS last_us,
        SUM(CAST(ROUND(1000e0 * e.weight) AS BIGINT)) AS acts,
        SUM(CASE WHEN e.kind = 'purchase' THEN CAST(ROUND(e.weight * e.value_micros) AS BIGINT) ELSE 0 END) AS spend
    FROM events AS e
    WHERE e.kind <> 'crm'
    GROUP BY e.uid
),

measured AS (
    SELECT
        h.uid,
        h.last_us,
        CAST(FLOOR((p.now_us - h.last_us) / 86400000000e0) AS BIGINT) AS idle_days,
        CAST(h.acts AS BIGINT) AS acts,
        CAST(h.spend AS BIGINT) AS spend
    FROM habits AS h
    CROSS JOIN params AS p
),

-- One row a value, so that only values are sorted, not users.
days AS (
    SELECT idle_days AS x, COUNT(*) AS equal
    FROM measured
    GROUP BY idle_days
),

counts AS (
    SELECT acts AS x, COUNT(*) AS equal
    FROM measured
    GROUP BY acts
),

sums AS (
    SELECT spend AS x, COUNT(*) AS equal
    FROM measured
    WHERE spend > 0
    GROUP BY spend
),

places AS (
    SELECT 'rfm.recency.' AS stem, x, equal, SUM(equal) OVER (ORDER BY x DESC NULLS LAST) AS upto, SUM(equal) OVER () AS n
    FROM days
    UNION ALL
    SELECT 'rfm.frequency.' AS stem, x, equal, SUM(equal) OVER (ORDER BY x ASC NULLS LAST) AS upto, SUM(equal) OVER () AS n
    FROM counts
    UNION ALL
    SELECT 'rfm.monetary.' AS stem, x, equal, SUM(equal) OVER (ORDER BY x ASC NULLS LAST) AS upto, SUM(equal) OVER () AS n
    FROM sums
),

quintiles AS (
    SELECT
        l.stem,
        l.x,
        t.tag,
        t.ttl_us
    FROM places AS l
    INNER JOIN taxonomy AS t
        ON t.name = CONCAT(
            l.stem, CAST(1 + CAST(FLOOR(5e0 * (2 * l.upto - l.equal) / NULLIF(2 * l.n, 0)) AS INT) AS VARCHAR)
        )
),

found AS (
    SELECT m.uid, q.tag, q.ttl_us, m.last_us
    FROM measured AS m
    INNER JOIN quintiles AS q ON q.stem = 'rfm.recency.' AND q.x = m.idle_days
    UNION ALL
    SELECT m.uid, q.tag, q.ttl_us, m.last_us
    FROM measured AS m
    INNER JOIN quintiles AS q ON q.stem = 'rfm.frequency.' AND q.x = m.acts
    UNION ALL
    SELECT m.uid, q.tag, q.ttl_us, m.last_us
    FROM measured AS m
    INNER JOIN quintiles AS q ON q.stem = 'rfm.monetary.' AND q.x = m.spend
)

SELECT f.uid, f.tag, 100 AS score, CAST(FLOOR(f.last_us / 86400000000e0) AS INT) AS as_of_day
FROM found AS f
CROSS JOIN params AS p
WHERE p.now_us - f.last_us <= f.ttl_us
