-- Acts on days on which a machine acts in the user's name, with what they count for.
SELECT c.source, c.event_id, m.weight, m.reason
FROM cleaned AS c
INNER JOIN machine_days AS m ON c.uid = m.uid AND CAST(FLOOR(c.time_us / 86400000000e0) AS BIGINT) = m.day
WHERE c.kind <> 'crm'
