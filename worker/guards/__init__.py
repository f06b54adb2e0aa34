"""The guards: circuit breaker, budget, retries and fallbacks around every model and tool call of a graph.

For graphs, all importable from `langgraph_rq`:
    guarded_chat_model   (guarded_model)       a chat model with retries and fallback models
    guarded_embeddings   (guarded_embeddings)  embeddings with retries
    guarded              (tools)               a breaker and a timeout for any other service
    ToolError            (refusals)            the service failed, or its breaker is open
In `refusals` also: `ProviderUnavailableError`, which a graph may handle, and the refusals (`BudgetExceeded`,
`TaskCancelled`, `TaskGone`, `GuardUnavailable`), which end the task and which `except Exception` does not catch.

To read: model_call (the order of the steps around one call), guards (admit and settle), admission (the two scripts).
Chat models that a graph does not wrap are guarded by a callback handler, `langgraph_rq.worker.task.guard_hook`.
"""
