"""The language of a search: `kind:decision.deny agent:planner -server:crm since:2h purchase`.  Text to a value; asks nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Final

from audit.facets import FACETS

MAX_TEXT: Final = 1024
MAX_TERMS: Final = 32
_NAMES: Final = (*FACETS, "since", "until")
_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SECOND: Final = 1_000_000


class QueryError(ValueError):
    """The text asks for nothing that there is; says what, and what there is instead."""


@dataclass(frozen=True, slots=True)
class Term:
    """`facet` has one of `values` (none of them where `without`); a `*` at either end of one stands for anything.

    facet  "" where the word may stand in any of id, call, workflow, tool, resource, reason and agent.
    """

    facet: str
    values: tuple[str, ...]
    without: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Every term holds.  since and until: UTC microseconds, from (inclusive) and to (exclusive); None: unbounded."""

    terms: tuple[Term, ...] = ()
    since: int | None = None
    until: int | None = None

    def known_by(self, pseudonym: Callable[[str], str | None]) -> Query:
        """The same, with people named as the log names them: `subject:user:corp/ann`, or `subject:corp/ann`, by her pseudonym.

        Who has none is asked for by a text that no pseudonym is, so that nothing is found.
        """

        def named(term: Term) -> Term:
            if term.facet != "subject":
                return term
            return replace(
                term,
                values=tuple(
                    v if v.startswith(("s_", "*")) or not v else pseudonym(v) or pseudonym(f"user:{v}") or f"?{v}"
                    for v in term.values
                ),
            )

        return replace(self, terms=tuple(map(named, self.terms)))


def parse(text: str, now: int) -> Query:
    """The query that the text is; `now` in UTC microseconds is what `since:2h` counts from.  Raises `QueryError`."""
    if len(text) > MAX_TEXT:
        msg = f"a query has at most {MAX_TEXT} characters"
        raise QueryError(msg)
    try:
        words = shlex.split(text)
    except ValueError:
        msg = 'a quotation mark is not closed; a value with spaces is written as tool:"two words"'
        raise QueryError(msg) from None
    if len(words) > MAX_TERMS:
        msg = f"a query has at most {MAX_TERMS} terms"
        raise QueryError(msg)
    terms: list[Term] = []
    bounds: dict[str, int] = {}
    for word in words:
        without = word.startswith("-") and len(word) > 1
        name, colon, value = word.removeprefix("-").partition(":") if without else word.partition(":")
        if not colon or name not in _NAMES:
            if colon and re.fullmatch(r"[a-z]+", name) and name not in {"user", "svc", "http", "https", "res"}:
                _unknown(name)
            terms.append(Term("", (word.removeprefix("-") if without else word,), without))
        elif name in {"since", "until"}:
            if without or name in bounds:
                msg = f"'{name}:' is said once, and without a minus"
                raise QueryError(msg)
            bounds[name] = instant(value, now)
        else:
            terms.append(Term(name, tuple(value.split(",")), without))
    return Query(tuple(terms), bounds.get("since"), bounds.get("until"))


def instant(text: str, now: int) -> int:
    """UTC microseconds of `2026-12-01`, `2026-12-01T10:00[:00[.000]][Z|+01:00]` (UTC where it names no zone), or `90m` ago."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - int(ago[1]) * _UNITS[ago[2]] * _SECOND
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        msg = f"'{text[:64]}' is no time: write 2026-12-01, 2026-12-01T10:00Z, or 30m, 2h, 7d ago"
        raise QueryError(msg) from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    whole = int(at.replace(microsecond=0).timestamp()) * _SECOND + at.microsecond
    if not 0 <= whole < 2**53:
        msg = f"'{text[:64]}' lies outside the times that a record can have"
        raise QueryError(msg)
    return whole


def _unknown(name: str) -> None:
    near = get_close_matches(name, _NAMES, 1)
    hint = f"; did you mean '{near[0]}:'?" if near else ""
    msg = f"there is no '{name}:'{hint} There are: {', '.join(_NAMES)}"
    raise QueryError(msg)
