"""What is wrong with a bundle that loads: one file a rule, each finding with its place, silence only where a comment asks."""

from policies.lint.ground import Facts, Ground, Hit, Severity
from policies.lint.run import PAGES, RULES, Complaint, LintRule, Result, Suppressed, lint, refused

__all__ = [
    "PAGES",
    "RULES",
    "Complaint",
    "Facts",
    "Ground",
    "Hit",
    "LintRule",
    "Result",
    "Severity",
    "Suppressed",
    "lint",
    "refused",
]
