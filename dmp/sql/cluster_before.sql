-- Which cluster each user is in as the live generation has it.
SELECT b.uid, b.tag
FROM before AS b
INNER JOIN cluster_names AS n ON b.tag = n.tag
