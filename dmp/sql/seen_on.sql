-- The last day each user acted on.
SELECT uid, CAST(FLOOR(MAX(time_us) / 86400000000e0) AS INT) AS day
FROM events
GROUP BY uid
