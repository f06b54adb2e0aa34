#!lua flags=allow-oom
-- Charge reservations that are past their time, and let tasks go on that wait for their budgets, which hold less now.
--
-- Uses worker/guards/functions/prelude: next_call
-- Uses worker/guards/functions/wakers: follow_expiry
-- Calls shared/budget/scripts/expire
--
-- Returns the reply of expire
local expired = expire(next_call())
for _, payer in ipairs(expired[3]) do
  follow_expiry(unpack(payer))
end
return expired
