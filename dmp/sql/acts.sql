-- Acts on things, in order of person and time; those more likely fake than not are left out.
SELECT uid, time_us, item, category, kind
FROM events
WHERE kind <> 'crm' AND weight >= 0.5e0
ORDER BY uid ASC NULLS FIRST, time_us ASC NULLS FIRST, source ASC NULLS FIRST, event_id ASC NULLS FIRST
