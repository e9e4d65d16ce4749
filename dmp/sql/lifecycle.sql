-- Life-cycle stage and churn risk at the build, from each user's days with an act. The usual gap between such days is the
-- user's own mean, with two gaps of the population's mean added, so that few days do not say much.
--   lost       idle for more than 90 days, or for more than 30 and four usual gaps
--   new        seen first within the last 14 days
--   declining  less than half of the weighted acts (4 or more) of days 29-56 ago came in the last 28; or idle for more
--              than 14 days, and two usual gaps or after a single day
--   growing    at least 1.5 times as many in the last 28 days as in the 28 before
--   mature     else
-- Of those who were not there for 180 days nothing is said any more.
-- Churn risk: low while idle for one usual gap at most, medium to three, then high; its score is the share of users with
-- this rhythm who would have been back by now, 1 - exp(-idle / gap), in per cent.
WITH days AS (
    SELECT
        e.uid,
        CAST(FLOOR(e.time_us / 86400000000e0) AS BIGINT) AS day,
        SUM(CAST(ROUND(1000e0 * e.weight) AS BIGINT)) AS acts
    FROM events AS e
    WHERE e.kind <> 'crm'
    GROUP BY e.uid, CAST(FLOOR(e.time_us / 86400000000e0) AS BIGINT)
),

users AS (
    SELECT
        d.uid,
        MIN(d.day) AS first_day,
        MAX(d.day) AS last_day,
        COUNT(*) - 1 AS gaps,
        SUM(CASE WHEN d.day > p.day - 28 THEN d.acts ELSE 0 END) AS recent,
        SUM(CASE WHEN d.day <= p.day - 28 AND d.day > p.day - 56 THEN d.acts ELSE 0 END) AS earlier
    FROM days AS d
    CROSS JOIN params AS p
    GROUP BY d.uid
),

everybody AS (
    SELECT COALESCE(CAST(FLOOR(1000e0 * SUM(last_day - first_day) / NULLIF(SUM(gaps), 0)) AS BIGINT), 7000) AS gap_milli
    FROM users
),

rhythms AS (
    SELECT
        u.uid,
        u.gaps,
        u.recent,
        u.earlier,
        u.last_day,
        p.day - u.first_day AS age,
        p.day - u.last_day AS idle,
        GREATEST(1, CAST(FLOOR(
            (1000 * (u.last_day - u.first_day) + 2 * v.gap_milli) / NULLIF(CAST(u.gaps + 2 AS DOUBLE), 0e0)
        ) AS BIGINT)) AS gap_milli
    FROM users AS u
    CROSS JOIN everybody AS v
    CROSS JOIN params AS p
),

found AS (
    SELECT
        uid,
        CASE
            WHEN idle > 90 OR (idle > 30 AND 1000 * idle > 4 * gap_milli) THEN 'lifecycle.lost'
            WHEN age < 14 THEN 'lifecycle.new'
            WHEN (earlier >= 4000 AND 2 * recent < earlier) OR (idle > 14 AND (gaps = 0 OR 1000 * idle > 2 * gap_milli))
                THEN 'lifecycle.declining'
            WHEN 2 * recent >= 3 * earlier THEN 'lifecycle.growing'
            ELSE 'lifecycle.mature'
        END AS name,
        100 AS score,
        last_day
    FROM rhythms
    WHERE idle <= 180
    UNION ALL
    SELECT
        uid,
        CASE
            WHEN 1000 * idle <= gap_milli THEN 'churn.low'
            WHEN 1000 * idle <= 3 * gap_milli THEN 'churn.medium'
            ELSE 'churn.high'
        END AS name,
        GREATEST(1, CAST(FLOOR(100e0 * (1e0 - EXP(-1000e0 * idle / NULLIF(gap_milli, 0)))) AS INT)) AS score,
        last_day
    FROM rhythms
    WHERE idle <= 180
)

SELECT f.uid, t.tag, f.score, CAST(f.last_day AS INT) AS as_of_day
FROM found AS f
INNER JOIN taxonomy AS t ON t.name = f.name
