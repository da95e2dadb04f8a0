-- Appends a batch of entries of one partition: everything is decided before anything is written, since scripts do not roll back.
-- KEYS: heads, changes, inbox changes, out, channel; six for each group (stream, keys, handshakes, commits, GroupInfo, windows);
-- then one for each Welcome.
-- ARGV: milliseconds for which Welcomes are kept, number of groups, the groups; then for each item a header and its bytes, and for a commit also
-- GroupInfo, Welcome, joined, left, and the service's proposals that come with it.
-- Returns one record of 49 bytes for each item, not for what comes with it: what became of it, and up to six numbers.
local heads, changes, inbox_changes, out, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local welcome_millis, group_count = ARGV[1], tonumber(ARGV[2])
local COMMIT, PROPOSAL, APPLICATION = 1, 2, 3
local ACCEPTED, REPEATED, NOT_FOUND, FROZEN, ENDED, AHEAD, UNSEEN, RESET = 0, 1, 2, 3, 4, 5, 6, 7
-- Larger entries are read, not told.
local INLINE = 4096
local NO_ID = string.rep('\0', 8)

local groups, replies, entries, records = {}, {}, {}, {}
-- Every call costs about a microsecond: what many items need is asked for once, and what they change is written once.
local kept = call('HMGET', heads, 'seq', unpack(ARGV, 3, 2 + group_count))
local seq = sequence_of(kept[1], changes, inbox_changes)
-- What is only written below must be of the right type, too: here, and where `sound` asks.
call('ZCARD', changes)

local function load(n)
    local base = 5 + (n - 1) * 6
    local group = {
        id = ARGV[2 + n], s = KEYS[base + 1], i = KEYS[base + 2], k = KEYS[base + 3], c = KEYS[base + 4],
        info = KEYS[base + 5], w = KEYS[base + 6], answers = {}, ended = {}, fields = {}, dirty = {}, accepted = {},
        -- Named from the beginning: a table that grows field by field is made anew again and again.
        missing = false, damaged = false, frozen = false, sound = nil, known = nil, changed = nil, group_info = nil,
        flags = 0, epoch = 0, position = 0, commit = 0, proposal = 0, at = 0, origin = nil, key = nil,
    }
    groups[n] = group
    local head = kept[1 + n]
    if not head then
        -- A head that was lost: the group is not to be written to, and never begins anew.
        group.damaged = call('EXISTS', group.s, group.i, group.k, group.c, group.info, group.w) > 0
        group.missing = not group.damaged
        return group
    end
    local flags
    flags, group.epoch, group.position, group.commit, group.proposal, group.at, group.origin, group.key = read(HEAD, head)
    group.flags, group.frozen = flags, flags % 2 == 1
    -- A stream that is ahead of its head could not be appended to.
    local newer = try('XRANGE', group.s, '(' .. text(group.position) .. '-0', '+', 'COUNT', '1')
    group.damaged = newer.err ~= nil or #newer > 0
    return group
end

-- Can commits and proposals be written?
local function sound(group)
    if group.sound == nil then
        group.sound = true
        for _, check in ipairs({{'ZCARD', group.k}, {'HLEN', group.c}, {'HLEN', group.w}, {'XLEN', out}}) do
            if type(try(check[1], check[2])) ~= 'number' then
                group.sound = false
            end
        end
    end
    return group.sound
end

-- Which of these keys are known, and their positions.
local function look_up(group, keys)
    group.known = {}
    local positions = try('HMGET', group.i, unpack(keys))
    if positions.err then
        group.damaged = true
        return
    end
    for n, position in ipairs(positions) do
        group.known[keys[n]] = position
    end
end

local function reply(status, a, b, c, id)
    replies[#replies + 1] = {status, a or 0, b or 0, c or 0, id or NO_ID}
end

-- The answer that this key got first, in this batch or ever.
local function answered(group, field)
    local answer = group.answers[field]
    if answer then
        return answer
    end
    local position = group.known[field]
    if not position then
        return nil
    end
    local entry = call('XRANGE', group.s, position .. '-0', position .. '-0')[1]
    -- One that cannot be read must not end the whole batch.
    if not entry or #entry[2][2] < 25 then
        group.damaged = true
        return nil
    end
    local kind, epoch, at, id = read('>BI8I8c8', entry[2][2])
    return {tonumber(position), kind == COMMIT and epoch + 1 or epoch, at, id}
end

local function tell(group, position, meta, bytes, left)
    if #bytes + #left > INLINE then
        record(records, pack('>BI8c16', 2, seq, group.id), '')
    else
        local head = pack('>BI8c16I8B', 1, seq, group.id, position, #meta) .. meta .. pack('>H', #left / 16) .. left
            .. pack('>I4', #bytes)
        record(records, head, bytes)
    end
end

local function accept(group, item, bytes, effects)
    local position = group.position + 1
    group.position = position
    group.at = math.max(group.at, item.at)
    if item.kind == COMMIT then
        group.ended[item.epoch] = position
        group.epoch, group.commit, group.proposal = item.epoch + 1, position, 0
        group.group_info = pack('>I8I8', group.epoch, position) .. effects.group_info
        leave_all(group, effects.left, position)
        join_all(group, effects.joined, position)
        if #effects.joined > 0 then
            item.hand_off = pack('>Bc16I8I8c8I8B', 1, group.id, position, group.epoch, item.id, group.at,
                effects.welcome_key and 1 or 0) .. effects.joined
        end
    elseif item.kind == PROPOSAL then
        group.proposal = position
    end
    seq = seq + 1
    group.changed = seq
    group.answers[item.field] = {position, group.epoch, group.at, item.id}
    local meta = pack('>BI8I8', item.kind, item.epoch, group.at) .. item.id .. item.field
    item.group, item.position, item.meta = group, text(position), meta
    group.accepted[#group.accepted + 1] = item.field
    group.accepted[#group.accepted + 1] = item.position
    entries[#entries + 1] = item
    tell(group, position, meta, bytes, effects and effects.left or '')
end

-- The service's proposals that come with a commit: the entries after it, of the epoch that it has begun.
local function propose(group, commit)
    local packed, at = commit.effects.proposals, 1
    while at <= #packed do
        local item = {
            kind = PROPOSAL, epoch = group.epoch, at = commit.at, id = nil, field = nil, bytes = nil, group = nil,
            position = nil, meta = nil,
        }
        item.id, item.field, item.bytes, at = read('>c8c16I4c0', packed, at)
        accept(group, item, item.bytes, nil)
    end
end

-- The checks, in the order of the trait's documentation.
local function decide(group, item, bytes, effects)
    if group.missing then
        return reply(NOT_FOUND)
    end
    if group.damaged then
        return reply(FROZEN)
    end
    local first = answered(group, item.field)
    if first then
        return reply(REPEATED, first[1], first[2], first[3], first[4])
    end
    if group.frozen or group.damaged or (item.kind ~= APPLICATION and not sound(group)) then
        return reply(FROZEN)
    end
    if group.flags >= 2 then
        return reply(RESET)
    end
    if item.epoch > group.epoch then
        return reply(AHEAD, group.epoch)
    end
    if item.epoch < group.epoch then
        local winner = group.ended[item.epoch] or try('HGET', group.c, text(item.epoch))
        return reply(ENDED, group.epoch, tonumber(winner) or group.commit)
    end
    if item.seen < group.proposal then
        return reply(UNSEEN, group.proposal)
    end
    accept(group, item, bytes, effects)
    reply(ACCEPTED, group.position, group.epoch, group.at, item.id)
    item.reply = replies[#replies]
    if effects then
        propose(group, item)
    end
end

local items, keys_of = {}, {}
for n = 1, group_count do
    keys_of[n] = {}
end
local argument, argument_count = 3 + group_count, #ARGV
while argument <= argument_count do
    local item = {
        number = 0, kind = 0, epoch = 0, at = 0, seen = 0, id = nil, field = nil, bytes = nil, effects = nil, group = nil,
        position = nil, meta = nil, reply = nil, hand_off = nil,
    }
    local welcome, next
    item.number, welcome, item.kind, item.epoch, item.at, item.seen, item.id, next = read('>HHBI8I8I8c8', ARGV[argument])
    -- Key and sender, or the key alone for the service.
    item.field = sub(ARGV[argument], next)
    item.bytes = ARGV[argument + 1]
    argument = argument + 2
    if item.kind == COMMIT then
        item.effects = {
            group_info = ARGV[argument], welcome = ARGV[argument + 1], joined = ARGV[argument + 2],
            left = ARGV[argument + 3], proposals = ARGV[argument + 4],
            welcome_key = welcome > 0 and KEYS[5 + group_count * 6 + welcome] or nil,
        }
        argument = argument + 5
    end
    items[#items + 1] = item
    local keys = keys_of[item.number]
    keys[#keys + 1] = item.field
end
for n = 1, group_count do
    local group = load(n)
    if not group.missing and not group.damaged then
        look_up(group, keys_of[n])
    end
end
for _, item in ipairs(items) do
    decide(groups[item.number], item, item.bytes, item.effects)
end

-- From here on everything is written, and nothing can fail.
for _, item in ipairs(entries) do
    local group, position = item.group, item.position
    call('XADD', group.s, position .. '-0', 'm', item.meta, 'b', item.bytes)
    if item.kind == COMMIT or item.kind == PROPOSAL then
        call('ZADD', group.k, position, position)
    end
    if item.kind == COMMIT then
        call('HSET', group.c, text(item.epoch), position)
    end
    if item.hand_off then
        local key, joined = item.effects.welcome_key, item.effects.joined
        if key then
            -- The Welcome goes when the last joiner has it, or with time.
            call('DEL', key)
            call('HSET', key, '', item.effects.welcome)
            local at = 1
            while at <= #joined do
                local device, _
                device, _, at = read('>c16Hc0', joined, at)
                call('HSET', key, device, '')
            end
            call('PEXPIRE', key, welcome_millis)
        end
        item.reply[6] = call('XADD', out, '*', 'h', item.hand_off)
    end
end
local newest = text(seq)
for _, group in ipairs(groups) do
    if group.changed then
        -- In parts: a commit may come with a proposal for each member, and `unpack` has a limit.
        for first = 1, #group.accepted, 1000 do
            call('HSET', group.i, unpack(group.accepted, first, math.min(first + 999, #group.accepted)))
        end
        local head = pack(HEAD, group.flags, group.epoch, group.position, group.commit, group.proposal, group.at,
            group.origin, group.key)
        call('HSET', heads, group.id, head, 'seq', newest)
        call('ZADD', changes, group.changed == seq and newest or text(group.changed), group.id)
        if group.group_info then
            call('SET', group.info, group.group_info)
        end
        write_windows(group)
    end
end
publish(channel, records)
for n, answer in ipairs(replies) do
    local handed, part = 0, 0
    if answer[6] then
        local first, second = string.match(answer[6], '^(%d+)-(%d+)$')
        handed, part = tonumber(first), tonumber(second)
    end
    replies[n] = pack('>BI8I8I8c8I8I8', answer[1], answer[2], answer[3], answer[4], answer[5], handed, part)
end
return table.concat(replies)
