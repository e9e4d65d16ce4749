-- Purchase power: quintile of spend, decayed with 90 days half-life, among buyers; and who pays for premium: at least
-- two purchases, for at least 1.3 times of what their categories cost on average, scored by percentile.
WITH prices AS (
    SELECT category, CAST(FLOOR(SUM(value_micros) / NULLIF(COUNT(*), 0)) AS BIGINT) AS mean_micros
    FROM events
    WHERE kind = 'purchase' AND value_micros > 0
    GROUP BY category
),

buyers AS (
    SELECT
        e.uid,
        MAX(e.time_us) AS last_us,
        COUNT(*) AS purchases,
        SUM(CAST(ROUND(
            e.weight * e.value_micros * EXP(-0.6931471805599453e0 * (p.now_us - e.time_us) / 7776000000000e0)
        ) AS BIGINT)) AS power,
        SUM(CAST(ROUND(e.weight * e.value_micros) AS BIGINT)) AS paid,
        SUM(CAST(ROUND(e.weight * c.mean_micros) AS BIGINT)) AS usual
    FROM events AS e
    INNER JOIN prices AS c ON e.category = c.category
    CROSS JOIN params AS p
    WHERE e.kind = 'purchase' AND e.value_micros > 0
    GROUP BY e.uid
),

placed AS (
    SELECT
        uid,
        last_us,
        2 * RANK() OVER (ORDER BY power ASC NULLS FIRST) - 2 + COUNT(*) OVER (PARTITION BY power) AS twice_place,
        COUNT(*) OVER () AS n
    FROM buyers
),

premium AS (
    SELECT uid, last_us, CAST(FLOOR(1000e0 * paid / NULLIF(usual, 0)) AS BIGINT) AS index_milli
    FROM buyers
    WHERE purchases >= 2 AND 10 * paid >= 13 * usual
),

found AS (
    SELECT
        uid,
        last_us,
        CONCAT('power.tier.', CAST(1 + CAST(FLOOR(5e0 * twice_place / NULLIF(2 * n, 0)) AS INT) AS VARCHAR)) AS name,
        100 AS score
    FROM placed
    UNION ALL
    SELECT
        uid,
        last_us,
        'power.price.premium' AS name,
        GREATEST(1, CAST(FLOOR(
            100e0 * (COUNT(*) OVER () - RANK() OVER (ORDER BY index_milli DESC NULLS LAST) + 1) / NULLIF(COUNT(*) OVER (), 0)
        ) AS INT)) AS score
    FROM premium
)

SELECT f.uid, t.tag, f.score, CAST(FLOOR(f.last_us / 86400000000e0) AS INT) AS as_of_day
FROM found AS f
INNER JOIN taxonomy AS t ON t.name = f.name
CROSS JOIN params AS p
WHERE p.now_us - f.last_us <= t.ttl_us
