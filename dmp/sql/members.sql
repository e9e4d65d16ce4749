-- The tags that stay, of persons, as tags of each of their ids, so that whichever a bid names is found in one read.
SELECT COALESCE(p.uid, g.uid) AS uid, g.tag, g.score, g.as_of_day, g.source
FROM tags AS g
LEFT JOIN losers AS l ON g.uid = l.uid AND g.tag = l.tag AND g.source = l.source
LEFT JOIN persons AS p ON p.person = g.uid
WHERE l.uid IS NULL
