-- What people bought within 180 days, by tag, and the day of the last time. A purchase that is more likely fake than not
-- (weight below 1/2) is none.
SELECT e.uid, l.tag, CAST(FLOOR(MAX(e.time_us) / 86400000000e0) AS INT) AS day
FROM events AS e
INNER JOIN labels AS l ON e.category = l.label
CROSS JOIN params AS p
WHERE e.kind = 'purchase' AND e.weight >= 0.5e0 AND p.now_us - e.time_us <= 15552000000000
GROUP BY e.uid, l.tag
ORDER BY e.uid ASC NULLS FIRST, l.tag ASC NULLS FIRST
