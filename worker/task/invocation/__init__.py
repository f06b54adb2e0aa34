"""How LangGraph is called for a task: with what it begins, and what its output or its error means."""
