-- Age bracket and gender from customer records; the youngest record that states one wins.
-- Age is the current year less the year of birth; minors get no age tag (P-32).
WITH stated AS (
    SELECT
        uid, gender, birth_year, time_us,
        ROW_NUMBER() OVER (
            PARTITION BY uid
            ORDER BY CASE WHEN gender IN ('m', 'f') THEN 0 ELSE 1 END ASC NULLS LAST, time_us DESC NULLS LAST,
                gender ASC NULLS LAST, source ASC NULLS LAST, event_id ASC NULLS LAST
        ) AS gender_place,
        ROW_NUMBER() OVER (
            PARTITION BY uid
            ORDER BY CASE WHEN birth_year > 0 THEN 0 ELSE 1 END ASC NULLS LAST, time_us DESC NULLS LAST,
                birth_year ASC NULLS LAST, source ASC NULLS LAST, event_id ASC NULLS LAST
        ) AS birth_place
    FROM events
    WHERE kind = 'crm'
),

facts AS (
    SELECT
        uid, time_us,
        CASE gender WHEN 'm' THEN 'demographic.gender.male' WHEN 'f' THEN 'demographic.gender.female' END AS name
    FROM stated
    WHERE gender_place = 1
    UNION ALL
    SELECT
        s.uid, s.time_us,
        CASE
            WHEN p.year - s.birth_year < 18 THEN NULL
            WHEN p.year - s.birth_year < 25 THEN 'demographic.age.18_24'
            WHEN p.year - s.birth_year < 35 THEN 'demographic.age.25_34'
            WHEN p.year - s.birth_year < 45 THEN 'demographic.age.35_44'
            WHEN p.year - s.birth_year < 55 THEN 'demographic.age.45_54'
            WHEN p.year - s.birth_year < 65 THEN 'demographic.age.55_64'
            WHEN p.year - s.birth_year < 120 THEN 'demographic.age.65_plus'
        END AS name
    FROM stated AS s
    CROSS JOIN params AS p
    WHERE s.birth_place = 1 AND s.birth_year > 0
)

SELECT f.uid, t.tag, 100 AS score, CAST(FLOOR(f.time_us / 86400000000e0) AS INT) AS as_of_day
FROM facts AS f
CROSS JOIN params AS p
INNER JOIN taxonomy AS t ON t.name = f.name
WHERE p.now_us - f.time_us <= t.ttl_us
