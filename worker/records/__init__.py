"""What a running node has done since its last checkpoint, so that it is not done again when the node runs again.

To read: position (which call of which run of a node), journal (the answers
of models), ledger (calls that are made once).
"""
