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
  local slot = {
    meter = meter, maximum = tonumber(maximum), free = tonumber(free), price = tonumber(price),
    cap_field = cap_field, cap = tonumber(cap), rate_s = tonumber(rate_s),
  }
  slot.field = slot.rate_s > 0 and RATE .. field or field
  slot.twin = slot.field .. '~'
  return slot
end

-- Counts without a price, a cap or a rate: what most takes ask for.
local function is_plain(slots)
  for i = 1, #slots do
    if slots[i].price > 0 or slots[i].rate_s > 0 then
      return false
    end
  end
  return #slots > 0
end

-- Alternatives of slots: "\f" between alternatives, "\n" between slots, "\t" between a slot's values.
-- ``fields`` is what must be read to decide, ``meters`` numbers an alternative's meters in order of appearance.
local slots_of = remembered(function(source)
  local result = { fields = { TAG, BARRIER } }
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
      if slot.rate_s == 0 then
        needs(slot.twin)
      end
      if slot.price > 0 then
        needs(slot.cap_field)
      end
    end
    result[#result + 1] = slots
  end
  result.plain = #result == 1 and is_plain(result[1])
  return result
end)

local numbers_of = remembered(function(source)
  local result = {}
  for each in string.gmatch(source, '%S+') do
    result[#result + 1] = tonumber(each)
  end
  result.same = true
  for i = 2, #result do
    result.same = result.same and result[i] == result[1]
  end
  return result
end)

-- used, held, extra: extra is the money counted in the cap, or a burst window's start in seconds.
local function state(b, t, slot)
  if slot.rate_s > 0 then
    local own = b.now_s - b.now_s % slot.rate_s
    local start, count = string.match(t.values[slot.field] or '-1 0', '^(%S+) (%S+)$')
    if tonumber(start) >= own then
      return tonumber(count), 0, tonumber(start)
    end
    return 0, 0, own
  end
  return number(t, slot.field), number(t, slot.twin), slot.price > 0 and number(t, slot.cap_field) or 0
end

local function over_cost(slot, base, change)
  return slot.price * (math.max(0, base + change - slot.free) - math.max(0, base - slot.free))
end

-- ``amounts`` holds need and want of each line of all alternatives; this one's begin after ``at``.
local function grants_of(b, t, slots, amounts, at)
  local grants, meters = {}, slots.meters
  for i = 1, #slots do
    local slot, need, granted = slots[i], amounts[at + 2 * i - 1], amounts[at + 2 * i]
    if slot.maximum ~= UNBOUNDED then
      local used, held = state(b, t, slot)
      granted = math.min(granted, slot.maximum - used - held)
      if granted < need then
        return nil
      end
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
  local values, field, twin = t.values, slot.field, slot.twin
  if slot.rate_s > 0 or not (opens or values[field] or values[twin]) then
    return
  end
  if not values[field] then
    sweep(b, t)
    t.expires = true
  end
  local before, reserved = number(t, field), number(t, twin)
  if slot.price > 0 then
    put(t, slot.cap_field, number(t, slot.cap_field) + over_cost(slot, before + reserved, used + held))
  end
  put(t, field, before + used)
  if held ~= 0 then
    put(t, twin, reserved + held)
  end
end

-- Counts a grant.
local function move(b, t, slot, amount, held)
  if slot.rate_s > 0 then
    local used, _, start = state(b, t, slot)
    put(t, slot.field, string.format('%.0f %.0f', start, used + amount))
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
