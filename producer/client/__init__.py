"""The clients: submit tasks, look them up, wait for them and follow their events. Begin with client.py."""
