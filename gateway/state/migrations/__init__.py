"""The store's history: one file a change, applied in order at start, each whole or not at all."""
