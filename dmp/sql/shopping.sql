-- Shopping habits, decayed and scored by percentile. Cart abandoners: carts a day old or more, in categories in which
-- their user has bought nothing since the last of them. Repeat buyers: two orders or more.
WITH baskets AS (
    SELECT
        e.uid,
        e.category,
        MAX(CASE WHEN e.kind = 'cart' THEN e.time_us END) AS cart_us,
        MAX(CASE WHEN e.kind = 'purchase' THEN e.time_us END) AS bought_us
    FROM events AS e
    WHERE e.kind IN ('cart', 'purchase')
    GROUP BY e.uid, e.category
),

orders AS (
    SELECT
        e.uid,
        CASE WHEN e.order_id <> '' THEN e.order_id ELSE e.event_id END AS order_key,
        e.source,
        MAX(e.time_us) AS time_us,
        MAX(CAST(ROUND(1000e0 * e.weight) AS BIGINT)) AS counts
    FROM events AS e
    WHERE e.kind = 'purchase'
    GROUP BY e.uid, CASE WHEN e.order_id <> '' THEN e.order_id ELSE e.event_id END, e.source
),

acts AS (
    SELECT e.uid, 'habit.shopping.cart_abandoner' AS name, e.time_us, CAST(ROUND(1000e0 * e.weight) AS BIGINT) AS counts
    FROM events AS e
    INNER JOIN baskets AS b ON e.uid = b.uid AND e.category = b.category
    CROSS JOIN params AS p
    WHERE e.kind = 'cart' AND COALESCE(b.bought_us, -1) < b.cart_us AND p.now_us - e.time_us >= 86400000000
    UNION ALL
    SELECT o.uid, 'habit.shopping.repeat_buyer' AS name, o.time_us, o.counts
    FROM orders AS o
),

sums AS (
    SELECT
        a.uid,
        t.tag,
        t.name,
        SUM(CAST(ROUND(
            1000000e0 * a.counts * EXP(-0.6931471805599453e0 * (p.now_us - a.time_us) / NULLIF(t.half_life_us, 0))
        ) AS BIGINT)) AS weight,
        SUM(a.counts) AS counts,
        MAX(a.time_us) AS last_us
    FROM acts AS a
    INNER JOIN taxonomy AS t ON t.name = a.name
    CROSS JOIN params AS p
    WHERE p.now_us - a.time_us <= t.ttl_us
    GROUP BY a.uid, t.tag, t.name
),

ranked AS (
    SELECT
        uid,
        tag,
        last_us,
        RANK() OVER (PARTITION BY tag ORDER BY weight DESC NULLS LAST) AS place,
        COUNT(*) OVER (PARTITION BY tag) AS n
    FROM sums
    WHERE name = 'habit.shopping.cart_abandoner' OR counts >= 2000
)

SELECT
    uid,
    tag,
    GREATEST(1, CAST(FLOOR(100e0 * (n - place + 1) / NULLIF(n, 0)) AS INT)) AS score,
    CAST(FLOOR(last_us / 86400000000e0) AS INT) AS as_of_day
FROM ranked
