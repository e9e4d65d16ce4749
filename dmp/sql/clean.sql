-- Events fit to build profiles from: behaviour with consent for profiling (bit 1), not from the future, each
-- (source, event_id) once; one copy without consent stands for all. Advertising events in the same files are left out.
-- uid: the person's, by the table `persons` of `dmp/persons.py`.
SELECT
    kind, COALESCE(p.person, numbered.uid) AS uid, time_us, source, event_id, category, value_micros, gender, birth_year, site, item, brand, device, channel,
    region, query, order_id, lat, lon, due_us, seller, address, ip
FROM (
    SELECT
        r.*,
        ROW_NUMBER() OVER (
            PARTITION BY r.source, r.event_id
            ORDER BY r.consent % 2 ASC NULLS FIRST, r.time_us ASC NULLS FIRST, r.kind ASC NULLS FIRST, r.uid ASC NULLS FIRST, r.category ASC NULLS FIRST
        ) AS copy
    FROM raw_events AS r
    INNER JOIN kinds AS k ON r.kind = k.kind
    WHERE k.behaviour AND r.time_us <= (SELECT MAX(now_us) FROM params)
) AS numbered
LEFT JOIN persons AS p ON numbered.uid = p.uid
WHERE copy = 1 AND consent % 2 = 1
