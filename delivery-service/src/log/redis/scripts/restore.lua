-- Puts back a group's head, GroupInfo and windows; all entries that are here go, and are read from the archive.
-- KEYS: heads, changes, inbox changes, out, channel; of the group: stream, keys, handshakes, commits, GroupInfo, windows.
-- ARGV: group, head, GroupInfo (packed), hand-off for the members' lists, the head that was looked at (or ''), then fields and values of the windows.
-- Returns 1 where it is another head by now: whoever has repaired the group meanwhile may have answered an entry after that.
local heads, changes, inbox_changes, out, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local here = sub(call('HGET', heads, ARGV[1]) or '', 2)
-- Whether it was closed for writes meanwhile makes no difference.
if here ~= sub(ARGV[5], 2) and here ~= sub(ARGV[2], 2) then
    return 1
end
local seq = sequence(heads, changes, inbox_changes) + 1
call('XLEN', out)
call('ZCARD', changes)

call('DEL', KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11])
call('HSET', heads, ARGV[1], ARGV[2], 'seq', text(seq))
call('SET', KEYS[10], ARGV[3])
for n = 6, #ARGV, 2 do
    call('HSET', KEYS[11], ARGV[n], ARGV[n + 1])
end
call('ZADD', changes, text(seq), ARGV[1])
call('XADD', out, '*', 'h', ARGV[4])
publish(channel, {pack('>BI8c16', 2, seq, ARGV[1]), ''})
return 0
