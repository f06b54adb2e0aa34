"""The life of one task: read it, run its graph, deliver its events and its result. Begin with run.py."""
