-- Where a device stands in groups.
-- KEYS: heads; of each group: windows, stream. ARGV: the device's field; of each group: its id, the position of an entry or ''.
-- Returns for each group its head, the device's windows, and what the stream says of that entry; false for what is not there.
local found = {}
for n = 2, #KEYS, 2 do
    local position = ARGV[n + 1]
    local entry = position ~= '' and redis.call('XRANGE', KEYS[n + 1], position .. '-0', position .. '-0')[1]
    found[#found + 1] = {
        redis.call('HGET', KEYS[1], ARGV[n]),
        redis.call('HGET', KEYS[n], ARGV[1]),
        entry and entry[2][2] or false,
    }
end
return found
