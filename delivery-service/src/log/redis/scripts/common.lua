-- Shared by the scripts that write. Lua's numbers are doubles: what may grow goes through `text` or `struct`, never `tostring`.
local call, try = redis.call, redis.pcall
local pack, read, sub = struct.pack, struct.unpack, string.sub

-- A head: flags (1: frozen, 2: reset), epoch, position, its commit's and its last proposal's position, accepted_at, origin, key of the creation.
local HEAD = '>BI8I8I8I8I8c8c16'
-- Largest message on the channel; several records share one. Lua puts what is larger together by way of strings that it throws away.
local MESSAGE = 8000

local function text(number)
    return string.format('%.0f', number)
end

-- The partition's sequence, given what the heads say of it. Where that is lost, the indexes of changes still know how far it was.
local function sequence_of(kept, changes, inbox_changes)
    if kept then
        return tonumber(kept)
    end
    local top = 0
    for _, key in ipairs({changes, inbox_changes}) do
        local newest = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
        if newest[2] then
            top = math.max(top, tonumber(newest[2]))
        end
    end
    return top
end

local function sequence(heads, changes, inbox_changes)
    return sequence_of(call('HGET', heads, 'seq'), changes, inbox_changes)
end

-- A record is two pieces: Lua reads every byte of a string when it makes it, so what is large is put together once, with all the rest.
local function record(records, head, bytes)
    records[#records + 1] = head
    records[#records + 1] = bytes
end

-- The last thing that a script does. What cannot be sent is found by the receivers' sweep.
local function publish(channel, records)
    local from, size = 1, 0
    for n = 1, #records, 2 do
        local more = #records[n] + #records[n + 1]
        if size > 0 and size + more > MESSAGE then
            try('SPUBLISH', channel, table.concat(records, '', from, n - 1))
            from, size = n, 0
        end
        size = size + more
    end
    if size > 0 then
        try('SPUBLISH', channel, table.concat(records, '', from))
    end
end
