-- Closes a group for writes, or opens it again.
-- KEYS: heads. ARGV: group, 1 or 0.
-- Returns 1 where the group has a head.
local head = redis.call('HGET', KEYS[1], ARGV[1])
if not head then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], string.char(tonumber(ARGV[2])) .. string.sub(head, 2))
return 1
