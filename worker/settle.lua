#!lua flags=allow-oom
-- Report how a model call ended, and book what it used.
-- Runs behind `report` and `settle`, functions made of circuit_breaker_report.lua and token_budget_settle.lua, and behind
-- `next_call`, which gives each its KEYS and ARGV (calls.lua).
--
-- Returns {answer of report, answer of settle}
local reported = report(next_call())
return {reported, settle(next_call())}
