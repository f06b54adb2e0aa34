"""How what a graph made leaves the worker, in results and events. Begin with `json_values`."""
