-- Dates that events carry: a contract's end (from customer records and conversions) within 30 or 90 days, and the
-- replacement of what was bought (from purchases) due within 30 days or overdue for 60 at most. Per category the youngest
-- event tells, so that a contract renewed or a product replaced is not due.
WITH told AS (
    SELECT
        e.uid,
        e.time_us,
        e.due_us,
        CASE WHEN e.kind = 'purchase' THEN 1 ELSE 0 END AS bought,
        ROW_NUMBER() OVER (
            PARTITION BY e.uid, e.category, CASE WHEN e.kind = 'purchase' THEN 1 ELSE 0 END
            ORDER BY e.time_us DESC NULLS LAST, e.due_us DESC NULLS LAST, e.source ASC NULLS LAST, e.event_id ASC NULLS LAST
        ) AS place
    FROM events AS e
    WHERE e.kind = 'purchase' OR (e.kind IN ('crm', 'conversion') AND e.due_us > 0)
),

found AS (
    SELECT
        d.uid,
        d.time_us,
        CASE
            WHEN d.bought = 1 AND d.due_us - p.now_us BETWEEN -5184000000000 AND 2592000000000 THEN 'contract.replacement_due'
            WHEN d.bought = 0 AND d.due_us - p.now_us BETWEEN 0 AND 2592000000000 THEN 'contract.ends_30d'
            WHEN d.bought = 0 AND d.due_us - p.now_us BETWEEN 0 AND 7776000000000 THEN 'contract.ends_90d'
        END AS name
    FROM told AS d
    CROSS JOIN params AS p
    WHERE d.place = 1 AND d.due_us > 0
)

SELECT f.uid, t.tag, 100 AS score, CAST(FLOOR(MAX(f.time_us) / 86400000000e0) AS INT) AS as_of_day
FROM found AS f
INNER JOIN taxonomy AS t ON t.name = f.name
GROUP BY f.uid, t.tag
