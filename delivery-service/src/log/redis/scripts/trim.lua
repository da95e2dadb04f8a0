-- Deletes the oldest entries up to a position that were accepted up to a time, with their keys and their places in the indexes. Never the head.
-- KEYS: stream, keys, handshakes, commits. ARGV: position, most entries, time in milliseconds.
-- Returns how many there were, and the position and the acceptance of the oldest one that is left (0 and 0: none is).
local COMMIT, PROPOSAL = 1, 2
local accepted_until = tonumber(ARGV[3])
local fields, handshakes, epochs, last = {}, {}, {}, nil
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', ARGV[1] .. '-0', 'COUNT', ARGV[2])) do
    local kind, epoch, at, _, next = struct.unpack('>BI8I8c8', entry[2][2])
    if at > accepted_until then
        break
    end
    last = string.match(entry[1], '^%d+')
    fields[#fields + 1] = string.sub(entry[2][2], next)
    if kind == COMMIT or kind == PROPOSAL then
        handshakes[#handshakes + 1] = last
    end
    if kind == COMMIT then
        epochs[#epochs + 1] = string.format('%.0f', epoch)
    end
end
for _, field in ipairs(fields) do
    redis.call('HDEL', KEYS[2], field)
end
for _, position in ipairs(handshakes) do
    redis.call('ZREM', KEYS[3], position)
end
for _, epoch in ipairs(epochs) do
    redis.call('HDEL', KEYS[4], epoch)
end
if last then
    redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%.0f-0', tonumber(last) + 1))
end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest then
    return {#fields, 0, 0}
end
local _, _, at = struct.unpack('>BI8I8', oldest[2][2])
return {#fields, tonumber(string.match(oldest[1], '^%d+')), at}
