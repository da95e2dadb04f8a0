-- Deletes the items of an inbox up to a number.
-- KEYS: inbox, inbox changes. ARGV: device, number, number + 1.
-- Returns what the deleted items were.
local items = redis.call('XRANGE', KEYS[1], '-', ARGV[2])
for n, item in ipairs(items) do
    items[n] = item[2][2]
end
if #items > 0 then
    redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[3])
end
-- An empty inbox takes no room; its numbers go on all the same.
if redis.call('XLEN', KEYS[1]) == 0 then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
end
return items
