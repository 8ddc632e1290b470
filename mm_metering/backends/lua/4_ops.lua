-- The ops of a batch, as mm_metering/backends/memory.py carries them out. Each takes its arguments from ``args`` at
-- ``i`` and gives its result, one line, and where the next op begins.

local OPS = {}

local function tail(b)
  if not b.tail then
    b.tail = last_position(b.stream)
  end
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
    return #b.lines > 0 and '=' or tail(b)
  end
  local own = t.values[BARRIER] or START
  return is_past(own, b.birth) and own or b.birth
end

local function unload(b, t)
  put(t, TAG, false)
  b.unloaded[t] = true
end

local function append(b, payload)
  b.lines[#b.lines + 1] = payload
end

local function append_uncounted(b, t, payload)
  append(b, payload)
  unload(b, t)
  return '0'
end

-- The revision in a tag of this generation, -1 for no tag or another generation's.
local function revision(b, tag)
  local owner, number_ = string.match(tag or '', '^(%d+)%.(%d+)$')
  return owner == b.generation and tonumber(number_) or -1
end

-- The data may hold tags of an older generation: only one of this generation counts as loaded.
local function is_own(b, tag)
  local own = b.own_tags[tag]
  if own == nil then
    own = revision(b, tag) >= 0
    b.own_tags[tag] = own
  end
  return own
end

local function is_loaded(b, t, tag)
  return t.values[TAG] == tag and is_own(b, tag)
end

-- used, or used,held,extra where one of these is there. Keeps the text for the write.
local function show(b, t, slot)
  if slot.rate_s > 0 then
    local used, _, start = state(b, t, slot)
    return string.format('%.0f,0,%.0f', used, start)
  end
  local values = t.values
  local used, held = text(values[slot.field]) or '0', text(values[slot.twin])
  local extra = slot.price > 0 and text(values[slot.cap_field])
  if values[slot.field] then
    values[slot.field] = used
  end
  if held or extra then
    return used .. ',' .. (held or '0') .. ',' .. (extra or '0')
  end
  return used
end

local function answer(b, t, head, slots)
  for i = 1, #slots do
    head = head .. ' ' .. show(b, t, slots[i])
  end
  return head
end

local function joined(grants)
  if #grants == 1 then
    return text(grants[1])
  end
  local result = {}
  for i = 1, #grants do
    result[i] = text(grants[i])
  end
  return table.concat(result, ',')
end

local function reserve(b, t, options, slots, grants)
  local hold = holds(b, t, options.holds)
  local parts = { options.expires }
  for i = 1, #slots do
    if slots[i].rate_s == 0 then
      parts[#parts + 1] = slots[i].field
      parts[#parts + 1] = text(grants[slots.meters[i]])
    end
  end
  put(hold, options.hold, table.concat(parts, '\t'))
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

local PLAIN = {}

-- "" or "holds-key<TAB>hold<TAB>expires<TAB>stamp<TAB>at_us", empty where not wanted.
local function options_of(source)
  if source == '' then
    return PLAIN
  end
  local holds_key, hold, expires, stamp_field, at_us = string.match(source, '^(.-)\t(.-)\t(.-)\t(.-)\t(.-)$')
  return {
    holds = holds_key, hold = hold ~= '' and hold or nil, expires = expires,
    stamp = stamp_field ~= '' and stamp_field or nil, at_us = at_us,
  }
end

-- The rule for a tenant's first take in a batch, if it asks for counts that are open and fit, one amount per meter:
-- nearly every request. nil, with nothing changed, where it does not apply; what was read is kept for the general form.
local function take_plain(b, key_index, tag, alternatives, amounts, payload)
  local fields, slots = alternatives.fields, alternatives[1]
  local found = redis.call('HMGET', b.keys[tonumber(key_index)], unpack(fields))
  local grant, shown, sets = amounts[1], '', {}
  local fits = found[1] == tag and is_own(b, tag) and amounts.same
  for k = 1, fits and #slots or 0 do
    local slot, used, held = slots[k], found[2 * k + 1], found[2 * k + 2]
    local after = used and used + grant
    if not used or after >= EXACT or slot.maximum ~= UNBOUNDED and after + (held or 0) > slot.maximum then
      fits = false
      break
    end
    sets[2 * k - 1], sets[2 * k] = slot.field, after
    shown = held and shown .. ' ' .. after .. ',' .. held .. ',0' or shown .. ' ' .. after
  end
  local plain = { fields = fields, found = found, sets = sets }
  if not fits then
    plain.sets = {}
    return nil, plain
  end
  b.lines[#b.lines + 1] = payload
  return 'T0 ' .. string.rep(grant .. ',', slots.count - 1) .. grant .. shown, plain
end

-- take | tenant tag slots amounts options, then a payload per alternative; looks only without payloads.
local function take(b, args, i, looks)
  local key_index, tag, alternatives = args[i], args[i + 1], slots_of(args[i + 2])
  if alternatives.plain and not (looks or b.tenants[key_index] or b.plain[key_index]) and args[i + 4] == '' then
    local result, plain = take_plain(b, key_index, tag, alternatives, numbers_of(args[i + 3]), args[i + 5])
    b.plain[key_index] = plain
    if result then
      return result, i + 6
    end
  end
  local t = tenant(b, key_index)
  local next_i = i + 5 + (looks and 0 or #alternatives)
  know(t, alternatives.fields)
  if not is_loaded(b, t, tag) then
    return 'M' .. barrier(b, t), next_i
  end
  local chosen, grants = decide(b, t, alternatives, numbers_of(args[i + 3]))
  if chosen == 0 then
    return answer(b, t, 'D', alternatives[1]), next_i
  end
  local slots = alternatives[chosen]
  if not looks then
    count(b, t, options_of(args[i + 4]), slots, grants, args[i + 4 + chosen])
  end
  return answer(b, t, 'T' .. text(chosen - 1) .. ' ' .. joined(grants), slots), next_i
end

function OPS.T(b, args, i)
  return take(b, args, i, false)
end

function OPS.K(b, args, i)
  return take(b, args, i, true)
end

-- A hold's amounts by field, and the fields in order; nil if it is not open. It is gone afterwards.
local function close(b, t, holds_key, name)
  local hash = holds(b, t, holds_key)
  if hash.values[name] == nil then
    hash.values[name] = not hash.replaced and redis.call('HGET', hash.key, name)
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
    local twin = field .. '~'
    know(t, { twin })
    if amounts[field] then
      change(b, t, { field = field, twin = twin, rate_s = 0, price = 0 }, 0, -amounts[field], false)
      amounts[field] = nil
    end
  end
end

-- post | tenant tag slots (used held opens)* holds-key close payload
function OPS.P(b, args, i)
  local t, slots, deltas = tenant(b, args[i]), slots_of(args[i + 2])[1], numbers_of(args[i + 3])
  local name, payload = args[i + 5], args[i + 6]
  know(t, slots_of(args[i + 2]).fields)
  local loaded, amounts, order = is_loaded(b, t, args[i + 1]), nil, {}
  if loaded and name ~= '' then
    amounts, order = close(b, t, args[i + 4], name)
  end
  if not loaded or has_late_cap(slots, deltas) or (name ~= '' and not amounts) then
    return append_uncounted(b, t, payload), i + 7
  end
  amounts = amounts or {}
  for k = 1, #slots do
    local field = slots[k].field
    change(b, t, slots[k], deltas[3 * k - 2], deltas[3 * k - 1] - (amounts[field] or 0), deltas[3 * k] == 1)
    amounts[field] = nil
  end
  give_back(b, t, amounts, order)
  append(b, payload)
  return '1', i + 7
end

-- level | tenant tag total field stamp at_us value absolute payload
function OPS.V(b, args, i)
  local t, total, field, payload = tenant(b, args[i]), args[i + 2], args[i + 3], args[i + 8]
  local absolute = args[i + 7] == '1'
  know(t, { TAG, BARRIER, total, field })
  if not is_loaded(b, t, args[i + 1]) or not stamp(t, args[i + 4], tonumber(args[i + 5]), absolute) then
    return append_uncounted(b, t, payload), i + 9
  end
  local before, value = number(t, field), tonumber(args[i + 6])
  local after = math.max(0, absolute and value or before + value)
  put(t, field, after)
  put(t, total, number(t, total) + after - before)
  append(b, payload)
  return '1', i + 9
end

-- append | n, then tenant payload each
function OPS.A(b, args, i)
  local past = i + 1 + 2 * tonumber(args[i])
  for k = i + 1, past - 1, 2 do
    local t = tenant(b, args[k])
    know(t, HEAD)
    append_uncounted(b, t, args[k + 1])
  end
  return '0', past
end

local function is_early(b)
  if not b.time_us then
    b.time_us = server_time_us()
  end
  return b.time_us < b.open_at_us
end

-- load | tenant tag barrier n (field value)* holds-key n (hold text)*
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

function OPS.L(b, args, i)
  local t, tag = tenant(b, args[i]), args[i + 1]
  local holds_at = i + 4 + 2 * tonumber(args[i + 3])
  local next_i = holds_at + 2 + 2 * tonumber(args[holds_at + 1])
  know(t, HEAD)
  local loads, why, needed = may_load(b, t, tag, args[i + 2])
  if not loads then
    return 'N' .. why .. ' ' .. needed, next_i
  end
  for _, name in ipairs(names(t)) do
    put(t, name, false)
  end
  put(t, TAG, tag)
  for k = i + 4, holds_at - 1, 2 do
    put(t, args[k], args[k + 1])
  end
  t.holds = { key = b.keys[tonumber(args[holds_at])], values = {}, changed = {}, replaced = true }
  for k = holds_at + 2, next_i - 1, 2 do
    put(t.holds, args[k], args[k + 1])
  end
  t.expires = true
  return '1', next_i
end

-- retag | tenant tag keep
function OPS.R(b, args, i)
  local t, tag = tenant(b, args[i]), args[i + 1]
  know(t, HEAD)
  local stored = revision(b, t.values[TAG])
  if stored >= 0 and stored < revision(b, tag) then
    if args[i + 2] == '1' then
      put(t, TAG, tag)
    else
      unload(b, t)
    end
  end
  return t.values[TAG] and '1' or '0', i + 3
end
