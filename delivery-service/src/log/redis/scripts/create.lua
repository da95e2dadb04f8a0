-- Creates a group at epoch 0, unless it is there or any trace of it is.
-- KEYS: heads, changes, inbox changes, out, channel; of the group: stream, keys, handshakes, commits, GroupInfo, windows.
-- ARGV: group, key, origin, at, GroupInfo (packed), joined (the creator).
-- Returns 'y' and the number of the hand-off, 'r' (it is there since an earlier try) or 'e' (it exists).
local heads, changes, inbox_changes, out, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, key, origin, at = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local kept = call('HGET', heads, id)
if kept then
    local _, _, _, _, _, _, _, first = read(HEAD, kept)
    return first == key and 'r' or 'e'
end
if call('EXISTS', KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]) > 0 then
    return 'e'
end
local seq = sequence(heads, changes, inbox_changes) + 1
call('XLEN', out)
call('ZCARD', changes)
local group = {w = KEYS[11], fields = {}, dirty = {}}
join_all(group, ARGV[6], 0)
local head = pack(HEAD, 0, 0, 0, 0, 0, at, origin, key)
-- The hand-off puts the group onto the creator's list.
local record = pack('>Bc16I8I8c8I8B', 1, id, 0, 0, origin, at, 0) .. ARGV[6]

call('HSET', heads, id, head, 'seq', text(seq))
call('SET', KEYS[10], ARGV[5])
write_windows(group)
call('ZADD', changes, text(seq), id)
local handed = call('XADD', out, '*', 'h', record)
publish(channel, {pack('>BI8', 4, seq), ''})
return 'y' .. handed
