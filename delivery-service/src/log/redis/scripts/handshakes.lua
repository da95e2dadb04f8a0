-- Commits and proposals after a position.
-- KEYS: handshakes, stream. ARGV: position, most entries, bytes after which no other one is added.
-- Returns for each its position, what the stream says of it, and its bytes.
local positions = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
local entries, size = {}, 0
for _, position in ipairs(positions) do
    local entry = redis.call('XRANGE', KEYS[2], position .. '-0', position .. '-0')[1]
    if not entry or not entry[2][4] then
        return redis.error_reply('DAMAGED handshake ' .. position .. ' cannot be read')
    end
    size = size + #entry[2][4]
    if size > tonumber(ARGV[3]) and #entries > 0 then
        break
    end
    entries[#entries + 1] = {position, entry[2][2], entry[2][4]}
end
return entries
