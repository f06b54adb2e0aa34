"""The queue: who owns which task. One Lua script per verb in scripts/, what they share in functions/.

Begin with verbs.py, then attempts.py and upkeep.py: the verbs of clients, of a worker, and of the fleet.
"""
