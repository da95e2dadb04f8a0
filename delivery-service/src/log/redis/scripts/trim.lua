-- Deletes the oldest entries up to a position that were accepted up to a time, with their keys and their places in the indexes. Never the head.
-- KEYS: stream, keys, handshakes, commits. ARGV: position, most entries, time in milliseconds.
-- Returns how many there were, and the position and the acceptance of the oldest one that is left (0 and 0: none is). Or, and then nothing
-- is deleted, the error DAMAGED with the position of an entry that is missing, or is not what was written.
local COMMIT, APPLICATION = 1, 3

local function position_of(entry)
    return tonumber(string.match(entry[1], '^%d+'))
end

-- Kind, epoch, acceptance, and field among the keys; nothing where it cannot be read.
local function read(entry)
    local values = entry[2]
    -- A key of 16 bytes is the last thing that is said of an entry of the service, the sender's 16 that of any other.
    if #values ~= 4 or (#values[2] ~= 41 and #values[2] ~= 57) then
        return nil
    end
    local kind, epoch, at, _, next = struct.unpack('>BI8I8c8', values[2])
    if kind < COMMIT or kind > APPLICATION then
        return nil
    end
    return kind, epoch, at, string.sub(values[2], next)
end

local function damaged(position)
    return redis.error_reply(string.format('DAMAGED entry %.0f cannot be read', position))
end

local accepted_until = tonumber(ARGV[3])
local fields, handshakes, epochs, last = {}, {}, {}, nil
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', ARGV[1] .. '-0', 'COUNT', ARGV[2])) do
    local position = position_of(entry)
    -- Of what is missing, nobody would delete the key and the places.
    if last and position ~= last + 1 then
        return damaged(last + 1)
    end
    local kind, epoch, at, field = read(entry)
    if not kind then
        return damaged(position)
    end
    if at > accepted_until then
        break
    end
    last = position
    fields[#fields + 1] = field
    if kind ~= APPLICATION then
        handshakes[#handshakes + 1] = string.format('%.0f', position)
    end
    if kind == COMMIT then
        epochs[#epochs + 1] = string.format('%.0f', epoch)
    end
end
local after = last and string.format('(%.0f-0', last) or '-'
local oldest = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)[1]
local floor, floor_at = 0, 0
if oldest then
    floor = position_of(oldest)
    if last and floor ~= last + 1 then
        return damaged(last + 1)
    end
    local kind, _, at = read(oldest)
    if not kind then
        return damaged(floor)
    end
    floor_at = at
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
    redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%.0f-0', last + 1))
end
return {#fields, floor, floor_at}
