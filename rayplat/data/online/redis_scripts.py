"""What Redis runs for the online store, in Lua: each script is one step that nobody sees half of."""

# KEYS: rp:gen, rows.  ARGV: view, generation, values with 16 bytes of times before them. Times are compared as four
# numbers of 32 bits: a number in Lua is a double and does not hold 64 bits.
WRITE = """
local gen = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
if ARGV[2] ~= gen and ARGV[3] ~= 'new' then return redis.error_reply('GENERATION') end
for i = 2, #KEYS do
  local new, old = ARGV[i + 2], redis.call('GETRANGE', KEYS[i], 0, 15)
  local keep = false
  if #old == 16 then
    local a, b, c, d = struct.unpack('>I4I4I4I4', new)
    local e, f, g, h = struct.unpack('>I4I4I4I4', old)
    keep = a < e or (a == e and (b < f or (b == f and (c < g or (c == g and d < h)))))
  end
  if not keep then redis.call('SET', KEYS[i], new) end
end
return 0
"""
# KEYS: rows.  ARGV: the 8 bytes of the event time that a row must have to go.
REMOVE = """
for i = 1, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 7) == ARGV[i] then redis.call('UNLINK', KEYS[i]) end
end
return 0
"""
# KEYS: base hash, pushed hash.  ARGV: clock, first, last, ends.  Fields are <kind><clock>:<tile>. Answers three
# strings, as many small replies cost a client more than their bytes: each tile as its number, length and bytes.
TILES = """
local function fetch(key, kind, numbers, seen)
  local fields, found = {}, {}
  for i, n in ipairs(numbers) do fields[i] = kind .. ARGV[1] .. ':' .. n end
  for from = 1, #fields, 4000 do
    local part = redis.call('HMGET', key, unpack(fields, from, math.min(from + 3999, #fields)))
    for i = 1, #part do
      local n = numbers[from + i - 1]
      if part[i] then
        found[#found + 1] = struct.pack('>i8I4', tonumber(n), #part[i]) .. part[i]
        if seen then seen[#seen + 1] = n end
      end
    end
  end
  return table.concat(found)
end
local all, ends = {}, {}
for n = tonumber(ARGV[2]), tonumber(ARGV[3]) do all[#all + 1] = string.format('%d', n) end
for i = 4, #ARGV do ends[#ends + 1] = ARGV[i] end
local pushed = ''
if redis.call('EXISTS', KEYS[2]) == 1 then pushed = fetch(KEYS[2], 'p', all, ends) end
return {fetch(KEYS[1], 'm', all), fetch(KEYS[1], 'e', ends), pushed}
"""
# KEYS: pushed hash.  ARGV: field, what it must hold ('' nothing), what it gets ('' nothing).
SWAP = """
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
"""
