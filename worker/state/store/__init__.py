"""LangGraph's long-term memory, `store`, on plain Redis. `store.py` is its face; `scripts` has a .lua file per verb."""
