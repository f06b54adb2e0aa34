"""Redis clients, Sentinel, Lua scripts and shared round trips. Begin with scripts.py."""
