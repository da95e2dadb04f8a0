-- Closes a group for writes until it is repaired, or opens it again. One that was reset stays so.
-- KEYS: heads. ARGV: group, 1 or 0.
-- Returns 1 where the group has a head.
local head = redis.call('HGET', KEYS[1], ARGV[1])
if not head then
    return 0
end
local flags = string.byte(head)
redis.call('HSET', KEYS[1], ARGV[1], string.char(flags - flags % 2 + tonumber(ARGV[2])) .. string.sub(head, 2))
return 1
