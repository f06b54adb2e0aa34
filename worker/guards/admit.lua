#!lua flags=allow-oom
-- Ask whether a call may start: is its task still ours, does the breaker let it through, does the budget hold it?
-- The first no decides, so that nothing is held for a call that does not start.
-- Runs behind `owns`, `allow` and `reserve`, functions made of task_queue_owns.lua, circuit_breaker_allow.lua and
-- token_budget_reserve.lua, and behind `next_call`, which gives each its KEYS and ARGV (calls.lua).
--
-- Returns {ownership, answer of allow, answer of reserve} up to and including the first no; a call outside of any task
-- has no key for `owns`, and is ours; a call that no budget pays for has none for `reserve`
local ownership = 1
local task, claim = next_call()
if task[1] then
  ownership = owns(task, claim)
end
if ownership ~= 1 then
  return {ownership}
end
local allowed = allow(next_call())
if allowed[1] == 'reject' then
  return {ownership, allowed}
end
local reservation, amount = next_call()
if not reservation[1] then
  return {ownership, allowed}
end
return {ownership, allowed, reserve(reservation, amount)}
