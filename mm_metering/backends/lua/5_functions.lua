-- What clients call. Keys of shard s: {mm:s}:m (generation, identity, sessions), {mm:s}:ev (the stream of facts),
-- {mm:s}:c:<tenant> and {mm:s}:h:<tenant>.

-- Adds the batch's entry; every tenant that must be loaded anew waits for it.
local function append_all(b)
  if #b.lines > 0 then
    b.entry = redis.call('XADD', b.stream, '*', FORMAT, table.concat(b.lines, '\n'))
    b.tail = b.entry
  end
  for t in pairs(b.unloaded) do
    put(t, BARRIER, tail(b))
    t.expires = true
  end
end

local function write_all(b)
  for key_index, plain in pairs(b.plain) do
    if plain.sets[1] then
      redis.call('HSET', b.keys[tonumber(key_index)], unpack(plain.sets))
    end
  end
  for _, t in pairs(b.tenants) do
    if next(t.changed) then
      write(b, t, t.expires)
    end
    if t.holds and (t.holds.replaced or next(t.holds.changed)) then
      write(b, t.holds, true)
    end
  end
end

-- The answer to a batch that may not run (G2, G3) or ran already (G4), else nil.
local function refusal(found, generation, seq)
  local stored = found.session
  if not found.generation or found.boot ~= identity() then
    return 'F ' .. (found.generation or '0')
  elseif found.generation ~= generation then
    return 'G ' .. found.generation
  elseif not stored then
    return nil
  end
  local gap = string.find(stored, ' ', 1, true)
  local last = string.sub(stored, 1, gap - 1)
  if seq == last then
    return string.sub(stored, gap + 1)
  end
  return tonumber(seq) < tonumber(last) and 'S' or nil
end

-- m stream tenant-key* | process generation seq now_us keep_ms op*
local function apply(keys, args)
  local session, generation, seq = 'p:' .. args[1], args[2], args[3]
  local m = redis.call('HMGET', keys[1], 'gen', BOOT, 'birth', 'open_at', 'drained', session)
  local refused = refusal({ generation = m[1], boot = m[2], session = m[6] }, generation, seq)
  if refused then
    return refused
  end
  local now_s = math.floor(tonumber(args[4]) / 1000000)
  local b = {
    keys = keys, stream = keys[2], generation = generation, birth = m[3], open_at_us = tonumber(m[4]),
    now_s = now_s, hour = math.floor(now_s / 3600), keep_ms = args[5], tenants = {}, unloaded = {}, lines = {}, own_tags = {}, plain = {},
  }
  local results, i = {}, 6
  while i <= #args do
    results[#results + 1], i = OPS[args[i]](b, args, i + 1)
  end
  append_all(b)
  write_all(b)
  local reply = 'R ' .. m[5] .. ' ' .. (b.entry or '') .. '\n' .. table.concat(results, '\n')
  redis.call('HSET', keys[1], session, seq .. ' ' .. reply)
  return reply
end

-- m stream | seen generation grace_ms
local function open(keys, args)
  local m, seen, generation = keys[1], tonumber(args[1]), tonumber(args[2])
  if tonumber(redis.call('HGET', m, 'gen') or '0') ~= seen or generation <= seen then
    return 0
  end
  local sessions = {}
  for _, name in ipairs(redis.call('HKEYS', m)) do
    if string.sub(name, 1, 2) == 'p:' then
      sessions[#sessions + 1] = name
    end
  end
  call_in_parts('HDEL', m, sessions)
  local open_at_us = server_time_us() + tonumber(args[3]) * 1000
  redis.call('HSET', m, 'gen', args[2], BOOT, identity(), 'birth', last_position(keys[2]),
    'open_at', string.format('%.0f', open_at_us), 'drained', START)
  return 1
end

-- m stream | after limit
local function read(keys, args)
  local generation = redis.call('HGET', keys[1], 'gen') or '0'
  return { generation, last_position(keys[2]), redis.call('XRANGE', keys[2], '(' .. args[1], '+', 'COUNT', args[2]) }
end

-- m stream | generation position
local function trim(keys, args)
  local m = redis.call('HMGET', keys[1], 'gen', 'drained')
  if m[1] ~= args[1] then
    return 0
  end
  local ms, seq = string.match(args[2], '^(%d+)-(%d+)$')
  redis.call('XTRIM', keys[2], 'MINID', ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))
  if is_past(args[2], m[2]) then
    redis.call('HSET', keys[1], 'drained', args[2])
  end
  return 1
end

local function counters(keys)
  return redis.call('HGETALL', keys[1])
end

redis.register_function('@LIBRARY@_apply', apply)
redis.register_function('@LIBRARY@_open', open)
redis.register_function('@LIBRARY@_trim', trim)
redis.register_function({ function_name = '@LIBRARY@_read', callback = read, flags = { 'no-writes' } })
redis.register_function({ function_name = '@LIBRARY@_counters', callback = counters, flags = { 'no-writes' } })
