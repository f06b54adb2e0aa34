"""LangGraph's HTTP API, which its SDKs and chat front ends speak: a module for each of its objects."""
