-- Users with two tags of one exclusion group, or one tag from two families.
SELECT g.uid, CASE WHEN t.exclusive <> '' THEN t.exclusive ELSE t.name END AS one_of
FROM tags AS g
INNER JOIN taxonomy AS t ON g.tag = t.tag
GROUP BY g.uid, CASE WHEN t.exclusive <> '' THEN t.exclusive ELSE t.name END
HAVING COUNT(*) > 1
