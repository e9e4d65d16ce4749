-- Put one user's real-time record and the marks of the events in it, both or none, if nothing changed since they were read.
-- KEYS: 1 record (rt:{u}), 2 marks (rtm:{u}), 3 audiences (aud:{u}). ARGV: 1 nonce of the record read ('' = none),
-- 2 audience record read ('' = none; an opt-out that came meanwhile must be seen), 3 new record, 4 unix second it ends,
-- 5 marks, 6 'APPEND' or 'SET', 7 seconds the marks live, 8 new audience record ('' = as it is), 9 unix second that one
-- ends (0 = never). Returns 1, or 0 when somebody else was faster.
if redis.call('GETRANGE', KEYS[1], 8, 15) ~= ARGV[1] or (redis.call('GET', KEYS[3]) or '') ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'EXAT', ARGV[4])
redis.call(ARGV[6], KEYS[2], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[7])
if ARGV[8] ~= '' then
  redis.call('SET', KEYS[3], ARGV[8])
  if ARGV[9] ~= '0' then redis.call('EXPIREAT', KEYS[3], ARGV[9]) end
end
return 1
