-- What clients call. Keys of shard s: {mm:s}:m (generation, identity, sessions), {mm:s}:ev (the stream of facts),
-- {mm:s}:c:<tenant> and {mm:s}:h:<tenant>.

-- The facts of the entry. Where nothing but plain takes was asked, and all were granted, they are there already.
local function entry_text(b)
  if b.takes == b.asked and b.line == b.asked then
    return b.payloads
  end
  local payloads = {}
  for each in string.gmatch(b.payloads .. '\f', '(.-)\f') do
    payloads[#payloads + 1] = each
  end
  for i = 1, b.line do
    LINES[i] = payloads[LINES[i]] or LINES[i]
  end
  return concat(LINES, '\f', 1, b.line)
end

-- Adds the batch's entry; every tenant that must be loaded anew waits for it. False, and nothing is done, if the
-- stream is missing.
local function append_all(b)
  if b.line > 0 then
    b.entry = call('XADD', b.keys[2], 'NOMKSTREAM', '*', FORMAT, entry_text(b))
  end
  if not b.entry and (b.line > 0 or (b.asked == 0 and call('EXISTS', b.keys[2]) == 0)) then
    return false
  end
  for t in pairs(b.unloaded) do
    put(t, BARRIER, tail(b))
    t.expires = true
  end
  return true
end

local function write_all(b)
  for _, t in pairs(b.tenants) do
    if type(t) == 'number' then
      call('HSET', unpack(SETS, t, SETS[t - 1]))
    else
      if next(t.changed) then
        write(b, t, t.expires)
      end
      if t.holds and (t.holds.replaced or next(t.holds.changed)) then
        write(b, t.holds, true)
      end
    end
  end
end

-- The answer to a batch that may not run (G2, G3) or ran already (G4), else nil.
local function refusal(generation, boot, stored, wanted, seq)
  if not generation or boot ~= identity() then
    return 'F ' .. (generation or '0')
  elseif generation ~= wanted then
    return 'G ' .. generation
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

-- m stream key* | session generation keep_ms seq now_us order payloads (tag wish)* op*
-- ``order`` is a byte for each op: the number of its (tag, wish) if it is a usual take, 0 for the next of the others;
-- before them, how many (tag, wish) there are. The usual takes' payloads are joined by "\f".
local FIRST = 8

local function new_batch(keys, args, asked)
  return {
    keys = keys, key = 2, generation = args[2], keep_ms = args[3], now_us = args[5], payloads = args[7],
    asked = asked, takes = 0, tenants = {}, unloaded = {}, set = 0, number = 0, line = 0,
  }
end

-- Carries the ops out on what is read. It writes nothing, so that an error leaves nothing half done.
local function run(b, args, order)
  local i = FIRST + 2 * order[1]
  for k = 2, #order do
    local n = FIRST - 2 + 2 * order[k]
    if n < FIRST then
      RESULTS[k - 1], i = OPS[args[i]](b, args, i + 1)
    else
      RESULTS[k - 1] = take_usual(b, args[n], wish_of(args[n + 1]))
    end
  end
end

-- Drops the tenants' keys that something else wrote over: they hold no counters, and would fail every batch that their
-- tenant is in. The positions of the tenants among the keys, which are to be loaded anew.
local function drop_foreign(keys)
  local owners = {}
  for i = 3, #keys do
    local found = try('HMGET', keys[i], TAG)
    if found.err and string.find(found.err, 'WRONGTYPE', 1, true) then
      redis.log(redis.LOG_WARNING, 'mm_metering: ' .. keys[i] .. ' was written over and is dropped; loaded anew')
      call('DEL', keys[i])
      owners[#owners + 1] = string.find(keys[i], '^{mm:%d+}:h:') and i - 1 or i
    end
  end
  return owners
end

-- The batch after its ops.
local function run_all(keys, args)
  local order = { byte(args[6], 1, -1) }
  local b = new_batch(keys, args, #order - 1)
  local ran, problem = pcall(run, b, args, order)
  if ran then
    return b
  end
  local owners = drop_foreign(keys)
  if #owners == 0 then
    error(problem, 0)
  end
  b = new_batch(keys, args, #order - 1)
  for _, i in ipairs(owners) do
    unload(b, tenant(b, keys[i]))
  end
  run(b, args, order)
  return b
end

local function apply(keys, args)
  local m = call('HMGET', keys[1], 'gen', BOOT, args[1], 'drained')
  local refused = refusal(m[1], m[2], m[3], args[2], args[4])
  if refused then
    return refused
  end
  local b = run_all(keys, args)
  if not append_all(b) then
    return 'F ' .. m[1]
  end
  write_all(b)
  local head = 'R ' .. m[4] .. ' ' .. (b.entry or '')
  local reply = head .. '\n' .. concat(RESULTS, ' ', 1, b.asked) .. '\n' .. concat(NUMBERS, ' ', 1, b.number)
  call('HSET', keys[1], args[1], args[4] .. ' ' .. reply)
  return reply
end

-- m stream | seen generation grace_ms
local function open(keys, args)
  local m, seen, generation = keys[1], tonumber(args[1]), tonumber(args[2])
  if tonumber(call('HGET', m, 'gen') or '0') ~= seen or generation <= seen then
    return 0
  end
  local sessions = {}
  for _, name in ipairs(call('HKEYS', m)) do
    if string.sub(name, 1, 2) == 'p:' then
      sessions[#sessions + 1] = name
    end
  end
  call_in_parts('HDEL', m, sessions)
  local open_at_us = server_time_us() + tonumber(args[3]) * 1000
  if call('EXISTS', keys[2]) == 0 then
    call('XADD', keys[2], 'MAXLEN', '0', NEW, FORMAT, '')
  end
  call('HSET', m, 'gen', args[2], BOOT, identity(), 'birth', last_position(keys[2]),
    'open_at', format('%d', open_at_us), 'drained', START)
  return 1
end

-- m stream | after limit
local function read(keys, args)
  local m = call('HMGET', keys[1], 'gen', 'drained')
  local entries = call('XRANGE', keys[2], '(' .. args[1], '+', 'COUNT', args[2])
  return { m[1] or '0', last_position(keys[2]), m[2] or START, entries }
end

-- m stream | generation position
local function trim(keys, args)
  local m = call('HMGET', keys[1], 'gen', 'drained')
  if m[1] ~= args[1] then
    return 0
  end
  local ms, seq = string.match(args[2], '^(%d+)-(%d+)$')
  call('XTRIM', keys[2], 'MINID', ms .. '-' .. format('%d', tonumber(seq) + 1))
  if is_past(args[2], m[2]) then
    call('HSET', keys[1], 'drained', args[2])
  end
  return 1
end

local function counters(keys)
  return call('HGETALL', keys[1])
end

local function register(name, run, flags)
  redis.register_function({
    function_name = '@LIBRARY@_' .. name,
    callback = function(keys, args)
      if not call then
        bind()
      end
      return run(keys, args)
    end,
    flags = flags,
  })
end

register('apply', apply, {})
register('open', open, { 'allow-oom' }) -- without these two, a server that is full of facts could not be emptied
register('trim', trim, { 'allow-oom' })
register('read', read, { 'no-writes' })
register('counters', counters, { 'no-writes' })
