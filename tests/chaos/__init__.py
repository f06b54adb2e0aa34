"""Fault injection: break parts of an installation and check that no promise is broken.

Begin with `scenarios/table.py`, which names the function of each fault. `run.py` holds one run of a scenario.
`testbed/` is the installation: Redis, a model server, worker processes and a proxy that loses replies. `checking/`
judges the recorded history.
"""
