-- The clean events with what they count for: the least that a weigher of `dmp/families.py` says of them, else 1.
-- Events of weight 0 are left out.
WITH said AS (
    SELECT source, event_id, MIN(weight) AS weight
    FROM weights
    GROUP BY source, event_id
)

SELECT c.*, COALESCE(s.weight, 1e0) AS weight
FROM cleaned AS c
LEFT JOIN said AS s ON c.source = s.source AND c.event_id = s.event_id
WHERE COALESCE(s.weight, 1e0) > 0e0
