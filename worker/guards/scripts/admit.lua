#!lua flags=allow-oom
-- Decide whether a call may start: does this worker own its task, does the breaker admit it, is it its turn at the rate
-- of its provider, may its tenant have one more in flight, does the budget hold it?
-- The first refusal ends the script, so that nothing is held for a call that does not start: what its rate was booked
-- with before the budget refused it is given back. A refusal that may end is recorded, since the task may wait for it.
--
-- Uses worker/guards/functions/prelude: next_call
-- Uses worker/guards/functions/wakers: breaker_thing, follow_busy
-- Uses worker/guards/functions/tenant_calls: take_place, leave_place
-- Calls shared/queue/scripts/running/owns
-- Calls shared/breaker/allow
-- Calls shared/pacing/pace
-- Calls shared/pacing/correct
-- Calls shared/budget/scripts/reserve
-- Calls shared/queue/scripts/waiting/await
--
-- Returns {ownership, reply of allow, reply of pace, reply of reserve}, up to and including the first refusal. Without
-- keys for `owns` the call belongs to no task and counts as owned; without keys for `pace` its rate has no limit;
-- without keys for its place its tenant may have any number in flight; without keys for `reserve` no budget pays for it.
-- A tenant that has no place is the reply of a busy budget, with the unit "calls".
local ownership = 1
local task, claim = next_call()
if task[1] then
  ownership = owns(task, claim)
end
if ownership ~= 1 then
  return {ownership}
end
local breaker, call = next_call()
local allowed = allow(breaker, call)
if allowed[1] == 'reject' then
  if task[1] then
    await({}, {breaker_thing(breaker), allowed[3], ''})
  end
  return {ownership, allowed}
end
local rate, tokens = next_call()
local wait_ms = 0
if rate[1] then
  wait_ms = pace(rate, tokens)
end
local places, place = next_call()
local reservation, amount = next_call()
if wait_ms > 0 or not reservation[1] then
  return {ownership, allowed, wait_ms}
end
local has_place, in_flight = true, 0
if places[1] then
  has_place, in_flight = take_place(places, place)
end
local reserved
if has_place then
  reserved = reserve(reservation, amount)
  if places[1] and reserved[1] ~= 'held' then
    leave_place(places, place)
  end
else
  reserved = {'busy', 'tenant', 'calls', tonumber(place[2]), 0, in_flight, 1, 0, ''}
end
if rate[1] and reserved[1] ~= 'held' then
  correct(rate, {tokens[1], tokens[2], -1, -tokens[3], ''})
end
if task[1] and reserved[1] == 'busy' then
  follow_busy(reserved[2], amount[8], amount[9], amount[10])
end
return {ownership, allowed, wait_ms, reserved}
