-- Purchases as `dmp/brushing.py` judges them: with how often the buyer had looked around in the seven days before, and
-- since when the buyer is known.
WITH acts AS (
    SELECT
        c.source, c.event_id, c.kind, c.uid, c.time_us, c.seller, c.item, c.value_micros, c.address, c.ip,
        SUM(CASE WHEN c.kind IN ('view', 'search', 'cart') THEN 1 ELSE 0 END) OVER (
            PARTITION BY c.uid
            ORDER BY c.time_us ASC NULLS FIRST
            RANGE BETWEEN 604800000000 PRECEDING AND CURRENT ROW
        ) AS browsed,
        MIN(c.time_us) OVER (PARTITION BY c.uid) AS first_us
    FROM cleaned AS c
    INNER JOIN (SELECT DISTINCT uid FROM cleaned WHERE kind = 'purchase') AS b ON c.uid = b.uid
)

SELECT source, event_id, uid, time_us, seller, item, value_micros, address, ip, browsed, first_us
FROM acts
WHERE kind = 'purchase'
ORDER BY uid ASC NULLS FIRST, time_us ASC NULLS FIRST, source ASC NULLS FIRST, event_id ASC NULLS FIRST
