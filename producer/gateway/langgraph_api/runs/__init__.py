"""Runs of LangGraph's API: what a client asks, how a run starts, streams and is recorded. Begin with routes.py."""
