-- Who pays heed to whom, each tie once; what is likely fake is left out.
SELECT DISTINCT uid, other
FROM events
WHERE OCTET_LENGTH(other) = 16 AND uid <> other AND weight >= 0.5e0
ORDER BY uid ASC NULLS FIRST, other ASC NULLS FIRST
