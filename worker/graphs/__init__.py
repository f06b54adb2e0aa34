"""From langgraph.json to graphs that are ready to run. Begin with langgraph_json.py."""
