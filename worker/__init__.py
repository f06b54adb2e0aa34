"""Run LangGraph graphs from the queue."""
