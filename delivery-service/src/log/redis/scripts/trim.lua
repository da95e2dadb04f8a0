-- Deletes the oldest entries up to a position, with their keys and their places in the indexes. Never the head.
-- KEYS: stream, keys, handshakes, commits. ARGV: position, most entries.
-- Returns how many there were.
local entries = redis.call('XRANGE', KEYS[1], '-', ARGV[1] .. '-0', 'COUNT', ARGV[2])
if #entries == 0 then
    return 0
end
local COMMIT, PROPOSAL = 1, 2
local fields, handshakes, epochs, last = {}, {}, {}, nil
for n, entry in ipairs(entries) do
    local kind, epoch, _, _, next = struct.unpack('>BI8I8c8', entry[2][2])
    last = string.match(entry[1], '^%d+')
    fields[n] = string.sub(entry[2][2], next)
    if kind == COMMIT or kind == PROPOSAL then
        handshakes[#handshakes + 1] = last
    end
    if kind == COMMIT then
        epochs[#epochs + 1] = string.format('%.0f', epoch)
    end
end
for n, field in ipairs(fields) do
    redis.call('HDEL', KEYS[2], field)
end
for _, position in ipairs(handshakes) do
    redis.call('ZREM', KEYS[3], position)
end
for _, epoch in ipairs(epochs) do
    redis.call('HDEL', KEYS[4], epoch)
end
redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%.0f-0', tonumber(last) + 1))
return #entries
