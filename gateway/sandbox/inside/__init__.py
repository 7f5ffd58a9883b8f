"""What the gateway lays beside code in a cage.  Runs there, under Python 3.9 and later; nothing of the gateway imports it."""
