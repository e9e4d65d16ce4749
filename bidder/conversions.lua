-- Book one conversion once, and no more of one click than its limit.
-- KEYS: 1 mark of this conversion, 2 how many its click has had, 3 stream of notices.
-- ARGV: 1 seconds the keys live, 2 event record, 3 most entries of the stream, 4 most conversions of one click.
-- Returns 'counted', 'duplicate' or 'too_many'.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'duplicate'
end
if tonumber(redis.call('GET', KEYS[2]) or '0') >= tonumber(ARGV[4]) then
  return 'too_many'
end
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
redis.call('INCR', KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2])
return 'counted'
