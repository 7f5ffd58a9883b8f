"""Runs every rule over one definition.  The same definition in the same surroundings has the same signs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from types import MappingProxyType
from typing import Final

from gateway.poison.subject import Sign, Subject
from policies.pinning import GRADES, Grade

MOST_OF_ONE: Final = 20
"""Signs of one rule in one definition: more say no more."""
NAMES: Final = (
    "asks-for-credentials",
    "asks-for-secrets",
    "encoded-text",
    "hidden-characters",
    "names-another-tool",
    "odd-characters",
    "odd-name",
    "orders-to-the-model",
    "oversized",
    "padding",
    "pushes-itself",
    "remote-content",
    "speaks-as-the-system",
    "terminal-escapes",
    "unread-text",
)
"""Modules of `gateway/poison/rules`, with hyphens."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its stable name, how grave its signs are, its help page, and what finds them: (where, what it is)."""

    code: str
    grade: Grade
    page: str
    find: Callable[[Subject], Iterator[tuple[str, str]]]


def _rule(code: str) -> Rule:
    module = import_module(f"gateway.poison.rules.{code.replace('-', '_')}")
    return Rule(code, module.GRADE, inspect.cleandoc(module.find.__doc__ or ""), module.find)


RULES: Final = MappingProxyType({code: _rule(code) for code in NAMES})
PAGES: Final = MappingProxyType({code: rule.page for code, rule in RULES.items()})


def scan(subject: Subject) -> tuple[Sign, ...]:
    """Every sign, the gravest first."""
    signs = [
        Sign(rule.code, rule.grade, where[:200], message)
        for rule in RULES.values()
        for where, message in islice(rule.find(subject), MOST_OF_ONE)
    ]
    return tuple(sorted(signs, key=lambda sign: -GRADES.index(sign.grade)))


def gravest(signs: Iterable[Sign]) -> Grade | None:
    """The gravest grade among signs; None where there are none."""
    return max((sign.grade for sign in signs), key=GRADES.index, default=None)
