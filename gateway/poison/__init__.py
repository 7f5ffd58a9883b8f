"""Signs of poisoning in what a server says of itself: one file a rule.  No sign is no proof of innocence."""

from gateway.poison.run import PAGES, RULES, gravest, scan
from gateway.poison.subject import Sign, Subject

__all__ = ["PAGES", "RULES", "Sign", "Subject", "gravest", "scan"]
