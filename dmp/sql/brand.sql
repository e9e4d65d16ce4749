-- Brand affinity. A brand's tier is what it costs against its categories' mean price: luxury from 2.5 times, premium
-- from 1.5, mainstream from 0.75, value below; affinity to a tier is a decayed sum of weighted acts, scored by percentile.
-- Loyalty, from three purchases with a brand on: the share of the favourite, loyal from 60 %, repertoire from 30 %.
WITH prices AS (
    SELECT category, CAST(FLOOR(SUM(value_micros) / NULLIF(COUNT(*), 0)) AS BIGINT) AS mean_micros
    FROM events
    WHERE kind = 'purchase' AND value_micros > 0
    GROUP BY category
),

costs AS (
    SELECT e.brand, SUM(e.value_micros) AS paid, SUM(c.mean_micros) AS usual
    FROM events AS e
    INNER JOIN prices AS c ON e.category = c.category
    WHERE e.kind = 'purchase' AND e.value_micros > 0 AND e.brand <> ''
    GROUP BY e.brand
),

tiers AS (
    SELECT
        c.brand,
        t.tag,
        t.half_life_us,
        t.ttl_us
    FROM costs AS c
    INNER JOIN taxonomy AS t
        ON t.name = CASE
            WHEN 10 * c.paid >= 25 * c.usual THEN 'brand.tier.luxury'
            WHEN 10 * c.paid >= 15 * c.usual THEN 'brand.tier.premium'
            WHEN 100 * c.paid >= 75 * c.usual THEN 'brand.tier.mainstream'
            ELSE 'brand.tier.value'
        END
),

affinity AS (
    SELECT
        e.uid,
        b.tag,
        SUM(CAST(ROUND(
            1000000000e0 * e.weight
            * CASE e.kind WHEN 'view' THEN 1e0 WHEN 'search' THEN 3e0 WHEN 'cart' THEN 5e0 WHEN 'purchase' THEN 8e0 ELSE 1e0 END
            * EXP(-0.6931471805599453e0 * (p.now_us - e.time_us) / NULLIF(b.half_life_us, 0))
        ) AS BIGINT)) AS weight,
        MAX(e.time_us) AS last_us
    FROM events AS e
    INNER JOIN tiers AS b ON e.brand = b.brand
    CROSS JOIN params AS p
    WHERE e.kind <> 'crm' AND p.now_us - e.time_us <= b.ttl_us
    GROUP BY e.uid, b.tag
),

bought AS (
    SELECT e.uid, e.brand, SUM(CAST(ROUND(1000e0 * e.weight) AS BIGINT)) AS purchases, MAX(e.time_us) AS last_us
    FROM events AS e
    CROSS JOIN params AS p
    WHERE e.kind = 'purchase' AND e.brand <> '' AND p.now_us - e.time_us <= 10368000000000
    GROUP BY e.uid, e.brand
),

shares AS (
    SELECT uid, MAX(purchases) AS favourite, SUM(purchases) AS purchases, MAX(last_us) AS last_us
    FROM bought
    GROUP BY uid
)

SELECT
    uid,
    tag,
    GREATEST(1, CAST(FLOOR(
        100e0 * (
            COUNT(*) OVER (PARTITION BY tag) - RANK() OVER (PARTITION BY tag ORDER BY weight DESC NULLS LAST) + 1
        ) / NULLIF(COUNT(*) OVER (PARTITION BY tag), 0)
    ) AS INT)) AS score,
    CAST(FLOOR(last_us / 86400000000e0) AS INT) AS as_of_day
FROM affinity
UNION ALL
SELECT s.uid, t.tag, 100 AS score, CAST(FLOOR(s.last_us / 86400000000e0) AS INT) AS as_of_day
FROM shares AS s
INNER JOIN taxonomy AS t
    ON t.name = CASE
        WHEN 10 * s.favourite >= 6 * s.purchases THEN 'brand.loyalty.loyal'
        WHEN 10 * s.favourite >= 3 * s.purchases THEN 'brand.loyalty.repertoire'
        ELSE 'brand.loyalty.switcher'
    END
WHERE s.purchases >= 3000
