-- The list of a user's groups, each with the position at which a device of the user joined last.
-- KEYS: list. ARGV: group, position, 'join' or 'left'.
-- A group is dropped only if nobody has joined since.
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[3] == 'join' then
    if not kept or tonumber(kept) < tonumber(ARGV[2]) then
        redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    end
elseif kept == ARGV[2] then
    redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
