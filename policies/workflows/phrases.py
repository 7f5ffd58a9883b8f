"""Small phrases in which rules say what is to be done."""

from __future__ import annotations

from policies.workflows.model import Bound, Steps


def bounds_of(bound: Bound) -> str:
    """What a field must be."""
    if bound.equals is not None:
        return f"'{bound.field}' is {str(bound.equals).lower() if isinstance(bound.equals, bool) else bound.equals}"
    ends = [f"at least {bound.least}"] if bound.least is not None else []
    ends += [f"at most {bound.most}"] if bound.most is not None else []
    return f"'{bound.field}' is {all_of(ends)}"


def verb_of(steps: Steps) -> str:
    """What one does with an object."""
    return "send to" if steps.text.startswith("a2a:") else "call"


def time_of(seconds: int) -> str:
    """A time in its largest whole unit."""
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"{seconds // size} {word}{'s' if seconds != size else ''}"
    return f"{seconds} seconds"


def all_of(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def one_of(parts: tuple[str, ...]) -> str:
    """`a, b or c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
