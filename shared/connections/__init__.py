"""Redis clients, Sentinel, Lua scripts, batched round trips, consumer groups. Begin with scripts.py."""
