-- A joiner has applied its Welcome, which goes with the last one.
-- KEYS: Welcome. ARGV: device.
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HLEN', KEYS[1]) == 1 then
    redis.call('DEL', KEYS[1])
end
return 0
