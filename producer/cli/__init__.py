"""The command line, langgraph-producer. Begin with main.py."""
