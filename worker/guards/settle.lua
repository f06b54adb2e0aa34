#!lua flags=allow-oom
-- Report how a model call ended, book what it used, and add that to its task.
-- Runs behind `report`, `settle` and `use`, functions made of circuit_breaker_report.lua, token_budget_settle.lua and
-- task_queue_use.lua, and behind `next_call`, which gives each its KEYS and ARGV (calls.lua).
--
-- Returns {answer of report, answer of settle}; a call outside of any task has no key for `use`
local reported = report(next_call())
local settled = settle(next_call())
local task, used = next_call()
if task[1] and (settled[1] == 'settled' or settled[1] == 'corrected') then
  use(task, used)
end
return {reported, settled}
