"""One shape for everything that is wrong: where, what, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding for people: rendered in a terminal, as RFC 9457 problem details, or as one JSON object a line.

    code      stable, kebab-case, as `unknown-key`.
    location  `file:line:column`, a setting's path, or "".
    text      the offending line, for a caret below it; "" where there is none.
    """

    code: str
    message: str
    location: str = ""
    help: str = ""
    text: str = ""
    column: int = 0

    def render(self) -> str:
        """As a terminal shows it: location, message, the line with a caret, the next step."""
        lines = [f"{self.location}: {self.message}" if self.location else self.message]
        if self.text:
            lines += [f"    {self.text}", "    " + " " * max(self.column - 1, 0) + "^"]
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str]:
        """As `--json` and the API show it (RFC 9457 members `title` and `detail` are code and message)."""
        return {"code": self.code, "message": self.message, "location": self.location, "help": self.help}


class ProblemError(Exception):
    """Raised where input from people (settings, policies, arguments) is wrong; carries every problem found, not the first."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(p.render() for p in problems))
        self.problems = problems
