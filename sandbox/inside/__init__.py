"""What runs inside the cage, under whichever interpreter the cage has: standard library only, Python 3.9.

The sources travel to it over its socket (`sandbox/cage.py`); nothing of the gateway is on its disk.
"""
