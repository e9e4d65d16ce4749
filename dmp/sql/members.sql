-- Tags of persons as tags of each of their ids, so that whichever a bid names is found in one read.
SELECT COALESCE(p.uid, m.uid) AS uid, m.tag, m.score, m.as_of_day, m.source
FROM made AS m
LEFT JOIN persons AS p ON p.person = m.uid
