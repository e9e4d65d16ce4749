-- Expected spend of the buyers of the last 365 days in the next 365, as quintiles, and the time of the next purchase.
-- MBG/NBD (Batislam, Denizel & Filiztekin 2007) with x repeat orders, the last at t after the first, T ago:
--   alive = 1 / (1 + a / (b + x) * ((alpha + T) / (alpha + t)) ^ (r + x)),   rate = (r + x) / (alpha + T)
-- with r = 1, alpha = the population's mean gap between orders (90 days where nobody came back), a = 1, b = 3: a quarter
-- does not come back after an order. An order's value is the user's mean with two of the population's mean added.
-- Spend = 365 days * alive * rate * value: as if nobody left on the way, so its order counts and not its amount.
-- The next purchase is due one usual gap (with two of the population's added) after the last; who is overdue may come any
-- day. Nothing is said of those who are alive with less than one half.
WITH orders AS (
    SELECT
        e.uid,
        CASE WHEN e.order_id <> '' THEN e.order_id ELSE e.event_id END AS order_key,
        e.source,
        MIN(e.time_us) AS time_us,
        MAX(CAST(ROUND(1000e0 * e.weight) AS BIGINT)) AS counts,
        SUM(CAST(ROUND(e.weight * e.value_micros) AS BIGINT)) AS spend
    FROM events AS e
    CROSS JOIN params AS p
    WHERE e.kind = 'purchase' AND p.now_us - e.time_us <= 31536000000000
    GROUP BY e.uid, CASE WHEN e.order_id <> '' THEN e.order_id ELSE e.event_id END, e.source
),

buyers AS (
    SELECT
        uid,
        MIN(time_us) AS first_us,
        MAX(time_us) AS last_us,
        SUM(counts) AS counts,
        SUM(spend) AS spend
    FROM orders
    GROUP BY uid
),

everybody AS (
    SELECT
        COALESCE(
            CAST(FLOOR(1000e0 * SUM(last_us - first_us) / NULLIF(SUM(GREATEST(counts - 1000, 0)), 0)) AS BIGINT), 7776000000000
        ) AS gap_us,
        COALESCE(CAST(FLOOR(1000e0 * SUM(spend) / NULLIF(SUM(counts), 0)) AS BIGINT), 0) AS value_micros
    FROM buyers
),

rhythms AS (
    SELECT
        b.uid,
        GREATEST(b.counts - 1000, 0) / 1000e0 AS x,
        GREATEST(v.gap_us, 86400000000) / 86400000000e0 AS alpha,
        (b.last_us - b.first_us) / 86400000000e0 AS t,
        (p.now_us - b.first_us) / 86400000000e0 AS age,
        (p.now_us - b.last_us) / 86400000000e0 AS idle,
        (b.spend + 2e0 * v.value_micros) / NULLIF(b.counts / 1000e0 + 2e0, 0e0) AS value_micros
    FROM buyers AS b
    CROSS JOIN everybody AS v
    CROSS JOIN params AS p
),

chances AS (
    SELECT
        uid,
        idle,
        (t + 2e0 * alpha) / NULLIF(x + 2e0, 0e0) AS gap,
        (1e0 + x) / NULLIF(alpha + age, 0e0) * value_micros AS value_a_day,
        1e0 / NULLIF(
            1e0 + EXP(LEAST(700e0, (1e0 + x) * LN((alpha + age) / NULLIF(alpha + t, 0e0)))) / NULLIF(3e0 + x, 0e0), 0e0
        ) AS alive
    FROM rhythms
),

worth AS (
    SELECT uid, CAST(ROUND(365e0 * alive * value_a_day) AS BIGINT) AS ltv_micros
    FROM chances
),

placed AS (
    SELECT
        uid,
        2 * RANK() OVER (ORDER BY ltv_micros ASC NULLS FIRST) - 2 + COUNT(*) OVER (PARTITION BY ltv_micros) AS twice_place,
        COUNT(*) OVER () AS n
    FROM worth
),

found AS (
    SELECT
        uid,
        CONCAT('value.ltv.', CAST(1 + CAST(FLOOR(5e0 * twice_place / NULLIF(2 * n, 0)) AS INT) AS VARCHAR)) AS name
    FROM placed
    UNION ALL
    SELECT
        uid,
        CASE
            WHEN gap - idle <= 7e0 THEN 'next_purchase.7d'
            WHEN gap - idle <= 30e0 THEN 'next_purchase.30d'
            WHEN gap - idle <= 90e0 THEN 'next_purchase.90d'
            ELSE 'next_purchase.later'
        END AS name
    FROM chances
    WHERE alive >= 0.5e0
)

SELECT f.uid, t.tag, 100 AS score, CAST(FLOOR(b.last_us / 86400000000e0) AS INT) AS as_of_day
FROM found AS f
INNER JOIN taxonomy AS t ON t.name = f.name
INNER JOIN buyers AS b ON f.uid = b.uid
