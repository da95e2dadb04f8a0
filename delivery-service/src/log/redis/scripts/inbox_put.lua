-- Puts items into inboxes of one partition, each once: an item whose mark is known for less than a day is dropped. Items that nobody has
-- taken for longer than they are kept go.
-- KEYS: heads, changes, inbox changes, channel, inbox heads; then for each item the inbox and its marks.
-- ARGV: milliseconds for which items are kept; for each item device, mark, now in milliseconds ('' for the server's own clock), content.
-- Returns for each item '1' (put) or '0' (known).
local heads, changes, inbox_changes, channel, numbers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local DAY = 24 * 60 * 60 * 1000
local clock = call('TIME')
local server_now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local oldest = text(math.max(0, server_now - tonumber(ARGV[1]))) .. '-0'
local records, outcome = {}, {}
local seq = sequence(heads, changes, inbox_changes)

-- The next number of an inbox: at least the time, so that none is used again where items and their count are lost (ADR 21).
local function next_number(inbox, device)
    local newest = tonumber(call('HGET', numbers, device) or 0)
    local last = call('XREVRANGE', inbox, '+', '-', 'COUNT', 1)[1]
    if last then
        newest = math.max(newest, tonumber(string.match(last[1], '^%d+')))
    end
    return math.max(newest + 1, server_now)
end

for n = 1, (#ARGV - 1) / 4 do
    local inbox, marks = KEYS[4 + 2 * n], KEYS[5 + 2 * n]
    local device, mark, at, content = ARGV[4 * n - 2], ARGV[4 * n - 1], ARGV[4 * n], ARGV[4 * n + 1]
    local now = at == '' and server_now or tonumber(at)
    local known = call('ZSCORE', marks, mark)
    if known and tonumber(known) >= now - DAY then
        outcome[n] = '0'
    else
        local number = text(next_number(inbox, device))
        call('ZCARD', inbox_changes)
        seq = seq + 1
        -- An item's number is the time at which it was put.
        call('XADD', inbox, 'MINID', '=', oldest, number .. '-0', 'i', content)
        call('PEXPIRE', inbox, ARGV[1])
        call('HSET', numbers, device, number)
        call('ZREMRANGEBYSCORE', marks, '-inf', '(' .. text(now - DAY))
        call('ZADD', marks, text(now), mark)
        call('PEXPIRE', marks, text(DAY + DAY))
        call('ZADD', inbox_changes, text(seq), device)
        call('HSET', heads, 'seq', text(seq))
        record(records, pack('>BI8', 3, seq), device)
        outcome[n] = '1'
    end
end
publish(channel, records)
return table.concat(outcome)
