-- Events fit to build profiles from: behaviour with consent for profiling (bit 1), not from the future, each
-- (source, event_id) once; one copy without consent stands for all. Advertising events in the same files are left out.
-- uid, other: the person's, by the table `persons` of `dmp/persons.py`.
WITH usable AS (
    SELECT r.*
    FROM raw_events AS r
    INNER JOIN kinds AS k ON r.kind = k.kind
    CROSS JOIN params AS p
    WHERE k.behaviour AND r.time_us <= p.now_us
),

-- Copies are few: only they are sorted, by all they hold, so that which one stays depends on nothing else.
chosen AS (
    SELECT
        u.*,
        ROW_NUMBER() OVER (
            PARTITION BY u.source, u.event_id
            ORDER BY
                u.consent % 2 ASC NULLS FIRST, u.time_us ASC NULLS FIRST, u.kind ASC NULLS FIRST,
                u.uid ASC NULLS FIRST, u.category ASC NULLS FIRST, u.value_micros ASC NULLS FIRST,
                u.consent ASC NULLS FIRST, u.gender ASC NULLS FIRST, u.birth_year ASC NULLS FIRST,
                u.site ASC NULLS FIRST, u.item ASC NULLS FIRST, u.brand ASC NULLS FIRST, u.device ASC NULLS FIRST,
                u.channel ASC NULLS FIRST, u.region ASC NULLS FIRST, u.query ASC NULLS FIRST,
                u.order_id ASC NULLS FIRST, CAST(ROUND(100e0 * u.lat) AS BIGINT) ASC NULLS FIRST,
                CAST(ROUND(100e0 * u.lon) AS BIGINT) ASC NULLS FIRST, u.due_us ASC NULLS FIRST,
                u.seller ASC NULLS FIRST, u.address ASC NULLS FIRST, u.ip ASC NULLS FIRST, u.ids ASC NULLS FIRST,
                u.other ASC NULLS FIRST,
                u.file ASC NULLS FIRST
        ) AS place
    FROM usable AS u
    INNER JOIN copies AS c ON u.source = c.source AND u.event_id = c.event_id
)

SELECT
    u.kind, COALESCE(m.person, u.uid) AS uid, u.time_us, u.source, u.event_id, u.category, u.value_micros, u.gender,
    u.birth_year, u.site, u.item, u.brand, u.device, u.channel, u.region, u.query, u.order_id, u.lat, u.lon, u.due_us,
    u.seller, u.address, u.ip, COALESCE(o.person, u.other) AS other
FROM usable AS u
LEFT JOIN copies AS c ON u.source = c.source AND u.event_id = c.event_id
LEFT JOIN persons AS m ON u.uid = m.uid
LEFT JOIN persons AS o ON u.other = o.uid
WHERE c.event_id IS NULL AND u.consent % 2 = 1
UNION ALL
SELECT
    u.kind, COALESCE(m.person, u.uid) AS uid, u.time_us, u.source, u.event_id, u.category, u.value_micros, u.gender,
    u.birth_year, u.site, u.item, u.brand, u.device, u.channel, u.region, u.query, u.order_id, u.lat, u.lon, u.due_us,
    u.seller, u.address, u.ip, COALESCE(o.person, u.other) AS other
FROM chosen AS u
LEFT JOIN persons AS m ON u.uid = m.uid
LEFT JOIN persons AS o ON u.other = o.uid
WHERE u.place = 1 AND u.consent % 2 = 1
