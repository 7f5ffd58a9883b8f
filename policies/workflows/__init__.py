"""Workflows: which steps are fixed, what must come first, and how much may be done.  Rules here refuse; none of them grants."""
