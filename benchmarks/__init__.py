"""Benchmarks against the bare graph, RQ and arq, all in one run, on private Redis servers and an offline model server.

Begin with `run.py`, which `make bench` starts. `measurements/` has a module per measurement, `systems/` what they
measure, `reports/` the tables, files and plot. `rig.py` starts and ends servers and processes. `breaker_stampede.py` is
a program of its own.
"""
