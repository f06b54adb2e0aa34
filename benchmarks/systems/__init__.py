"""The systems that are compared: our worker and the bare graph in contenders.py, RQ and arq in peers.py."""
