-- Events fit to build profiles from: consent for profiling (bit 1), not from the future, each (source, event_id) once.
SELECT kind, uid, time_us, category, value_micros, gender, birth_year
FROM (
    SELECT
        kind, uid, time_us, category, value_micros, gender, birth_year, consent,
        ROW_NUMBER() OVER (PARTITION BY source, event_id ORDER BY time_us ASC, kind ASC, uid ASC) AS copy
    FROM raw_events
    WHERE time_us <= (SELECT MAX(now_us) FROM params)
) AS numbered
WHERE copy = 1 AND consent % 2 = 1
