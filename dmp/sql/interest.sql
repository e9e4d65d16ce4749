-- Interest per category: decayed sum of weighted acts, scored 1..100 as the population percentile within the tag. A
-- parent gets half of what its child gets (`labels.share`), each with its own half-life.
-- The percentile of ln(1 + A) * idf within one tag is the percentile of A, since both factors are monotone there.
-- Sums are of whole billionths, so that the order of adding cannot make or break a tie.
WITH affinity AS (
    SELECT
        e.uid,
        l.tag,
        CAST(SUM(CAST(ROUND(
            1000000000e0 * l.share * e.weight
            * CASE e.kind WHEN 'view' THEN 1e0 WHEN 'search' THEN 3e0 WHEN 'cart' THEN 5e0 WHEN 'purchase' THEN 8e0 ELSE 1e0 END
            * EXP(-0.6931471805599453e0 * (p.now_us - e.time_us) / NULLIF(l.half_life_us, 0))
        ) AS BIGINT)) AS BIGINT) AS weight,
        MAX(e.time_us) AS last_us
    FROM events AS e
    INNER JOIN labels AS l ON e.category = l.label
    CROSS JOIN params AS p
    WHERE e.kind <> 'crm' AND l.half_life_us > 0 AND p.now_us - e.time_us <= l.ttl_us
    GROUP BY e.uid, l.tag
),

ranked AS (
    SELECT
        uid,
        tag,
        last_us,
        RANK() OVER (PARTITION BY tag ORDER BY weight DESC NULLS LAST) AS place,
        COUNT(*) OVER (PARTITION BY tag) AS n
    FROM affinity
)

SELECT
    uid,
    tag,
    GREATEST(1, CAST(FLOOR(100e0 * (n - place + 1) / NULLIF(n, 0)) AS INT)) AS score,
    CAST(FLOOR(last_us / 86400000000e0) AS INT) AS as_of_day
FROM ranked
