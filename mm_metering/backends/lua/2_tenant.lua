-- A tenant's hash as this batch sees it. What the ops need is read once, what they change is kept here, and all of it
-- is written after the last op: an error in an op leaves nothing half done (a Lua error is not rolled back).
-- Fields of our own begin with "!", which no meter's name does.

local TAG, BARRIER, SWEPT, RATE = '!tag', '!c', '!swept', '!'
local START = '0-0'
local KEEP_S = { d = 3 * 86400, m = 40 * 86400 } -- memory.KEEP_S
local MOST_AT_ONCE = 4000 -- arguments of one redis.call; Lua's own bound is 8000

local EXACT = 1e14 -- below it ".." prints a whole number in full

-- Numbers are doubles, exact to 2^53: "%.0f" prints them so, ".." and cjson corrupt them from 1e14.
local function text(value)
  if type(value) == 'number' then
    return string.format('%.0f', value)
  end
  return value
end

local function put(t, field, value)
  t.values[field] = value
  t.changed[field] = true
end

-- The value as a number; fields are read as text, and "+" converts.
local function number(t, field)
  return (t.values[field] or 0) + 0
end

local function tenant(b, key_index)
  local t = b.tenants[key_index]
  if not t then
    t = { key = b.keys[tonumber(key_index)], values = {}, changed = {} }
    b.tenants[key_index] = t
    local plain = b.plain[key_index]
    if plain then
      b.plain[key_index] = nil
      t.known = true
      for k = 1, #plain.fields do
        t.values[plain.fields[k]] = plain.found[k]
      end
      for k = 1, #plain.sets, 2 do
        put(t, plain.sets[k], plain.sets[k + 1])
      end
    end
  end
  return t
end

-- Reads the fields that are not known yet; absent ones become false.
local function know(t, fields)
  local values, asked = t.values, fields
  if t.known then
    asked = {}
    for i = 1, #fields do
      if values[fields[i]] == nil then
        asked[#asked + 1] = fields[i]
      end
    end
    if #asked == 0 then
      return
    end
  end
  t.known = true
  local found = redis.call('HMGET', t.key, unpack(asked))
  for i = 1, #asked do
    values[asked[i]] = found[i]
  end
end

local HEAD = { TAG, BARRIER }

-- Every field that the tenant has now, without our own.
local function names(t)
  local found = {}
  for _, name in ipairs(redis.call('HKEYS', t.key)) do
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
  if b.hour <= number(t, SWEPT) then
    return
  end
  put(t, SWEPT, b.hour)
  for _, name in ipairs(names(t)) do
    local window, start = string.match(name, '@([dm])(%d+)~?$')
    if window and tonumber(start) < b.now_s - KEEP_S[window] then
      put(t, name, false)
    end
  end
end

-- Holds stand in a hash of their own, as "expires<TAB>field<TAB>amount<TAB>field<TAB>amount".
local function holds(b, t, key_index)
  if not t.holds then
    t.holds = { key = b.keys[tonumber(key_index)], values = {}, changed = {} }
  end
  return t.holds
end

local function call_in_parts(command, key, list)
  for i = 1, #list, MOST_AT_ONCE do
    redis.call(command, key, unpack(list, i, math.min(i + MOST_AT_ONCE - 1, #list)))
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
    redis.call('DEL', hash.key)
  end
  call_in_parts('HSET', hash.key, sets)
  call_in_parts('HDEL', hash.key, drops)
  if expires and b.keep_ms ~= '0' then
    redis.call('PEXPIRE', hash.key, b.keep_ms)
  end
end
