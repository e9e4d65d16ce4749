-- Channel preference: the share, in per cent, of a user's weighted acts (view 1, search 3, cart 5, purchase 8) that came
-- through each channel, decayed with its half-life, from 10 % on.
WITH sums AS (
    SELECT
        e.uid,
        c.tag,
        c.facet,
        SUM(CAST(ROUND(
            1000000000e0 * e.weight
            * CASE e.kind WHEN 'view' THEN 1e0 WHEN 'search' THEN 3e0 WHEN 'cart' THEN 5e0 WHEN 'purchase' THEN 8e0 ELSE 1e0 END
            * EXP(-0.6931471805599453e0 * (p.now_us - e.time_us) / NULLIF(t.half_life_us, 0))
        ) AS BIGINT)) AS weight,
        MAX(e.time_us) AS last_us
    FROM events AS e
    INNER JOIN channels AS c ON e.channel = c.label
    INNER JOIN taxonomy AS t ON c.tag = t.tag
    CROSS JOIN params AS p
    WHERE e.kind <> 'crm' AND p.now_us - e.time_us <= t.ttl_us
    GROUP BY e.uid, c.tag, c.facet
),

shares AS (
    SELECT uid, tag, last_us, weight, SUM(weight) OVER (PARTITION BY uid, facet) AS total
    FROM sums
)

SELECT
    uid,
    tag,
    CAST(FLOOR(100e0 * weight / NULLIF(total, 0)) AS INT) AS score,
    CAST(FLOOR(last_us / 86400000000e0) AS INT) AS as_of_day
FROM shares
WHERE 10 * weight >= total AND weight > 0
