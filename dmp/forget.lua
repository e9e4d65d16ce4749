-- Writes a stream anew without some users. XDEL only marks an entry in its node, whose bytes stay in memory and in the
-- server's files; here every entry that stays is copied under its own id, groups keep their places and what they owe,
-- and the copy takes the stream's name. Atomic: writers and consumers notice nothing.
-- KEYS[1]: the stream. KEYS[2]: a name for the copy, in the same slot. ARGV[1]: "drop" takes out every field that names
-- a user, "blank" puts zeros for the user's bytes. ARGV[2..]: the users. Returns how many entries were changed.
local function without(text, uid)
  local at = string.find(text, uid, 1, true)
  while at do
    text = string.sub(text, 1, at - 1) .. string.rep('\0', #uid) .. string.sub(text, at + #uid)
    at = string.find(text, uid, at + #uid, true)
  end
  return text
end

local function kept(fields)
  local left, touched = {}, false
  for i = 1, #fields, 2 do
    local value, drop = fields[i + 1], false
    for u = 2, #ARGV do
      if string.find(value, ARGV[u], 1, true) then
        touched = true
        if ARGV[1] == 'drop' then drop = true else value = without(value, ARGV[u]) end
      end
    end
    if not drop then
      left[#left + 1] = fields[i]
      left[#left + 1] = value
    end
  end
  return left, touched
end

local function table_of(reply)
  local found = {}
  for i = 1, #reply, 2 do found[reply[i]] = reply[i + 1] end
  return found
end

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local last = table_of(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
local ttl = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[2])
-- A first entry and its deletion make the stream, also where nothing is left; its id is below any other.
redis.call('XADD', KEYS[2], '0-1', 'x', 'x')
redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
local changed = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  local left, touched = kept(entry[2])
  if touched then changed = changed + 1 end
  if #left > 0 then redis.call('XADD', KEYS[2], entry[1], unpack(left)) end
end
redis.call('XSETID', KEYS[2], last)
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = table_of(reply)
  redis.call('XGROUP', 'CREATE', KEYS[2], group['name'], group['last-delivered-id'])
  if group['pending'] > 0 then
    for _, owed in ipairs(redis.call('XPENDING', KEYS[1], group['name'], '-', '+', group['pending'])) do
      redis.call('XCLAIM', KEYS[2], group['name'], owed[2], 0, owed[1], 'IDLE', owed[3], 'RETRYCOUNT', owed[4], 'FORCE',
        'JUSTID')
    end
  end
end
redis.call('RENAME', KEYS[2], KEYS[1])
if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) end
return changed
