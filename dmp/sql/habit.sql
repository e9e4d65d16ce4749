-- Habits. Recency: days since the last act. Frequency: days with an act among the last 28; light to 3, regular to 11,
-- heavy above. Depth: weighted acts a session, which ends after 30 minutes without an act; bounce below 1.5, browse below
-- 5, else deep.
WITH steps AS (
    SELECT
        e.uid,
        e.time_us,
        CAST(ROUND(1000e0 * e.weight) AS BIGINT) AS counts,
        LAG(e.time_us) OVER (PARTITION BY e.uid ORDER BY e.time_us ASC NULLS FIRST) AS before_us
    FROM events AS e
    WHERE e.kind <> 'crm'
),

habits AS (
    SELECT
        s.uid,
        MAX(s.time_us) AS last_us,
        SUM(s.counts) AS acts,
        SUM(CASE WHEN s.time_us - s.before_us <= 1800000000 THEN 0 ELSE 1 END) AS sessions,
        SUM(CASE
            WHEN FLOOR(s.time_us / 86400000000e0) <= p.day - 28 THEN 0
            WHEN FLOOR(s.before_us / 86400000000e0) >= FLOOR(s.time_us / 86400000000e0) THEN 0
            ELSE 1
        END) AS days
    FROM steps AS s
    CROSS JOIN params AS p
    GROUP BY s.uid
),

found AS (
    SELECT
        h.uid,
        h.last_us,
        CASE
            WHEN p.now_us - h.last_us <= 86400000000 THEN 'habit.recency.day'
            WHEN p.now_us - h.last_us <= 604800000000 THEN 'habit.recency.week'
            WHEN p.now_us - h.last_us <= 2592000000000 THEN 'habit.recency.month'
            ELSE 'habit.recency.older'
        END AS name
    FROM habits AS h
    CROSS JOIN params AS p
    UNION ALL
    SELECT
        uid,
        last_us,
        CASE WHEN days > 11 THEN 'habit.frequency.heavy' WHEN days > 3 THEN 'habit.frequency.regular' ELSE 'habit.frequency.light' END AS name
    FROM habits
    WHERE days > 0
    UNION ALL
    SELECT
        uid,
        last_us,
        CASE WHEN acts < 1500 * sessions THEN 'habit.depth.bounce' WHEN acts < 5000 * sessions THEN 'habit.depth.browse' ELSE 'habit.depth.deep' END AS name
    FROM habits
)

SELECT f.uid, t.tag, 100 AS score, CAST(FLOOR(f.last_us / 86400000000e0) AS INT) AS as_of_day
FROM found AS f
INNER JOIN taxonomy AS t ON t.name = f.name
CROSS JOIN params AS p
WHERE p.now_us - f.last_us <= t.ttl_us
