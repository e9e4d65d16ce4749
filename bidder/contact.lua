-- Count one impression per scope in a user's contact record, once.
-- KEYS: 1 the record (fc:{u}), 2 the mark. ARGV: 1 hour now, 2 hours to keep, 3 seconds the mark lives, 4 most
-- entries, 5.. scopes. Returns 1 when counted, 0 when the mark was there. Record: dmp/codec.py, contacts version 1.
local hour, keep, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local data = redis.call('GET', KEYS[1])
if data and (string.byte(data, 1) ~= 1 or (#data - 1) % 10 ~= 0) then
  return redis.error_reply('contact record of an unknown version')
end
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[3]) then
  return 0
end

local entries = {}
if data then
  for at = 2, #data, 10 do
    local scope, when, count = struct.unpack('<I4I4I2', data, at)
    if when >= hour - keep then
      entries[#entries + 1] = {scope, when, count}
    end
  end
end
for i = 5, #ARGV do
  local scope, found = tonumber(ARGV[i]), nil
  for _, entry in ipairs(entries) do
    if entry[1] == scope and entry[2] == hour then found = entry end
  end
  if found then
    found[3] = math.min(found[3] + 1, 65535)
  else
    entries[#entries + 1] = {scope, hour, 1}
  end
end

-- Too many: a scope's oldest entry joins its next one, so its impressions count longer, never shorter. Only when
-- every scope has a single entry is the oldest contact forgotten.
while #entries > limit do
  table.sort(entries, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  local merged = false
  for i = 1, #entries do
    for j = i + 1, #entries do
      if entries[j][1] == entries[i][1] then
        entries[j][3] = math.min(entries[j][3] + entries[i][3], 65535)
        merged = true
        break
      end
    end
    if merged then
      table.remove(entries, i)
      break
    end
  end
  if not merged then table.remove(entries, 1) end
end

local parts = {string.char(1)}
for _, entry in ipairs(entries) do
  parts[#parts + 1] = struct.pack('<I4I4I2', entry[1], entry[2], entry[3])
end
redis.call('SET', KEYS[1], table.concat(parts), 'EX', keep * 3600 + 3600)
return 1
