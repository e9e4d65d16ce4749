-- Behaviour tags of every user, for groups of people who behave alike.
SELECT t.uid, t.tag, t.score, t.as_of_day
FROM tags AS t
INNER JOIN behaviour_tags AS b ON t.tag = b.tag
ORDER BY t.uid ASC NULLS FIRST, t.tag ASC NULLS FIRST
