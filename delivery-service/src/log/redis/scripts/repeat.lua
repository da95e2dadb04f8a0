-- The entry that a key was used for.
-- KEYS: keys, stream. ARGV: key and sender.
-- Returns its position and what the stream says of it, or nothing.
local position = redis.call('HGET', KEYS[1], ARGV[1])
if not position then
    return {}
end
local entry = redis.call('XRANGE', KEYS[2], position .. '-0', position .. '-0')[1]
if not entry then
    return redis.error_reply('DAMAGED entry ' .. position .. ' of a key is not there')
end
return {position, entry[2][2]}
