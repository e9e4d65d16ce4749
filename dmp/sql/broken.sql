-- What is wrong with the event files, one row a file and fault; no row when every record can be used or left out.
WITH faults AS (
    SELECT
        r.file,
        CASE
            WHEN r.event_id IS NULL OR r.event_id = '' THEN 'no event_id'
            WHEN r.kind IS NULL THEN 'no kind'
            WHEN k.kind IS NULL THEN CONCAT('the unknown kind ', r.kind)
            WHEN r.time_us IS NULL THEN 'no time_us'
            WHEN r.time_us < 0 THEN 'a time_us before 1970'
            WHEN r.consent IS NULL THEN 'no consent flags'
            WHEN k.behaviour AND (r.uid IS NULL OR OCTET_LENGTH(r.uid) <> 16) THEN 'a uid that is no 16-byte pseudonym'
            WHEN k.behaviour AND OCTET_LENGTH(r.other) NOT IN (0, 16) THEN 'an other that is no 16-byte pseudonym'
            WHEN k.behaviour AND OCTET_LENGTH(r.ids) % 17 <> 0 THEN 'ids that are no list of types and pseudonyms'
        END AS what
    FROM raw_events AS r
    LEFT JOIN kinds AS k ON r.kind = k.kind
)

SELECT file, what, COUNT(*) AS n
FROM faults
WHERE what IS NOT NULL
GROUP BY file, what
ORDER BY file ASC NULLS FIRST, what ASC NULLS FIRST
LIMIT 10
