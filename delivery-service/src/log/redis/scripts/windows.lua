-- Reading windows of a group. Field 'd' + device: its user, then pairs of (after, until), until 0 while open.
-- Field 'u' + user: how many windows of all the user's devices are open.
local OPEN = string.rep('\0', 8)

local function field(group, name)
    local value = group.fields[name]
    if value == nil then
        value = call('HGET', group.w, name)
        group.fields[name] = value
    end
    return value
end

local function change(group, name, value)
    group.fields[name] = value
    group.dirty[name] = true
end

local function count(group, user, by)
    local name = 'u' .. user
    change(group, name, text(tonumber(field(group, name) or 0) + by))
end

-- The device reads from the entry after that position on.
local function join(group, device, user, position)
    local name = 'd' .. device
    local value = field(group, name) or pack('>Hc0', #user, user)
    change(group, name, value .. pack('>I8', position) .. OPEN)
    count(group, user, 1)
end

-- The device reads up to and including that position.
local function leave(group, device, position)
    local name = 'd' .. device
    local value = field(group, name)
    if not value then
        return
    end
    local user, from = read('>Hc0', value)
    local parts, closed = {sub(value, 1, from - 1)}, 0
    for at = from, #value, 16 do
        local till = sub(value, at + 8, at + 15)
        if till == OPEN then
            till = pack('>I8', position)
            closed = closed + 1
        end
        parts[#parts + 1] = sub(value, at, at + 7) .. till
    end
    if closed > 0 then
        change(group, name, table.concat(parts))
        count(group, user, -closed)
    end
end

-- `joined`: device (16 bytes), length of the user's name (2), the name; and again.
local function join_all(group, joined, position)
    local at = 1
    while at <= #joined do
        local device, user
        device, user, at = read('>c16Hc0', joined, at)
        join(group, device, user, position)
    end
end

local function leave_all(group, left, position)
    for at = 1, #left, 16 do
        leave(group, sub(left, at, at + 15), position)
    end
end

local function write_windows(group)
    for name in pairs(group.dirty) do
        local value = group.fields[name]
        if value == '0' then
            call('HDEL', group.w, name)
        else
            call('HSET', group.w, name, value)
        end
    end
end
