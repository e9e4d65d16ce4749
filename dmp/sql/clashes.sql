-- Users with two tags of one exclusion group, or one tag from two families (`taxonomy.one_of` is the group, or the tag).
-- Looked for where it can be: groups with tags from two families, or from one that is not in SQL (`proven`).
WITH origins AS (
    SELECT t.one_of, g.source
    FROM tags AS g
    INNER JOIN taxonomy AS t ON g.tag = t.tag
    GROUP BY t.one_of, g.source
),

suspects AS (
    SELECT o.one_of
    FROM origins AS o
    LEFT JOIN proven AS p ON o.source = p.source
    GROUP BY o.one_of
    HAVING COUNT(*) > 1 OR COUNT(p.source) = 0
)

SELECT g.uid, t.one_of
FROM tags AS g
INNER JOIN taxonomy AS t ON g.tag = t.tag
INNER JOIN suspects AS s ON t.one_of = s.one_of
GROUP BY g.uid, t.one_of
HAVING COUNT(*) > 1
