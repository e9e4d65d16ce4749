-- Book one notice once: mark, record and money in one step on the campaign's money partition.
-- KEYS: 1 mark of this event, 2 mark of the bid's settlement, 3 campaign day, 4 stream of notices.
-- ARGV: 1 seconds marks live, 2 cost in micros, 3 worker that made the bid, 4 event record, 5 most entries of the stream,
-- 6 '1' when this event ends the bid's reservation, 7 field of the record ('e', or 'q' for quarantine), 8 seconds the
-- campaign day is kept, 9 the campaign's daily budget, 10 '1' when the bid's hold is over. A cost whose money is not held
-- any more, because the hold is over or a loss gave it up, must come out of what is free.
-- Returns {1 when new, 1 when it was first to settle the bid, the worker's lease now, 1 when there was no room}.
local lease = tonumber(redis.call('HGET', KEYS[3], 'l:' .. ARGV[3]) or '0')
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then
  return {0, 0, lease, 0}
end
local cost, over, field = tonumber(ARGV[2]), 0, ARGV[7]
local held = ARGV[10] ~= '1' and redis.call('EXISTS', KEYS[2]) == 0
if cost > 0 and not held then
  local fields, taken = redis.call('HGETALL', KEYS[3]), 0
  for i = 1, #fields, 2 do
    if fields[i] == 'spent' or string.sub(fields[i], 1, 2) == 'l:' then taken = taken + tonumber(fields[i + 1]) end
  end
  if taken + cost > tonumber(ARGV[9]) then
    over, cost, field = 1, 0, 'q'
  end
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[5], '*', field, ARGV[4])
local first = 0
if ARGV[6] == '1' and redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[1]) then
  first = 1
end
if cost > 0 then
  redis.call('HINCRBY', KEYS[3], 'spent', ARGV[2])
  redis.call('EXPIRE', KEYS[3], ARGV[8])
  -- Out of the lease it was reserved from; what that no longer holds comes out of what is free for everyone, as does
  -- all of a cost whose reservation has ended.
  local taken = math.min(lease, cost)
  if taken > 0 and held then
    lease = lease - taken
    redis.call('HINCRBY', KEYS[3], 'l:' .. ARGV[3], string.format('%.0f', -taken))
  end
end
return {1, first, lease, over}
