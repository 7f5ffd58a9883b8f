"""Calls that wait for people: parked, approved or denied by whoever may, released once."""
