"""What a workflow may touch at most: objects and patterns as rules of policy write them.  A scope only ever narrows a decision.

`None` is no bound of its own.  `("*",)` is everything that the policy knows, `()` nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from policies import names

MOST = 64
LONGEST = 256
EVERYTHING = "*"


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
    kind = names.kind_of(item)
    bad = len(item) > LONGEST or not item.isascii() or not item.isprintable() or any(char in item for char in ' "\\')
    if bad or kind is None or not kind.ruled or item.startswith("set:") or not (kind.has(item) or kind.covers(item)):
        msg = "a scope names objects and patterns of policy, as erp.read, erp.* or a2a:clerk"
        raise ValueError(msg)


def covers(item: str, resource: str) -> bool:
    """Whether one item of a scope covers one object, or all that another item could."""
    if item in (EVERYTHING, resource):
        return True
    return item.endswith("*") and resource.startswith(item[:-1])


def within(scope: tuple[str, ...] | None, resource: str) -> bool:
    """Whether an object lies in a scope.  A server (`erp`) does where anything of it may."""
    if scope is None or any(covers(item, resource) for item in scope):
        return True
    return names.SLUG.fullmatch(resource) is not None and any(_of(item, resource) for item in scope)


def _of(item: str, server: str) -> bool:
    """Whether an item names something of this server: a tool, a resource, a prompt, a task …"""
    bare = item.partition(":")[2] if ":" in item and not item.startswith("a2a:") else item
    return bare.startswith((f"{server}.", f"{server}/")) or (bare == server and bare != item)


def narrowed(scope: tuple[str, ...] | None, *others: Iterable[str] | None) -> tuple[str, ...] | None:
    """What all of them cover: of two items the narrower one.  None only where none of them is a bound."""
    kept = scope
    for other in others:
        if other is None:
            continue
        most = tuple(other)
        if kept is None:
            kept = most
            continue
        both = {item for item in kept if any(covers(wide, item) for wide in most)}
        both |= {item for item in most if any(covers(wide, item) for wide in kept)}
        kept = tuple(sorted(both))
    return kept
