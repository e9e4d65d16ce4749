-- Which tags of `clashes` go: the best score stays, of equals the lowest tag, then the first source.
SELECT uid, tag, source
FROM (
    SELECT
        g.uid,
        g.tag,
        g.source,
        ROW_NUMBER() OVER (
            PARTITION BY g.uid, c.one_of ORDER BY g.score DESC NULLS LAST, g.tag ASC NULLS LAST, g.source ASC NULLS LAST
        ) AS place
    FROM tags AS g
    INNER JOIN taxonomy AS t ON g.tag = t.tag
    INNER JOIN clashes AS c ON g.uid = c.uid AND t.one_of = c.one_of
) AS ranked
WHERE place > 1
