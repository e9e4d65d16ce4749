-- Where people live, work and go, from the last 90 days. A place is the event's region, else its degrees to a tenth
-- (about 11 km). Home: the place of most nights (local 21 to 7 h), three at least; work: of most workdays (Monday to
-- Friday, 9 to 18 h), three at least; ties by acts, then by name. Local time as for active hours (`time.sql`).
--   commuter      home and work are two places
--   local         all days but one in twenty of the last 28 were at home only
--   tourist       the last three days with an act were all away from home
--   cross_border  seen in two countries or more
WITH seen AS (
    SELECT
        e.uid,
        CASE
            WHEN e.region <> '' THEN COALESCE(r.code, e.region)
            ELSE CONCAT(
                CAST(CAST(FLOOR(10e0 * e.lat) AS BIGINT) AS VARCHAR), ' ', CAST(CAST(FLOOR(10e0 * e.lon) AS BIGINT) AS VARCHAR)
            )
        END AS place,
        r.country,
        e.time_us,
        CAST(FLOOR((e.time_us + COALESCE(r.offset_us, p.offset_us)) / 3600000000e0) AS BIGINT) AS hour
    FROM events AS e
    LEFT JOIN regions AS r ON e.region = r.label
    CROSS JOIN params AS p
    WHERE (e.region <> '' OR (e.lat IS NOT NULL AND e.lon IS NOT NULL)) AND e.kind <> 'crm'
        AND p.now_us - e.time_us <= 7776000000000
),

-- A night belongs to the day it began on; the morning's hours to the day before.
parts AS (
    SELECT
        uid,
        place,
        CASE
            WHEN hour % 24 >= 21 OR hour % 24 < 7 THEN 'home'
            WHEN hour % 24 >= 9 AND hour % 24 < 18 AND (CAST(FLOOR(hour / 24e0) AS BIGINT) + 3) % 7 < 5 THEN 'work'
            ELSE ''
        END AS part,
        CAST(FLOOR((hour - 7) / 24e0) AS BIGINT) AS day,
        COUNT(*) AS acts
    FROM seen
    GROUP BY
        uid,
        place,
        CASE
            WHEN hour % 24 >= 21 OR hour % 24 < 7 THEN 'home'
            WHEN hour % 24 >= 9 AND hour % 24 < 18 AND (CAST(FLOOR(hour / 24e0) AS BIGINT) + 3) % 7 < 5 THEN 'work'
            ELSE ''
        END,
        CAST(FLOOR((hour - 7) / 24e0) AS BIGINT)
),

stays AS (
    SELECT uid, part, place, COUNT(*) AS days, SUM(acts) AS acts
    FROM parts
    WHERE part <> ''
    GROUP BY uid, part, place
),

ranked AS (
    SELECT
        uid,
        part,
        place,
        days,
        ROW_NUMBER() OVER (
            PARTITION BY uid, part ORDER BY days DESC NULLS LAST, acts DESC NULLS LAST, place ASC NULLS LAST
        ) AS rank
    FROM stays
),

places AS (
    SELECT DISTINCT code, home
    FROM regions
),

homes AS (
    SELECT k.uid, k.place, COALESCE(r.home, '') AS home, r.code
    FROM ranked AS k
    LEFT JOIN places AS r ON k.place = r.code
    WHERE k.part = 'home' AND k.rank = 1 AND k.days >= 3
),

works AS (
    SELECT k.uid, k.place, r.code
    FROM ranked AS k
    LEFT JOIN places AS r ON k.place = r.code
    WHERE k.part = 'work' AND k.rank = 1 AND k.days >= 3
),

-- Days with an act, and whether any of it was at home or elsewhere.
outings AS (
    SELECT
        q.uid,
        q.day,
        MAX(CASE WHEN q.place = h.place THEN 1 ELSE 0 END) AS at_home,
        MAX(CASE WHEN q.place <> h.place THEN 1 ELSE 0 END) AS away
    FROM parts AS q
    INNER JOIN homes AS h ON q.uid = h.uid
    GROUP BY q.uid, q.day
),

numbered AS (
    SELECT
        uid,
        day,
        at_home,
        away,
        ROW_NUMBER() OVER (PARTITION BY uid ORDER BY day DESC NULLS LAST) AS back
    FROM outings
),

moves AS (
    SELECT
        n.uid,
        SUM(CASE WHEN n.back <= 3 AND n.at_home = 0 THEN 1 ELSE 0 END) AS last_away,
        SUM(CASE WHEN n.day > p.day - 28 THEN 1 ELSE 0 END) AS days,
        SUM(CASE WHEN n.day > p.day - 28 AND n.away = 0 THEN 1 ELSE 0 END) AS home_days
    FROM numbered AS n
    CROSS JOIN params AS p
    GROUP BY n.uid
),

countries AS (
    SELECT uid
    FROM seen
    GROUP BY uid
    HAVING COUNT(DISTINCT country) >= 2
),

found AS (
    SELECT uid, home AS name
    FROM homes
    UNION ALL
    SELECT
        h.uid,
        CASE WHEN h.code = w.code THEN 'location.work.same_region' ELSE 'location.work.other_region' END AS name
    FROM homes AS h
    INNER JOIN works AS w ON h.uid = w.uid
    WHERE h.code IS NOT NULL AND w.code IS NOT NULL
    UNION ALL
    SELECT h.uid, 'location.mobility.commuter' AS name
    FROM homes AS h
    INNER JOIN works AS w ON h.uid = w.uid
    WHERE h.place <> w.place
    UNION ALL
    SELECT
        uid,
        CASE
            WHEN last_away = 3 THEN 'location.mobility.tourist'
            WHEN days >= 3 AND 20 * home_days >= 19 * days THEN 'location.mobility.local'
            ELSE ''
        END AS name
    FROM moves
    UNION ALL
    SELECT uid, 'location.mobility.cross_border' AS name
    FROM countries
),

lasts AS (
    SELECT uid, MAX(time_us) AS last_us
    FROM seen
    GROUP BY uid
)

SELECT f.uid, t.tag, 100 AS score, CAST(FLOOR(l.last_us / 86400000000e0) AS INT) AS as_of_day
FROM found AS f
INNER JOIN taxonomy AS t ON t.name = f.name
INNER JOIN lasts AS l ON f.uid = l.uid
