"""The clients: submit tasks, look them up, wait for them and follow their events.

core.py holds every operation, once; async_client.py and client.py are its two faces; transports.py reaches Redis.
Begin with core.py.
"""
