-- Active hours and weekdays, in local time: that of the event's region where it is known, else `params.offset_us`;
-- standard time all year. From five weighted acts on, a part of the day or a weekday in which a user does more than if
-- all hours were alike has as its score the share, in per cent, of the user's acts, decayed with 30 days half-life.
-- Rhythm: workdays from 90 % of them on Monday to Friday, weekends from 60 % on the other days.
WITH local_acts AS (
    SELECT
        e.uid,
        e.time_us,
        e.time_us + COALESCE(r.offset_us, p.offset_us) AS local_us,
        CAST(ROUND(1000e0 * e.weight) AS BIGINT) AS counts,
        CAST(ROUND(
            1000000000e0 * e.weight * EXP(-0.6931471805599453e0 * (p.now_us - e.time_us) / 2592000000000e0)
        ) AS BIGINT) AS weight
    FROM events AS e
    LEFT JOIN regions AS r ON e.region = r.label
    CROSS JOIN params AS p
    WHERE e.kind <> 'crm' AND p.now_us - e.time_us <= 7776000000000
),

hours AS (
    SELECT
        a.uid,
        CAST(FLOOR(a.local_us / 3600000000e0) AS BIGINT) % 24 AS hour,
        (CAST(FLOOR(a.local_us / 86400000000e0) AS BIGINT) + 3) % 7 AS weekday,
        SUM(a.counts) AS counts,
        SUM(a.weight) AS weight,
        MAX(a.time_us) AS last_us
    FROM local_acts AS a
    GROUP BY
        a.uid,
        CAST(FLOOR(a.local_us / 3600000000e0) AS BIGINT) % 24,
        (CAST(FLOOR(a.local_us / 86400000000e0) AS BIGINT) + 3) % 7
),

users AS (
    SELECT
        uid,
        SUM(weight) AS weight,
        SUM(CASE WHEN weekday >= 5 THEN weight ELSE 0 END) AS weekend,
        MAX(last_us) AS last_us
    FROM hours
    GROUP BY uid
    HAVING SUM(counts) >= 5000
),

parts AS (
    SELECT
        uid,
        CASE
            WHEN hour < 5 OR hour >= 23 THEN 'time.daypart.night'
            WHEN hour < 8 THEN 'time.daypart.early_morning'
            WHEN hour < 11 THEN 'time.daypart.morning'
            WHEN hour < 14 THEN 'time.daypart.noon'
            WHEN hour < 17 THEN 'time.daypart.afternoon'
            WHEN hour < 20 THEN 'time.daypart.early_evening'
            ELSE 'time.daypart.evening'
        END AS name,
        CASE WHEN hour < 5 OR hour >= 23 THEN 6 ELSE 3 END AS expected,
        24 AS cycle,
        weight,
        last_us
    FROM hours
    UNION ALL
    SELECT
        uid,
        CASE weekday
            WHEN 0 THEN 'time.weekday.monday'
            WHEN 1 THEN 'time.weekday.tuesday'
            WHEN 2 THEN 'time.weekday.wednesday'
            WHEN 3 THEN 'time.weekday.thursday'
            WHEN 4 THEN 'time.weekday.friday'
            WHEN 5 THEN 'time.weekday.saturday'
            ELSE 'time.weekday.sunday'
        END AS name,
        1 AS expected,
        7 AS cycle,
        weight,
        last_us
    FROM hours
),

sums AS (
    SELECT uid, name, expected, cycle, SUM(weight) AS weight, MAX(last_us) AS last_us
    FROM parts
    GROUP BY uid, name, expected, cycle
),

found AS (
    SELECT
        s.uid,
        s.name,
        CAST(FLOOR(100e0 * s.weight / NULLIF(u.weight, 0)) AS INT) AS score,
        s.last_us
    FROM sums AS s
    INNER JOIN users AS u ON s.uid = u.uid
    WHERE s.weight * s.cycle > u.weight * s.expected
    UNION ALL
    SELECT
        uid,
        CASE
            WHEN 10 * weekend >= 6 * weight THEN 'time.rhythm.weekends'
            WHEN 10 * weekend <= weight THEN 'time.rhythm.workdays'
            ELSE 'time.rhythm.all_week'
        END AS name,
        100 AS score,
        last_us
    FROM users
)

SELECT f.uid, t.tag, f.score, CAST(FLOOR(f.last_us / 86400000000e0) AS INT) AS as_of_day
FROM found AS f
INNER JOIN taxonomy AS t ON t.name = f.name
