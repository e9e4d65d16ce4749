-- The yardstick of `loadtest/micro_dmp_tags.py`: interest, RFM and sessions of the same event file as somebody would
-- write them for DuckDB alone, with FILTER, IF and ANTI JOIN and no thought of another engine. `{file}` and `{now_us}`
-- are filled in, and the table `hand_labels` (label, tag, half_life_days, ttl_days) is there.
CREATE TABLE hand_events AS
WITH usable AS (
    SELECT uid, kind, time_us, category, value_micros, consent, source, event_id
    FROM read_parquet('{file}')
    WHERE time_us <= {now_us}
        AND kind IN ('view', 'search', 'cart', 'purchase', 'install', 'location', 'app_use', 'crm', 'conversion')
),
copies AS MATERIALIZED (
    SELECT source, event_id FROM usable GROUP BY source, event_id HAVING COUNT(*) > 1
)
SELECT uid, kind, time_us, category, value_micros
FROM usable ANTI JOIN copies USING (source, event_id)
WHERE consent % 2 = 1
UNION ALL
SELECT ANY_VALUE(uid), ANY_VALUE(kind), ANY_VALUE(time_us), ANY_VALUE(category), ANY_VALUE(value_micros)
FROM usable JOIN copies USING (source, event_id)
GROUP BY source, event_id
HAVING MIN(consent % 2) = 1;

CREATE TABLE hand_interest AS
WITH affinity AS (
    SELECT
        uid, tag,
        SUM(CASE kind WHEN 'view' THEN 1 WHEN 'search' THEN 3 WHEN 'cart' THEN 5 WHEN 'purchase' THEN 8 ELSE 1 END
            * POW(0.5, ({now_us} - time_us) / (half_life_days * 86400e6))) AS weight,
        MAX(time_us) AS last_us
    FROM hand_events JOIN hand_labels ON category = label
    WHERE kind <> 'crm' AND {now_us} - time_us <= ttl_days * 86400000000
    GROUP BY uid, tag
)
SELECT
    uid, tag,
    GREATEST(1, FLOOR(100 * (COUNT(*) OVER same - RANK() OVER (same ORDER BY weight DESC) + 1) / COUNT(*) OVER same))::INT
        AS score,
    last_us // 86400000000 AS as_of_day
FROM affinity
WINDOW same AS (PARTITION BY tag);

CREATE TABLE hand_rfm AS
WITH habits AS (
    SELECT
        uid, MAX(time_us) AS last_us, COUNT(*) AS acts,
        SUM(value_micros) FILTER (kind = 'purchase') AS spend
    FROM hand_events
    WHERE kind <> 'crm'
    GROUP BY uid
)
SELECT
    uid, last_us,
    NTILE(5) OVER (ORDER BY last_us) AS recency,
    NTILE(5) OVER (ORDER BY acts) AS frequency,
    IF(spend > 0, NTILE(5) OVER (PARTITION BY spend > 0 ORDER BY spend), NULL) AS monetary
FROM habits;

CREATE TABLE hand_sessions AS
WITH steps AS (
    SELECT uid, time_us, LAG(time_us) OVER (PARTITION BY uid ORDER BY time_us) AS before_us
    FROM hand_events
    WHERE kind <> 'crm'
)
SELECT
    uid, MAX(time_us) AS last_us, COUNT(*) AS acts,
    COUNT(*) FILTER (before_us IS NULL OR time_us - before_us > 1800000000) AS sessions,
    COUNT(*) FILTER (
        time_us > {now_us} - 28 * 86400000000
        AND (before_us IS NULL OR time_us // 86400000000 > before_us // 86400000000)
    ) AS days
FROM steps
GROUP BY uid
