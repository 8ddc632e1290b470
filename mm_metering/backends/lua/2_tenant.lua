-- A tenant's hash as this batch sees it. What the ops need is read once, what they change is kept here, and all of it
-- is written after the last op: an error in an op leaves nothing half done (a Lua error is not rolled back).
-- Fields of our own begin with "!", which no meter's name does.

local TAG, BARRIER, SWEPT, RATE = '!tag', '!c', '!swept', '!'
local KEEP_S = { d = 3 * 86400, m = 40 * 86400 } -- memory.KEEP_S
local MOST_AT_ONCE = 4000 -- arguments of one redis.call; Lua's own bound is 8000

-- Numbers are doubles, exact to 2^53: "%d" prints them so, ".." and cjson corrupt them from 1e14.
local function text(value)
  return type(value) == 'number' and format('%d', value) or value
end

-- Lists of the batch at hand. They stay from call to call, so as not to grow each time; b says how long each is now.
local SETS, NUMBERS, RESULTS, LINES = {}, {}, {}, {}

local function put(t, field, value)
  t.known, t.values[field], t.changed[field] = true, value, true
end

-- The value as a number; fields are read as text, and "+" converts.
local function number(t, field)
  return (t.values[field] or 0) + 0
end

-- A counter's field holds "used", or "used,held" once something was reserved: held is nil before.
local function counter(t, field)
  local value = t.values[field] or 0
  local used, held = tonumber(value), nil
  if not used then
    used, held = string.match(value, '^(.-),(.-)$')
  end
  return used + 0, tonumber(held)
end

local function put_counter(t, field, used, held)
  put(t, field, held and format('%d,%d', used, held) or used)
end

-- A batch knows a tenant as this table, or, after a plain take alone, by where its key stands in SETS: the fields
-- and values to set follow it, the position of the last one precedes it.
local function tenant(b, key)
  local t = b.tenants[key]
  if type(t) ~= 'table' then
    local at = t
    t = { key = key, values = {}, changed = {} }
    b.tenants[key] = t
    for i = at and at + 1 or 1, at and SETS[at - 1] or 0, 2 do
      put(t, SETS[i], SETS[i + 1])
    end
  end
  return t
end

local function know_all(t, fields, found)
  t.known = true
  for i = 1, #fields do
    t.values[fields[i]] = found[i]
  end
end

-- Reads the fields that are not known yet; absent ones become false.
local function know(t, fields)
  local asked = fields
  if t.known then
    asked = {}
    for i = 1, #fields do
      if t.values[fields[i]] == nil then
        asked[#asked + 1] = fields[i]
      end
    end
  end
  if #asked > 0 then
    know_all(t, asked, call('HMGET', t.key, unpack(asked)))
  end
end

local HEAD = { TAG, BARRIER }

-- Every field that the tenant has now, without our own.
local function names(t)
  local found = {}
  for _, name in ipairs(call('HKEYS', t.key)) do
    if t.values[name] == nil then
      found[name] = true
    end
  end
  for name, value in pairs(t.values) do
    found[name] = value and true or nil
  end
  local result = {}
  for name in pairs(found) do
    if string.sub(name, 1, 1) ~= '!' then
      result[#result + 1] = name
    end
  end
  return result
end

-- Drops the windows that are long past, once an hour at most: it looks at every field.
local function sweep(b, t)
  know(t, { SWEPT })
  local now_s = math.floor(b.now_us / 1000000)
  local hour = math.floor(now_s / 3600)
  if hour <= number(t, SWEPT) then
    return
  end
  put(t, SWEPT, hour)
  for _, name in ipairs(names(t)) do
    local window, start = string.match(name, '@([dm])([0-9a-z]+)$')
    if window and tonumber(start, 36) < now_s - KEEP_S[window] then
      put(t, name, false)
    end
  end
end

-- Holds stand in a hash of their own, as "expires<TAB>field<TAB>amount<TAB>field<TAB>amount".
local function holds(t, key)
  if not t.holds then
    t.holds = { key = key, values = {}, changed = {} }
  end
  return t.holds
end

local function call_in_parts(command, key, list)
  for i = 1, #list, MOST_AT_ONCE do
    call(command, key, unpack(list, i, math.min(i + MOST_AT_ONCE - 1, #list)))
  end
end

-- Writes what changed in a hash.
local function write(b, hash, expires)
  local sets, drops = {}, {}
  for field in pairs(hash.changed) do
    local value = hash.values[field]
    if value then
      sets[#sets + 1] = field
      sets[#sets + 1] = text(value)
    else
      drops[#drops + 1] = field
    end
  end
  if hash.replaced then
    call('DEL', hash.key)
  end
  call_in_parts('HSET', hash.key, sets)
  call_in_parts('HDEL', hash.key, drops)
  if expires and b.keep_ms ~= '0' then
    call('PEXPIRE', hash.key, b.keep_ms)
  end
end
