-- The position of the oldest entry that is there.
-- KEYS: stream.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return first and string.match(first[1], '^%d+') or false
