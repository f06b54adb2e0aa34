"""Threads of LangGraph's API: state, searches, copies, the stream of all runs. Begin with routes.py."""
