"""The rates that providers allow, for the whole fleet. Begin with pacing.py."""
