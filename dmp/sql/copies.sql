-- Records that are there more than once.
SELECT source, event_id
FROM raw_events
GROUP BY source, event_id
HAVING COUNT(*) > 1
