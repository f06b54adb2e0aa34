"""Logs, metrics, traces and the audit log, as producers and workers write them. Begin with logs.py."""
