"""The queue: who owns which task, decided in one Lua script per verb. Begin with verbs.py."""
