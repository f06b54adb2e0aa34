"""What a client reads of tasks: status, results, events, lists, what is left of those that are over. See lookup.py."""
