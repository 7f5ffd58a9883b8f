"""What every verb prints alike: problems for people on stderr, JSON for programs on stdout."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer
    from rich.console import Console

    from gateway.problem import Problem


WIDE = 1000


class _Outlet(io.FileIO):
    """A standard stream whose reader may leave early (`| head`): what is written then is for nobody, and no error."""

    left = False

    def write(self, data: Buffer, /) -> int:
        """As a file's."""
        try:
            return super().write(data)
        except BrokenPipeError:
            self.left = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def let_readers_leave() -> None:
    """From now on a command runs to its end, and its exit code says what it found, however early its readers leave."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        now = getattr(sys, name)
        if now is not getattr(sys, f"__{name}__") or not isinstance(now, io.TextIOWrapper) or now.fileno() != number:
            continue  # somebody else's, who sees to it
        now.flush()
        raw = io.BufferedWriter(_Outlet(number, "w", closefd=False))
        setattr(
            sys, name,
            io.TextIOWrapper(raw, now.encoding, now.errors, line_buffering=now.line_buffering, write_through=now.write_through),
        )  # fmt: skip


def unread() -> bool:
    """Whether nobody reads standard output any more: the end of a command that would go on without an end."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Outlet) and raw.left


def console(*, stderr: bool = False) -> Console:
    """A rich console that never interprets markup or emoji in what it is given, so that input cannot dress itself up."""
    from rich.console import Console  # noqa: PLC0415  only where something is printed for people

    out = Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not out.is_terminal:  # a pipe has no edge to cut at
        out.width = WIDE
    return out


def print_json(value: Mapping[str, object] | list[object]) -> None:
    """One JSON document on stdout; decimals as they were written, characters that are not seen by their numbers."""
    from policies.unseen import written  # noqa: PLC0415  only where something is printed

    print(written(json.dumps(value, indent=2, ensure_ascii=False, default=_plain)))


def print_problems(problems: Iterable[Problem], *, as_json: bool) -> None:
    """Every problem: as text on stderr, or as `{"problems": [...]}` on stdout."""
    found = list(problems)
    if as_json:
        print_json({"problems": [problem.to_dict() for problem in found]})
        return
    out = console(stderr=True)
    for problem in found:
        out.print(printable(problem.render()), end="\n\n")
    out.print(f"{len(found)} problem{'s' if len(found) != 1 else ''}", style="bold red")


class MisuseError(SystemExit):
    """The command itself was wrong: the program ends with 2, and `main` says why."""

    def __init__(self, message: str, help_: str) -> None:
        super().__init__(2)
        self.message = message
        self.help = help_


def misuse(message: str, *, help: str = "") -> NoReturn:  # noqa: A002  the word that people see
    """Say what was wrong with the command itself and exit with 2."""
    raise MisuseError(message, help)


def print_misuse(error: MisuseError, *, as_json: bool) -> None:
    """A line and what to do on stderr, or as `print_problems` has it on stdout."""
    from gateway.problem import Problem  # noqa: PLC0415  only where something went wrong

    if as_json:
        print_problems([Problem("misuse", error.message, help=error.help)], as_json=True)
        return
    print(f"bailiwick: {error.message}", file=sys.stderr)
    if error.help:
        print(f"  help: {error.help}", file=sys.stderr)


class AnsweredNoError(SystemExit):
    """The gateway said no: the program ends with `exit_code`, and `main` says what it said."""

    def __init__(self, problem: Problem, told: str, exit_code: int) -> None:
        super().__init__(exit_code)
        self.problem = problem
        self.told = told


def print_no(error: AnsweredNoError, *, as_json: bool) -> None:
    """What the gateway said, on stderr, or as `print_problems` has it on stdout."""
    if as_json:
        print_problems([error.problem], as_json=True)
        return
    print(printable(error.told), file=sys.stderr)
    if error.problem.help:
        print(f"  help: {error.problem.help}", file=sys.stderr)


def printable(text: str) -> str:
    """Text from a file or a caller without control characters: a terminal shows it and nothing else happens."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
