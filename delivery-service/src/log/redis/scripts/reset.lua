-- Ends a group for ever, and leaves the record with which its members are told.
-- KEYS: heads, changes, inbox changes, out, channel; of the group: windows.
-- ARGV: group, successor, now in milliseconds.
-- Returns nothing where there is no such group; 'f' where it is frozen; else its last position, and the number of the record where this
-- ended it.
local heads, changes, inbox_changes, out, channel, windows = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, successor, at = ARGV[1], ARGV[2], tonumber(ARGV[3])

local kept = call('HGET', heads, id)
if not kept then
    return {}
end
local flags, _, position = read(HEAD, kept)
if flags % 2 == 1 then
    return {'f'}
end
if flags >= 2 then
    return {text(position)}
end
local seq = sequence(heads, changes, inbox_changes) + 1
call('XLEN', out)
call('ZCARD', changes)
local devices = {}
for n, value in ipairs(call('HGETALL', windows)) do
    if n % 2 == 1 then
        devices.field = value
    elseif sub(devices.field, 1, 1) == 'd' then
        local _, from = read('>Hc0', value)
        for window = from, #value, 16 do
            if sub(value, window + 8, window + 15) == OPEN then
                devices[#devices + 1] = sub(devices.field, 2)
                break
            end
        end
    end
end
local record = pack('>Bc16c16I8I8', 2, id, successor, position, at) .. table.concat(devices)

call('HSET', heads, id, string.char(flags + 2) .. sub(kept, 2), 'seq', text(seq))
call('ZADD', changes, text(seq), id)
local handed = call('XADD', out, '*', 'h', record)
publish(channel, {pack('>BI8c16', 2, seq, id), ''})
return {text(position), handed}
