#!lua flags=allow-oom
-- Report a call's outcome to its breaker before the call is settled, and let the tasks go on that waited for it.
--
-- Uses worker/guards/functions/prelude: next_call
-- Uses worker/guards/functions/wakers: follow_report
-- Calls shared/breaker/report
--
-- Returns the reply of report
local keys, arguments = next_call()
local reported = report(keys, arguments)
follow_report(keys, arguments, reported)
return reported
