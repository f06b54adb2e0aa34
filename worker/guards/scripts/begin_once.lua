#!lua flags=allow-oom
-- Decide whether a call that is made once may start, and reserve it: does this worker own its task, what has become of
-- the call before, does its breaker admit it?
-- What has become of it comes before the breaker: a recorded result needs no service. A call that starts is reserved in
-- the same step.
--
-- Uses worker/guards/functions/prelude: next_call
-- Uses worker/records/functions/entries: find_entry, reserve_entry
-- Calls shared/queue/scripts/running/owns
-- Calls shared/breaker/allow
--
-- Returns {ownership} if it is not 1, else {ownership, reply of allow, what became of it, recorded result}. Without a
-- reply of allow (0) the breaker was not asked, because the call does not start: "done", "unknown" or "full". With one
-- it is reserved, unless the breaker rejects it.
local task, claim = next_call()
local ownership = owns(task, claim)
if ownership ~= 1 then
  return {ownership}
end
local ledger, entry = next_call()
local became, result = find_entry(ledger[1], entry)
if became then
  return {ownership, 0, became, result}
end
local breaker, call = next_call()
local allowed = allow(breaker, call)
if allowed[1] ~= 'reject' then
  reserve_entry(ledger[1], entry)
end
return {ownership, allowed, '', ''}
