-- How much each person likes each tag: ln(1 + decayed sum of weighted acts), the raw score of `interest.sql`.
-- Sums are of whole billionths, so that the order of adding changes nothing.
SELECT
    e.uid,
    l.tag,
    LN(1e0 + SUM(CAST(ROUND(
        1000000000e0 * l.share * e.weight
        * CASE e.kind WHEN 'view' THEN 1e0 WHEN 'search' THEN 3e0 WHEN 'cart' THEN 5e0 WHEN 'purchase' THEN 8e0 ELSE 1e0 END
        * EXP(-0.6931471805599453e0 * (p.now_us - e.time_us) / NULLIF(l.half_life_us, 0))
    ) AS BIGINT)) / 1000000000e0) AS weight
FROM events AS e
INNER JOIN labels AS l ON e.category = l.label
CROSS JOIN params AS p
WHERE e.kind <> 'crm' AND l.half_life_us > 0 AND p.now_us - e.time_us <= l.ttl_us
GROUP BY e.uid, l.tag
ORDER BY e.uid ASC NULLS FIRST, l.tag ASC NULLS FIRST
