"""What a request passes before its route: its API key, the size of its body, the rate of its user.

Begin with access.py.
"""
