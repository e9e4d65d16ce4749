-- The tags that stay.
SELECT g.uid, g.tag, g.score, g.as_of_day, g.source
FROM tags AS g
LEFT JOIN losers AS l ON g.uid = l.uid AND g.tag = l.tag AND g.source = l.source
WHERE l.uid IS NULL
