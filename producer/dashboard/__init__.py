"""rq-dashboard as it can be left running: read-only, with a password. Begin with launcher.py."""
