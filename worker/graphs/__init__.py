"""Loading of a LangGraph project: langgraph.json (langgraph_json) to compiled graphs (graphs, to read first)."""
