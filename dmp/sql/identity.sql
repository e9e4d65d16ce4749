-- Ids that behaviour with consent for profiling (bit 1) told of one person, and when; never from ads, the future, or an
-- event of which one copy lacks consent.
WITH told AS (
    SELECT r.source, r.event_id, MIN(r.consent % 2) AS agreed, MAX(r.ids) AS ids, MIN(r.time_us) AS time_us
    FROM raw_events AS r
    INNER JOIN kinds AS k ON r.kind = k.kind
    CROSS JOIN params AS p
    WHERE k.behaviour AND r.time_us <= p.now_us
    GROUP BY r.source, r.event_id
)

SELECT ids, MIN(time_us) AS first_us, MAX(time_us) AS last_us
FROM told
WHERE agreed = 1 AND OCTET_LENGTH(ids) > 17
GROUP BY ids
