-- Facts about the server that a client cannot be trusted to pass on.

local BOOT = 'boot:@LIBRARY@' -- other versions of this library may serve the same shard, each by its own identity
local FORMAT = '1' -- of the facts in a stream entry: facts.WIRE

-- No global exists while the library is loaded, and each look-up of one costs as much as a small op: the first call binds
-- what the ops use.
local call, format, concat, unpack, byte, tonumber, pcall, try
local function bind()
  call, format, concat, byte = redis.call, string.format, table.concat, string.byte
  unpack, tonumber, pcall, try = _G.unpack, _G.tonumber, _G.pcall, redis.pcall
end

local function server_time_us()
  local now = call('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end

-- The identity of this server process (G1), minted at the first call after the library was loaded: a new process, a
-- full resynchronisation or an upgrade loads it anew and so is another.
local boot = nil
local function identity()
  if not boot then
    local run_id = string.match(call('INFO', 'server'), 'run_id:(%w+)')
    boot = run_id .. ':' .. format('%d', server_time_us())
  end
  return boot
end

-- The stream is made when its shard opens and stays, empty or not: one that is missing later was taken from us, and
-- what stood in it is in the journals alone. NEW is its last id while nothing was added.
local NEW, START = '0-1', '0-0'

-- The id of the last entry that was ever added, also where it was trimmed since.
local function last_position(stream)
  if call('EXISTS', stream) == 0 then
    return START
  end
  local info = call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1] == NEW and START or info[i + 1]
    end
  end
  error('XINFO STREAM gives no last-generated-id')
end
