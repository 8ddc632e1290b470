-- The one rule, as mm_metering/core/limits.py states it. Names are the same there.

local UNBOUNDED = -1
local MOST_MEMORIES = 2000 -- parsed texts of each kind that are kept from call to call

-- A pure function of a text, remembered: plans and amounts are the same in most calls.
local function remembered(parse)
  local known, count = {}, 0
  return function(source)
    local found = known[source]
    if not found then
      if count >= MOST_MEMORIES then
        known, count = {}, 0
      end
      found = parse(source)
      known[source], count = found, count + 1
    end
    return found
  end
end

local function parse_slot(source)
  local field, meter, maximum, free, price, cap_field, cap, rate_s =
    string.match(source, '^(.-)\t(.-)\t(.-)\t(.-)\t(.-)\t(.-)\t(.-)\t(.-)$')
  maximum, rate_s = tonumber(maximum), tonumber(rate_s)
  return {
    field = rate_s > 0 and RATE .. field or field, meter = meter, rate_s = rate_s,
    maximum = maximum == UNBOUNDED and math.huge or maximum,
    free = tonumber(free), price = tonumber(price), cap_field = cap_field, cap = tonumber(cap),
  }
end

local numbers_of = remembered(function(source)
  local result = {}
  for each in string.gmatch(source, '%S+') do
    result[#result + 1] = tonumber(each)
  end
  return result
end)

-- Alternatives of slots: "\f" between alternatives, "\n" between slots, "\t" between a slot's values.
-- ``fields`` is what must be read to decide, ``meters`` numbers an alternative's meters in order of appearance.
local slots_of = remembered(function(source)
  local result = { fields = { TAG } }
  local function needs(field)
    result.fields[#result.fields + 1] = field
  end
  for part in string.gmatch(source .. '\f', '(.-)\f') do
    local slots, meters = { meters = {}, count = 0 }, {}
    for line in string.gmatch(part, '[^\n]+') do
      local slot = parse_slot(line)
      if not meters[slot.meter] then
        slots.count = slots.count + 1
        meters[slot.meter] = slots.count
      end
      slots[#slots + 1] = slot
      slots.meters[#slots] = meters[slot.meter]
      needs(slot.field)
      if slot.price > 0 then
        needs(slot.cap_field)
      end
    end
    result[#result + 1] = slots
  end
  return result
end)

local function joined(grants)
  local result = {}
  for i = 1, #grants do
    result[i] = text(grants[i])
  end
  return concat(result, ',')
end

-- A take's result; the numbers of its slots stand apart.
local function granted(index, grants, slots)
  return format('T%d:%s:%d', index, joined(grants), #slots)
end

-- Makes a wish plain if it may be: one alternative that counts without a price or a rate, in full or not at all, the
-- slots of one meter by the same amount. By the number of each field of ``fields``, ``adds`` is what it grows by and
-- ``rooms`` what it may hold before; ``granted`` is the result.
local function make_plain(wish)
  local slots, adds, rooms, grants, seen = wish.alternatives[1], {}, {}, {}, {}
  local fits = #wish.alternatives == 1 and #slots > 0
  for i = 1, fits and #slots or 0 do
    local slot, meter, need, want = slots[i], slots.meters[i], wish.amounts[2 * i - 1], wish.amounts[2 * i]
    fits = fits and slot.price == 0 and slot.rate_s == 0 and need == want and (grants[meter] or want) == want
    fits = fits and not seen[slot.field]
    adds[i + 1], rooms[i + 1], grants[meter], seen[slot.field] = want, slot.maximum - want, want, true
  end
  if fits then
    wish.adds, wish.rooms, wish.fields = adds, rooms, wish.alternatives.fields
    wish.granted = granted(0, grants, slots)
  end
  return wish
end

-- What a take asks for, as every request of the same kind does: "slots<VT>amounts".
local wish_of = remembered(function(source)
  local slots, amounts = string.match(source, '^(.*)\v(.*)$')
  return make_plain({ alternatives = slots_of(slots), amounts = numbers_of(amounts) })
end)

-- used, held, extra: extra is the money counted in the cap, or a burst window's start in seconds.
local function state(b, t, slot)
  if slot.rate_s > 0 then
    local now_s = math.floor(b.now_us / 1000000)
    local own = now_s - now_s % slot.rate_s
    local start, count = string.match(t.values[slot.field] or '-1 0', '^(%S+) (%S+)$')
    if tonumber(start) >= own then
      return tonumber(count), 0, tonumber(start)
    end
    return 0, 0, own
  end
  local used, held = counter(t, slot.field)
  return used, held or 0, slot.price > 0 and number(t, slot.cap_field) or 0
end

local function over_cost(slot, base, change)
  return slot.price * (math.max(0, base + change - slot.free) - math.max(0, base - slot.free))
end

-- ``amounts`` holds need and want of each line of all alternatives; this one's begin after ``at``.
local function grants_of(b, t, slots, amounts, at)
  local grants, meters = {}, slots.meters
  for i = 1, #slots do
    local slot, need, granted = slots[i], amounts[at + 2 * i - 1], amounts[at + 2 * i]
    local used, held = state(b, t, slot)
    granted = math.min(granted, slot.maximum - used - held)
    if granted < need then
      return nil
    end
    local meter = meters[i]
    grants[meter] = math.min(granted, grants[meter] or granted)
  end
  return grants
end

local function under_cap(b, t, slots, grants)
  local added = {}
  for i = 1, #slots do
    local slot = slots[i]
    if slot.price > 0 then
      local used, held, extra = state(b, t, slot)
      local cost = over_cost(slot, used + held, grants[slots.meters[i]])
      added[slot.cap_field] = (added[slot.cap_field] or 0) + cost
      if cost ~= 0 and extra + added[slot.cap_field] > slot.cap then
        return false
      end
    end
  end
  return true
end

-- The number of the first alternative that fits, and its grants by meter; 0 if none does.
local function decide(b, t, alternatives, amounts)
  local at = 0
  for index = 1, #alternatives do
    local slots = alternatives[index]
    local grants = grants_of(b, t, slots, amounts, at)
    if grants and under_cap(b, t, slots, grants) then
      return index, grants
    end
    at = at + 2 * #slots
  end
  return 0, nil
end

-- Moves a counter and its cap; opens it if ``opens``.
local function change(b, t, slot, used, held, opens)
  local is_open = t.values[slot.field]
  if slot.rate_s > 0 or not (opens or is_open) then
    return
  end
  if not is_open then
    sweep(b, t)
    t.expires = true
  end
  local before, reserved = counter(t, slot.field)
  if slot.price > 0 then
    local cost = over_cost(slot, before + (reserved or 0), used + held)
    put(t, slot.cap_field, number(t, slot.cap_field) + cost)
  end
  put_counter(t, slot.field, before + used, held ~= 0 and (reserved or 0) + held or reserved)
end

-- Counts a grant.
local function move(b, t, slot, amount, held)
  if slot.rate_s > 0 then
    local used, _, start = state(b, t, slot)
    put(t, slot.field, format('%d %d', start, used + amount))
  elseif held then
    change(b, t, slot, 0, amount, true)
  else
    change(b, t, slot, amount, 0, true)
  end
end

-- True if this change of a level comes after the last one: a set strictly, an add also beside another add.
local function stamp(t, field, at_us, absolute)
  know(t, { field })
  local last, mark = -1, 2 * at_us
  if t.values[field] then
    last = number(t, field)
  end
  if mark < last or (absolute and mark == last) then
    return false
  end
  put(t, field, absolute and mark + 1 or mark)
  return true
end
