-- Book one notice once: mark, record and money in one step on the campaign's money partition.
-- KEYS: 1 mark of this event, 2 mark of the bid's settlement, 3 campaign day, 4 stream of notices.
-- ARGV: 1 seconds marks live, 2 cost in micros, 3 worker that made the bid, 4 event record, 5 most entries of the stream,
-- 6 '1' when this event ends the bid's reservation, 7 field of the record ('e', or 'q' for quarantine), 8 seconds the
-- campaign day is kept. Returns {1 when new, 1 when it was first to settle the bid, the worker's lease now}.
local lease = tonumber(redis.call('HGET', KEYS[3], 'l:' .. ARGV[3]) or '0')
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then
  return {0, 0, lease}
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[5], '*', ARGV[7], ARGV[4])
local first = 0
if ARGV[6] == '1' and redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[1]) then
  first = 1
end
local cost = tonumber(ARGV[2])
if cost > 0 then
  redis.call('HINCRBY', KEYS[3], 'spent', ARGV[2])
  redis.call('EXPIRE', KEYS[3], ARGV[8])
  -- Out of the lease it was reserved from; what that no longer holds comes out of what is free for everyone.
  local taken = math.min(lease, cost)
  if taken > 0 then
    lease = lease - taken
    redis.call('HINCRBY', KEYS[3], 'l:' .. ARGV[3], string.format('%.0f', -taken))
  end
end
return {1, first, lease}
