-- Value tier of buyers: which of recency, frequency and spend of their orders is in the upper half (the middle of the
-- places of equals counts; Hughes' RFM in its eight classes). An order is an order_id, or an event without one.
-- Orders of the last 365 days.
WITH orders AS (
    SELECT
        e.uid,
        CASE WHEN e.order_id <> '' THEN e.order_id ELSE e.event_id END AS order_key,
        e.source,
        MAX(e.time_us) AS time_us,
        MAX(CAST(ROUND(1000e0 * e.weight) AS BIGINT)) AS counts,
        SUM(CAST(ROUND(e.weight * e.value_micros) AS BIGINT)) AS spend
    FROM events AS e
    CROSS JOIN params AS p
    WHERE e.kind = 'purchase' AND p.now_us - e.time_us <= 31536000000000
    GROUP BY e.uid, CASE WHEN e.order_id <> '' THEN e.order_id ELSE e.event_id END, e.source
),

buyers AS (
    SELECT
        o.uid,
        MAX(o.time_us) AS last_us,
        SUM(o.counts) AS counts,
        SUM(o.spend) AS spend
    FROM orders AS o
    GROUP BY o.uid
),

halves AS (
    SELECT
        b.uid,
        b.last_us,
        CASE
            WHEN 2 * RANK() OVER (ORDER BY CAST(FLOOR(b.last_us / 86400000000e0) AS BIGINT) ASC NULLS FIRST) - 2
                + COUNT(*) OVER (PARTITION BY CAST(FLOOR(b.last_us / 86400000000e0) AS BIGINT)) >= COUNT(*) OVER ()
                THEN 1
            ELSE 0
        END AS recent,
        CASE
            WHEN 2 * RANK() OVER (ORDER BY b.counts ASC NULLS FIRST) - 2
                + COUNT(*) OVER (PARTITION BY b.counts) >= COUNT(*) OVER () THEN 1
            ELSE 0
        END AS frequent,
        CASE
            WHEN 2 * RANK() OVER (ORDER BY b.spend ASC NULLS FIRST) - 2
                + COUNT(*) OVER (PARTITION BY b.spend) >= COUNT(*) OVER () THEN 1
            ELSE 0
        END AS big
    FROM buyers AS b
),

tiers AS (
    SELECT
        uid,
        last_us,
        CASE 100 * recent + 10 * frequent + big
            WHEN 111 THEN 'value.tier.champion'
            WHEN 101 THEN 'value.tier.develop'
            WHEN 11 THEN 'value.tier.keep'
            WHEN 1 THEN 'value.tier.win_back'
            WHEN 110 THEN 'value.tier.regular'
            WHEN 100 THEN 'value.tier.fresh'
            WHEN 10 THEN 'value.tier.fading'
            ELSE 'value.tier.hibernating'
        END AS name
    FROM halves
)

SELECT x.uid, t.tag, 100 AS score, CAST(FLOOR(x.last_us / 86400000000e0) AS INT) AS as_of_day
FROM tiers AS x
INNER JOIN taxonomy AS t ON t.name = x.name
