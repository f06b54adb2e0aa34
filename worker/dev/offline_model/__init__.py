"""An OpenAI-compatible model server that needs no network, for demo, tests and benchmarks. Begin with process.py."""
