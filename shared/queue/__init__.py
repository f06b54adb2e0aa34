"""The queue: who owns which task. One Lua script per verb in scripts/; begin with verbs.py."""
