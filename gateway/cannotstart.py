"""What kept a gateway from starting, as a page for people: never a traceback for what an operator can put right."""

from __future__ import annotations

from pathlib import Path

from audit.model import LedgerUnavailableError
from gateway.problem import Problem, ProblemError


def as_problem(error: Exception) -> Exception:
    """The same failure, as a `ProblemError`."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, LedgerUnavailableError):
        hint = "is another gateway running with this ledger, and can it be reached and read?"
        return ProblemError(Problem("ledger-unavailable", f"the ledger cannot be opened: {error.detail}", "ledger", hint))
    if isinstance(error, OSError):
        where = f"{error.filename}" if isinstance(error.filename, str | Path) else "data"
        text = f"the gateway cannot start: {error.strerror or error}"
        return ProblemError(Problem("cannot-start", text, where, "can the gateway write its data folder and read its files?"))
    return ProblemError(Problem("cannot-start", str(error)))
