-- The ops of a batch, as mm_metering/backends/memory.py carries them out. Each takes its arguments from ``args`` at
-- ``i`` and its keys from the batch's in their order; it gives its result, one word, and where the next op begins.

local OPS = {}
local COUNTED, UNCOUNTED = 'C', 'U'

local function next_key(b)
  b.key = b.key + 1
  return b.keys[b.key]
end

-- Read at need: only misses and loads ask.
local function opening(b)
  if not b.birth then
    local found = call('HMGET', b.keys[1], 'birth', 'open_at')
    b.birth, b.open_at_us = found[1], tonumber(found[2])
  end
  return b
end

local function tail(b)
  b.tail = b.entry or b.tail or last_position(b.keys[2])
  return b.tail
end

-- True if position ``a`` is past ``b``: text order is not stream order.
local function is_past(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms > b_ms or (a_ms == b_ms and tonumber(a_seq) > tonumber(b_seq))
end

-- What the ledger must have folded before this tenant may be loaded; "=" is this batch's own entry.
local function barrier(b, t)
  if b.unloaded[t] then
    return b.line > 0 and '=' or tail(b)
  end
  know(t, HEAD)
  local own, birth = t.values[BARRIER] or START, opening(b).birth
  return is_past(own, birth) and own or birth
end

local function unload(b, t)
  put(t, TAG, false)
  b.unloaded[t] = true
end

-- A payload is a text, or the number of one of the plain takes' payloads.
local function append(b, payload)
  b.line = b.line + 1
  LINES[b.line] = payload
end

local function append_uncounted(b, t, payload)
  append(b, payload)
  unload(b, t)
  return UNCOUNTED
end

local tag_of = remembered(function(source)
  local generation, number_ = string.match(source, '^(%d+)%.(%d+)$')
  return { generation = generation, revision = tonumber(number_) }
end)

-- The revision in a tag of this generation, -1 for no tag or another generation's.
local function revision(b, tag)
  local parsed = tag_of(tag or '')
  return parsed.generation == b.generation and parsed.revision or -1
end

-- The data may hold tags of an older generation: only one of this generation counts as loaded.
local function is_own(b, tag)
  return tag_of(tag).generation == b.generation
end

local function is_loaded(b, t, tag)
  return t.values[TAG] == tag and is_own(b, tag)
end

-- "used", or "used,held,extra" where one of these is there.
local function show(b, t, slot)
  local used, held, extra = state(b, t, slot)
  return held == 0 and extra == 0 and format('%d', used) or format('%d,%d,%d', used, held, extra)
end

local function answer(b, t, word, slots)
  for i = 1, #slots do
    b.number = b.number + 1
    NUMBERS[b.number] = show(b, t, slots[i])
  end
  return word
end

local function reserve(b, t, options, slots, grants)
  local hold = holds(t, options.holds)
  call('HGET', options.holds, options.hold) -- fails here if it is no hash: nothing may fail once facts are appended
  local parts = { options.expires }
  for i = 1, #slots do
    if slots[i].rate_s == 0 then
      parts[#parts + 1] = slots[i].field
      parts[#parts + 1] = text(grants[slots.meters[i]])
    end
  end
  put(hold, options.hold, concat(parts, '\t'))
end

local function count(b, t, options, slots, grants, payload)
  for i = 1, #slots do
    move(b, t, slots[i], grants[slots.meters[i]], options.hold)
  end
  if options.hold then
    reserve(b, t, options, slots, grants)
    payload = joined(grants) .. ';' .. payload
  end
  append(b, payload)
  if options.stamp and not stamp(t, options.stamp, tonumber(options.at_us), false) then
    unload(b, t)
  end
end

local NO_OPTIONS = {}

-- "" or "hold<TAB>expires<TAB>stamp<TAB>at_us", empty where not wanted. A hold's key follows its tenant's.
local function options_of(b, source)
  if source == '' then
    return NO_OPTIONS
  end
  local hold, expires, stamp_field, at_us = string.match(source, '^(.-)\t(.-)\t(.-)\t(.-)$')
  return {
    hold = hold ~= '' and hold or nil, holds = hold ~= '' and next_key(b), expires = expires,
    stamp = stamp_field ~= '' and stamp_field or nil, at_us = at_us,
  }
end

-- ``payloads`` has one for each alternative; a take without them only looks.
local function take(b, key, tag, wish, options, payloads)
  local t, alternatives = tenant(b, key), wish.alternatives
  know(t, alternatives.fields)
  if not is_loaded(b, t, tag) then
    return 'M' .. barrier(b, t)
  end
  local chosen, grants = decide(b, t, alternatives, wish.amounts)
  if chosen == 0 then
    return answer(b, t, 'D' .. #alternatives[1], alternatives[1])
  end
  local slots = alternatives[chosen]
  if payloads then
    count(b, t, options, slots, grants, payloads[chosen])
  end
  return answer(b, t, granted(chosen - 1, grants, slots), slots)
end

-- Nearly every request: a plain take that is its tenant's first op in the batch and finds counters that are open, hold
-- nothing and have room. nil, with nothing changed, where the general form must decide; that knows what was read.
-- Lists grow in order: an element past the end would go into a table's slow part.
local function take_plain(b, key, tag, wish)
  local fields, adds, rooms = wish.fields, wish.adds, wish.rooms
  local found = call('HMGET', key, unpack(fields))
  local fits, last = found[1] == tag and is_own(b, tag), #fields
  for k = 2, fits and last or 0 do
    local used = tonumber(found[k])
    if not used or used > rooms[k] then
      fits = false
      break
    end
    found[k] = used
  end
  if not fits then
    know_all(tenant(b, key), fields, found)
    return nil
  end
  local at, n = b.set + 2, b.number
  SETS[at - 1] = at + 2 * last - 2
  SETS[at] = key
  b.tenants[key] = at
  for k = 2, last do
    local now = format('%d', found[k] + adds[k])
    SETS[at + 1] = fields[k]
    SETS[at + 2] = now
    NUMBERS[n + 1] = now
    at, n = at + 2, n + 1
  end
  b.set, b.number = at, n
  append(b, b.takes)
  return wish.granted
end

-- A take without options, of one alternative.
local function take_usual(b, tag, wish)
  local key = next_key(b)
  b.takes = b.takes + 1
  local result = wish.fields and not b.tenants[key] and take_plain(b, key, tag, wish)
  return result or take(b, key, tag, wish, NO_OPTIONS, { b.takes })
end

-- take | tag wish options n, then n payloads: one per alternative, or none to look only
function OPS.T(b, args, i)
  local n = tonumber(args[i + 3])
  local payloads = n > 0 and { unpack(args, i + 4, i + 3 + n) }
  local key = next_key(b)
  return take(b, key, args[i], wish_of(args[i + 1]), options_of(b, args[i + 2]), payloads), i + 4 + n
end

-- A hold's amounts by field, and the fields in order; nil if it is not open. It is gone afterwards.
local function close(t, holds_key, name)
  local hash = holds(t, holds_key)
  if hash.values[name] == nil then
    hash.values[name] = not hash.replaced and call('HGET', hash.key, name)
  end
  if not hash.values[name] then
    return nil
  end
  local amounts, order = {}, {}
  for field, amount in string.gmatch(hash.values[name], '\t([^\t]*)\t([^\t]*)') do
    amounts[field], order[#order + 1] = tonumber(amount), field
  end
  put(hash, name, false)
  return amounts, order
end

-- A past window's counter with a cap is not corrected here: the ledger prices the window anew.
local function has_late_cap(slots, deltas)
  for i = 1, #slots do
    if slots[i].price > 0 and deltas[3 * i] == 0 then
      return true
    end
  end
  return false
end

local function give_back(b, t, amounts, order)
  know(t, order)
  for _, field in ipairs(order) do
    if amounts[field] then
      change(b, t, { field = field, rate_s = 0, price = 0 }, 0, -amounts[field], false)
      amounts[field] = nil
    end
  end
end

-- post | tag slots (used held opens)* close payload
function OPS.P(b, args, i)
  local t, alternatives, deltas = tenant(b, next_key(b)), slots_of(args[i + 1]), numbers_of(args[i + 2])
  local slots, name, payload = alternatives[1], args[i + 3], args[i + 4]
  local holds_key = name ~= '' and next_key(b)
  know(t, alternatives.fields)
  local loaded, amounts, order = is_loaded(b, t, args[i]), nil, {}
  if loaded and holds_key then
    amounts, order = close(t, holds_key, name)
  end
  if not loaded or has_late_cap(slots, deltas) or (holds_key and not amounts) then
    return append_uncounted(b, t, payload), i + 5
  end
  amounts = amounts or {}
  for k = 1, #slots do
    local field = slots[k].field
    change(b, t, slots[k], deltas[3 * k - 2], deltas[3 * k - 1] - (amounts[field] or 0), deltas[3 * k] == 1)
    amounts[field] = nil
  end
  give_back(b, t, amounts, order)
  append(b, payload)
  return COUNTED, i + 5
end

-- level | tag total field stamp at_us value absolute payload
function OPS.V(b, args, i)
  local t, total, field, payload = tenant(b, next_key(b)), args[i + 1], args[i + 2], args[i + 7]
  local absolute = args[i + 6] == '1'
  know(t, { TAG, total, field })
  if not is_loaded(b, t, args[i]) or not stamp(t, args[i + 3], tonumber(args[i + 4]), absolute) then
    return append_uncounted(b, t, payload), i + 8
  end
  local before, held = counter(t, field)
  local value = tonumber(args[i + 5])
  local after = math.max(0, absolute and value or before + value)
  put_counter(t, field, after, held)
  local sum, reserved = counter(t, total)
  put_counter(t, total, sum + after - before, reserved)
  append(b, payload)
  return COUNTED, i + 8
end

-- append | n, then n payloads, each with a key
function OPS.A(b, args, i)
  local past = i + 1 + tonumber(args[i])
  for k = i + 1, past - 1 do
    local t = tenant(b, next_key(b))
    know(t, HEAD) -- fails here if it is no hash
    append_uncounted(b, t, args[k])
  end
  return UNCOUNTED, past
end

local function is_early(b)
  if not b.time_us then
    b.time_us = server_time_us()
  end
  return b.time_us < opening(b).open_at_us
end

local function may_load(b, t, tag, folded)
  if is_early(b) then
    return false, 'early', folded
  end
  local stored = revision(b, t.values[TAG])
  if stored >= revision(b, tag) then
    return false, t.values[TAG] == tag and 'warm' or 'old', folded
  end
  if stored >= 0 then -- counted under an older plan: the ledger is behind these counters
    unload(b, t)
  end
  local needed = barrier(b, t)
  if b.unloaded[t] or is_past(needed, folded) then
    return false, 'behind', needed
  end
  return true
end

-- load | tag barrier n (field value)* n (hold text)*
function OPS.L(b, args, i)
  local t, holds_key, tag = tenant(b, next_key(b)), next_key(b), args[i]
  local holds_at = i + 3 + 2 * tonumber(args[i + 2])
  local next_i = holds_at + 1 + 2 * tonumber(args[holds_at])
  know(t, HEAD)
  local loads, why, needed = may_load(b, t, tag, args[i + 1])
  if not loads then
    return 'N' .. why .. ':' .. needed, next_i
  end
  for _, name in ipairs(names(t)) do
    put(t, name, false)
  end
  put(t, TAG, tag)
  for k = i + 3, holds_at - 1, 2 do
    put(t, args[k], args[k + 1])
  end
  t.holds = { key = holds_key, values = {}, changed = {}, replaced = true }
  for k = holds_at + 1, next_i - 1, 2 do
    put(t.holds, args[k], args[k + 1])
  end
  t.expires = true
  return COUNTED, next_i
end

-- retag | tag keep
function OPS.R(b, args, i)
  local t, tag = tenant(b, next_key(b)), args[i]
  know(t, HEAD)
  local stored = revision(b, t.values[TAG])
  if stored >= 0 and stored < revision(b, tag) then
    if args[i + 1] == '1' then
      put(t, TAG, tag)
    else
      unload(b, t)
    end
  end
  return t.values[TAG] and COUNTED or UNCOUNTED, i + 2
end
