"""Which bundle is in force, how another comes into force, and what became of every one that tried."""
