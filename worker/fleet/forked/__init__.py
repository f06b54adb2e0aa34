"""Processes that a worker forks for tasks under which workers crashed, and those that a node forks.

isolation.py     the tasks that run apart (isolated.py: what runs in such a process)
fork_server.py   where these processes come from
forks.py         what a node forks is no second worker
"""
