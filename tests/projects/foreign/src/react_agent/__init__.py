"""An agent that reasons and calls tools, in the form of LangChain's template react-agent."""

from react_agent.graph import graph

__all__ = ["graph"]
