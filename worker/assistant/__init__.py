"""The built-in graph: answers a question with a model chosen by its complexity. To read first: graph."""
