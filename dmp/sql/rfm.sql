-- Recency and frequency of behaviour as quintiles, 5 = most recent, most frequent; ties in the order of uid.
WITH habits AS (
    SELECT uid, MAX(time_us) AS last_us, COUNT(*) AS acts
    FROM events
    WHERE kind <> 'crm'
    GROUP BY uid
),

quintiles AS (
    SELECT
        uid,
        last_us,
        NTILE(5) OVER (ORDER BY last_us ASC NULLS FIRST, uid ASC NULLS FIRST) AS recency,
        NTILE(5) OVER (ORDER BY acts ASC NULLS FIRST, uid ASC NULLS FIRST) AS frequency
    FROM habits
)

SELECT q.uid, t.tag, 100 AS score, CAST(FLOOR(q.last_us / 86400000000.0) AS INTEGER) AS as_of_day
FROM quintiles AS q
CROSS JOIN params AS p
INNER JOIN taxonomy AS t ON t.name = CONCAT('rfm.recency.', CAST(q.recency AS VARCHAR))
WHERE p.now_us - q.last_us <= t.ttl_days * CAST(86400000000 AS BIGINT)
UNION ALL
SELECT q.uid, t.tag, 100 AS score, CAST(FLOOR(q.last_us / 86400000000.0) AS INTEGER) AS as_of_day
FROM quintiles AS q
CROSS JOIN params AS p
INNER JOIN taxonomy AS t ON t.name = CONCAT('rfm.frequency.', CAST(q.frequency AS VARCHAR))
WHERE p.now_us - q.last_us <= t.ttl_days * CAST(86400000000 AS BIGINT)
