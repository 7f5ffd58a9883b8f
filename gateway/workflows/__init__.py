"""Workflows at the gateway: calls are held to what happened before them, by a history of the gateway's own."""
