"""Loading of a LangGraph project: langgraph.json (langgraph_json) to graphs that are ready to run.

To read first: graphs. It calls factories (factories) and chooses checkpointer and store (brought_state).
"""
