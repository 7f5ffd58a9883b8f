"""The changes themselves.  A released one is never edited."""
