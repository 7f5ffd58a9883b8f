"""What a workflow may touch at most: objects and patterns as rules of policy write them.  A scope only ever narrows a decision.

`None` is no bound of its own.  `("*",)` is everything that the policy knows, `()` nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from policies import names

MOST = 64
LONGEST = 256
EVERYTHING = "*"
_OF_SERVERS = ("sampling:", "elicitation:", "roots:", "task:", "res:", "prompt:", "extension:")
"""What a server has beside its tools.  Agents, the administration and the console are no servers, whatever they are called."""


def parse(text: str) -> tuple[str, ...]:
    """The items of an OAuth `scope` (RFC 6749 §3.3), each once, sorted; ValueError for what is no object and no pattern."""
    items = sorted(set(text.split(" "))) if text else []
    if len(items) > MOST:
        msg = f"a scope has at most {MOST} items"
        raise ValueError(msg)
    for item in items:
        check(item)
    return tuple(items)


def check(item: str) -> None:
    """ValueError unless the item is `*`, an object (`erp.read`, `a2a:clerk`) or a pattern that rules may use (`erp.*`)."""
    if item == EVERYTHING:
        return
    kind = names.kind_of_cell(item)
    bad = len(item) > LONGEST or not item.isascii() or not item.isprintable() or any(char in item for char in ' "\\')
    if bad or kind is None or not kind.ruled or kind.instead or not (kind.has(item) or kind.covers(item)):
        msg = "a scope names objects and patterns of policy, as erp.read, erp.* or a2a:clerk"
        raise ValueError(msg)


def covers(item: str, resource: str) -> bool:
    """Whether one item of a scope covers one object, or all that another item could."""
    if item in (EVERYTHING, resource):
        return True
    return item.endswith("*") and resource.startswith(item[:-1])


def within(scope: tuple[str, ...] | None, resource: str) -> bool:
    """Whether an object lies in a scope.  A server (`erp`) or a pattern does where anything of it may."""
    if scope is None or any(covers(item, resource) for item in scope):
        return True
    if resource.endswith("*"):
        return any(covers(resource, item) for item in scope)
    return names.SLUG.fullmatch(resource) is not None and any(_of(item, resource) for item in scope)


def _of(item: str, server: str) -> bool:
    """Whether an item names something of this server: a tool, a resource, a prompt, a task …"""
    if not item.startswith(_OF_SERVERS):
        return item.startswith(f"{server}.")
    bare = item.partition(":")[2]
    return bare.startswith(f"{server}/") or bare in (server, EVERYTHING)


def narrowed(scope: tuple[str, ...] | None, *others: Iterable[str] | None) -> tuple[str, ...] | None:
    """What all of them cover: of two items the narrower one.  None only where none of them is a bound.

    Sorted, and without an item that another one covers: so the same scopes in any order come to the same text.
    """
    kept = None if scope is None else frozenset(scope)
    for other in others:
        if other is None:
            continue
        most = frozenset(other)
        if kept is None:
            kept = most
            continue
        both = {item for item in kept if any(covers(wide, item) for wide in most)}
        both |= {item for item in most if any(covers(wide, item) for wide in kept)}
        kept = frozenset(both)
    if kept is None:
        return None
    return tuple(sorted(item for item in kept if not any(covers(wide, item) for wide in kept if wide != item)))


def written(scope: tuple[str, ...] | None) -> str:
    """A scope as a token or an answer says it (RFC 6749 §3.3): `*` where it is unbounded, "" for nothing."""
    return EVERYTHING if scope is None else " ".join(scope)
