"""The guards: what may call a model now, and what it cost. Breaker, budget and pacing, asked in one round trip.

In `refusals`, what a call gets that may not start: `ToolError` and `OutcomeUnknown` (importable from `langgraph_rq`)
and `ProviderUnavailableError`, which a graph may handle, and those that end the task and which `except Exception` does
not catch (`BudgetExceeded`, `TaskCancelled`, `TaskGone`, `GuardUnavailable`).

To read: guards (admit and settle), task_guard (the run that a call belongs to), admission (the scripts around a call).
The calls themselves: `langgraph_rq.worker.calls`.
"""
