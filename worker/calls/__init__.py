"""Calls of models and other services, with retries and fallbacks, each behind the fleet's breaker and budget.

For graphs, all importable from `langgraph_rq`:
    guarded_chat_model   (guarded_model)       a chat model with retries and fallback models
    guarded_embeddings   (guarded_embeddings)  embeddings with retries
    guarded              (tools, once)         a breaker and a timeout for any other service; a call that is made once

To read: model_call (the order of the steps around one call), then what it asks, `langgraph_rq.worker.guards`.
Patched into LangChain's classes: replay, stream_usage, rate_headers.
Chat models that a graph does not wrap are guarded by a callback handler, `langgraph_rq.worker.task.guard_hook`.
"""
