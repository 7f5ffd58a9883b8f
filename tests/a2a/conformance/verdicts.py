"""Checks of what A2A 1.0 demands, judged at an agent directly and through the gateway: a check is a function that asserts."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.a2a.conformance.grpc_wire import Grpc
from tests.a2a.conformance.wires import OVER_HTTP, Wire
from tests.a2a.pairs import KINDS, Pairs

WIRES: Mapping[str, type[Wire]] = OVER_HTTP | {"GRPC": Grpc}
Body = Callable[[Any], Awaitable[None]]
PASSED = "passed"


@dataclass(frozen=True)
class Check:
    """name: a sentence with blanks; bindings and kinds of agent where it is asked."""

    name: str
    body: Body
    bindings: tuple[str, ...]
    kinds: tuple[str, ...]


CHECKS: dict[str, Check] = {}


def check(*, bindings: Iterable[str] = tuple(WIRES), kinds: Iterable[str] = ("full",)) -> Callable[[Body], Body]:
    """Register a check under its function's name."""

    def register(body: Body) -> Body:
        add(body.__name__, body, bindings=bindings, kinds=kinds)
        return body

    return register


def each(rows: dict[str, Any], **where: Any) -> Callable[[Callable[[Any, Any], Awaitable[None]]], Any]:
    """Register a check for every row of a table."""

    def register(body: Callable[[Any, Any], Awaitable[None]]) -> Any:
        for name, row in rows.items():
            add(f"{body.__name__}[{name}]", functools.partial(_turned, body, row), **where)
        return body

    return register


async def _turned(body: Callable[[Any, Any], Awaitable[None]], row: Any, wire: Any) -> None:
    await body(wire, row)


def add(name: str, body: Body, *, bindings: Iterable[str] = tuple(WIRES), kinds: Iterable[str] = ("full",)) -> None:
    """Register a check; a name is taken once."""
    assert name not in CHECKS, name
    unknown = set(kinds) - KINDS.keys() | set(bindings) - WIRES.keys()
    assert not unknown, unknown
    CHECKS[name] = Check(name, body, tuple(bindings), tuple(kinds))


@asynccontextmanager
async def wired(pairs: Pairs, kind: str, binding: str, side: str) -> Any:
    """The wire to an agent: its card is read first, and says where the binding is."""
    way = pairs.side(kind, side)
    async with httpx.AsyncClient(timeout=40, trust_env=False, verify=False) as http:
        place = f"{way.url.rstrip('/')}/.well-known/agent-card.json"
        card = (await http.get(place, headers=dict(way.headers))).raise_for_status().json()
        wire = WIRES[binding](way, http, pairs.hook, card)
        try:
            yield wire
        finally:
            await wire.close()


async def judged(found: Check, pairs: Pairs, kind: str, binding: str, side: str) -> str:
    """PASSED, or what was asserted in vain."""
    async with wired(pairs, kind, binding, side) as wire:
        try:
            await found.body(wire)
        except (AssertionError, KeyError, TypeError, ValueError, IndexError, StopIteration, httpx.HTTPError) as error:
            return f"{type(error).__name__}: {error} at {traceback.extract_tb(error.__traceback__)[-1].lineno}"
    return PASSED


__all__ = ["CHECKS", "PASSED", "Check", "Wire", "check", "each", "judged", "wired"]
