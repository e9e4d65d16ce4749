-- Adds one user to an audience, or moves the end of a membership; ended memberships of that user go.
-- KEYS[1]: aud:{u}. ARGV[1]: audience number. ARGV[2]: unix second the membership ends, 0 = never.
-- ARGV[3]: most memberships a user may hold. Returns 1 when added, 0 when the user was in it before,
-- -1 when the user's record is full, -2 when another version of the codec wrote the record.
local audience, ends, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(redis.call('TIME')[1])
local record = redis.call('GET', KEYS[1]) or '\1'
if string.byte(record, 1) ~= 1 or (#record - 1) % 8 ~= 0 then return -2 end

local kept, latest, added = {'\1'}, ends, 1
for at = 2, #record, 8 do
  local number, until_s = struct.unpack('<I4I4', record, at)
  if number == audience then
    added = 0
  elseif until_s == 0 or until_s > now then
    kept[#kept + 1] = string.sub(record, at, at + 7)
    if until_s == 0 or latest == 0 then latest = 0 elseif until_s > latest then latest = until_s end
  end
end
if #kept > most then return -1 end -- kept[1] is the version byte

kept[#kept + 1] = struct.pack('<I4I4', audience, ends)
redis.call('SET', KEYS[1], table.concat(kept))
if latest > 0 then redis.call('EXPIREAT', KEYS[1], latest) end
return added
