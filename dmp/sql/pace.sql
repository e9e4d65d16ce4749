-- How fast and how evenly each user acts, per UTC day of at least 20 acts. Moments, not events, are counted: a log that
-- knows only the day or the second puts many events in one moment, which says nothing about speed.
WITH busy AS (
    SELECT uid, CAST(FLOOR(time_us / 86400000000e0) AS BIGINT) AS day
    FROM cleaned
    WHERE kind <> 'crm'
    GROUP BY uid, CAST(FLOOR(time_us / 86400000000e0) AS BIGINT)
    HAVING COUNT(*) >= 20
),

moments AS (
    SELECT DISTINCT c.uid, b.day, c.time_us
    FROM cleaned AS c
    INNER JOIN busy AS b ON c.uid = b.uid AND CAST(FLOOR(c.time_us / 86400000000e0) AS BIGINT) = b.day
    WHERE c.kind <> 'crm'
),

gaps AS (
    SELECT
        uid, day, time_us,
        CAST(FLOOR(time_us / 600000000e0) AS BIGINT) AS tile,
        CAST(ROUND((time_us - LAG(time_us) OVER (PARTITION BY uid, day ORDER BY time_us ASC NULLS FIRST)) / 1000000e0) AS BIGINT) AS gap_s
    FROM moments
),

tiles AS (SELECT uid, day, tile, COUNT(*) AS n FROM gaps GROUP BY uid, day, tile),

same AS (SELECT uid, day, gap_s, COUNT(*) AS n FROM gaps WHERE gap_s > 0 GROUP BY uid, day, gap_s),

days AS (
    SELECT uid, day, COUNT(*) AS moments, COUNT(DISTINCT FLOOR(time_us / 3600000000e0)) AS hours
    FROM gaps
    GROUP BY uid, day
),

fastest AS (SELECT uid, day, MAX(n) AS in_ten_minutes FROM tiles GROUP BY uid, day),

evenest AS (SELECT uid, day, MAX(n) AS same_gap, CAST(SUM(n) AS BIGINT) AS gaps FROM same GROUP BY uid, day)

SELECT d.uid, d.day, d.moments, d.hours, f.in_ten_minutes, COALESCE(e.same_gap, 0) AS same_gap, COALESCE(e.gaps, 0) AS gaps
FROM days AS d
INNER JOIN fastest AS f ON d.uid = f.uid AND d.day = f.day
LEFT JOIN evenest AS e ON d.uid = e.uid AND d.day = e.day
WHERE d.moments >= 20
