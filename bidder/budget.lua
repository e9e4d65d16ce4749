-- Bring one worker's lease on one campaign day to what it asks for, as far as the budget allows.
-- KEYS: 1 the campaign day (spend:{m<p>}:<campaign>:<day>). ARGV: 1 worker, 2 budget, 3 lease wanted in all,
-- 4 seconds until the lease expires unless renewed, 5 seconds the key is kept, 6 the lease without which a bid was
-- refused, 7 the number of this question. Money in micros.
-- Fields: spent; l:<worker> its lease; x:<worker> when that expires; s:<worker> its last question. What no field holds
-- is free for everyone, so spent + leases + free = budget whatever happens. A question left over on a connection that
-- was given up may come after a later one, and is not asked any more. Returns {store time in seconds, lease, spent, free,
-- workers that hold a lease}.
local now = tonumber(redis.call('TIME')[1])
local worker, budget, wanted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local fields, spent, leased, mine = redis.call('HGETALL', KEYS[1]), 0, 0, 0
local lease, expiry, asked, holders = {}, {}, 0, 1  -- whoever asks is one of them
for i = 1, #fields, 2 do
  local name, value = fields[i], tonumber(fields[i + 1])
  local kind, owner = string.sub(name, 1, 2), string.sub(name, 3)
  if name == 'spent' then spent = value
  elseif kind == 'l:' then lease[owner] = value
  elseif kind == 'x:' then expiry[owner] = value
  elseif kind == 's:' and owner == worker then asked = value end
end
for owner, amount in pairs(lease) do
  if owner == worker then
    mine = amount
  elseif (expiry[owner] or 0) < now then
    redis.call('HDEL', KEYS[1], 'l:' .. owner, 'x:' .. owner, 's:' .. owner)  -- its worker is gone, and every bid of it is settled
  else
    leased = leased + amount
    if amount > 0 then holders = holders + 1 end
  end
end

local free = budget - spent - leased - mine
if tonumber(ARGV[7]) <= asked then return {now, mine, spent, free, holders} end
local grant = wanted - mine
if grant > 0 then
  -- While there is plenty, leave half to the others unless a bid needs more; the last twentieth is for whoever asks.
  local most = free
  if free * 20 > budget then most = math.max(math.ceil(free / 2), math.min(free, tonumber(ARGV[6]) - mine)) end
  grant = math.max(0, math.min(grant, most))
end
mine = mine + grant
if mine > 0 then
  redis.call('HSET', KEYS[1], 'l:' .. worker, string.format('%.0f', mine), 'x:' .. worker, now + tonumber(ARGV[4]),
    's:' .. worker, ARGV[7])
  redis.call('EXPIRE', KEYS[1], ARGV[5])
elseif lease[worker] then
  redis.call('HSET', KEYS[1], 'l:' .. worker, '0', 's:' .. worker, ARGV[7])
end
return {now, mine, spent, free - grant, holders}
