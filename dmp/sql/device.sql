-- Devices and operating systems in use: the share, in per cent, of a user's acts on each, decayed with the tag's
-- half-life (30 days where it has none), from 10 % on; of what a user has one (half-life 0) only the most used.
WITH sums AS (
    SELECT
        e.uid,
        d.tag,
        d.facet,
        t.half_life_us,
        SUM(CAST(ROUND(
            1000000000e0 * e.weight
            * EXP(-0.6931471805599453e0 * (p.now_us - e.time_us) / NULLIF(CASE WHEN t.half_life_us > 0 THEN t.half_life_us ELSE 2592000000000 END, 0))
        ) AS BIGINT)) AS weight,
        MAX(e.time_us) AS last_us
    FROM events AS e
    INNER JOIN devices AS d ON e.device = d.label
    INNER JOIN taxonomy AS t ON d.tag = t.tag
    CROSS JOIN params AS p
    WHERE e.kind <> 'crm' AND p.now_us - e.time_us <= t.ttl_us
    GROUP BY e.uid, d.tag, d.facet, t.half_life_us
),

shares AS (
    SELECT
        uid,
        tag,
        last_us,
        half_life_us,
        weight,
        SUM(weight) OVER (PARTITION BY uid, facet) AS total,
        ROW_NUMBER() OVER (
            PARTITION BY uid, facet ORDER BY weight DESC NULLS LAST, tag ASC NULLS LAST, half_life_us ASC NULLS LAST
        ) AS place
    FROM sums
)

SELECT
    uid,
    tag,
    CAST(FLOOR(100e0 * weight / NULLIF(total, 0)) AS INT) AS score,
    CAST(FLOOR(last_us / 86400000000e0) AS INT) AS as_of_day
FROM shares
WHERE 10 * weight >= total AND weight > 0 AND (half_life_us > 0 OR place = 1)
