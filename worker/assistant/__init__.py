"""The built-in graph, which answers questions with a model chosen by their complexity. Begin with graph.py."""
