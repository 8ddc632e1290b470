-- Facts about the server that a client cannot be trusted to pass on.

local BOOT = 'boot:@LIBRARY@' -- other versions of this library may serve the same shard, each by its own identity
local FORMAT = '1' -- of the facts in a stream entry: facts.WIRE

local function server_time_us()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end

-- The identity of this server process (G1), minted at the first call after the library was loaded: a new process, a
-- full resynchronisation or an upgrade loads it anew and so is another. `redis.call` does not exist at load itself.
local boot = nil
local function identity()
  if not boot then
    local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
    boot = run_id .. ':' .. string.format('%.0f', server_time_us())
  end
  return boot
end

-- The id of the last entry that was ever added, also where it was trimmed since.
local function last_position(stream)
  if redis.call('EXISTS', stream) == 0 then
    return '0-0'
  end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1]
    end
  end
  error('XINFO STREAM gives no last-generated-id')
end
