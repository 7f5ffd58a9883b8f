"""What each side may offer the other: of what it declares, what policy lets this caller and this server have and is served here.

Nothing is passed on because it is unknown: a capability has a line here, or it is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.lists import UNDER, Could
from gateway.mcp.methods import TASKS
from gateway.model import Principal
from policies import names

QUESTIONS: Final[frozenset[str]] = frozenset({"sampling", "elicitation", "roots"})
"""Of `sampling`, `elicitation` and `roots` those whose questions are carried to the client; the others are never declared."""
STATELESS: Final[frozenset[str]] = frozenset({TASKS})
"""Extensions that exist in the stateless era alone."""

_OFFERED: Final[Mapping[str, frozenset[str]]] = {
    "tools": frozenset({"listChanged"}),
    "resources": frozenset({"listChanged", "subscribe"}),
    "prompts": frozenset({"listChanged"}),
    "completions": frozenset(),
    "logging": frozenset(),
}
"""What a server may offer, and of each the parts that are served: `listChanged` and `subscribe` where their notices are."""
_OBJECTS: Final[Mapping[str, str]] = {"tools": "{}.*", "resources": "res:{}/*", "prompts": "prompt:{}/*"}


def allowed(declared: object, principal: Principal, server: str, could: Could, *, modern: bool = True) -> dict[str, Any]:
    """Of a client's declared capabilities those that this server may use for this principal; nothing where nothing is granted.

    `sampling:<server>` create, `elicitation:<server>` form and url, `roots:<server>` read, `extension:<server>/<id>` use, and
    for the tasks extension `task:<server>` read.  Questions are decided again, one by one, by the same objects.
    """
    if not isinstance(declared, dict) or not declared:
        return {}
    kept: dict[str, Any] = {}
    for name in ("sampling", "roots"):
        if name in QUESTIONS and isinstance(declared.get(name), dict) and could(principal, f"{name}:{server}"):
            kept[name] = {key: value for key, value in declared[name].items() if key != "context"}
    if "elicitation" in QUESTIONS and isinstance(declared.get("elicitation"), dict):
        asks = _elicitation(declared["elicitation"], principal, server, could)
        if asks is not None:
            kept["elicitation"] = asks
    extensions = _extensions(declared.get("extensions"), principal, server, could, modern=modern)
    if extensions:
        kept["extensions"] = extensions
    return kept


def _elicitation(declared: Mapping[str, Any], principal: Principal, server: str, could: Could) -> dict[str, Any] | None:
    """The ways of asking a person that are left; an empty object is how older clients say `form`."""
    ways = {way: declared[way] for way in ("form", "url") if isinstance(declared.get(way), dict)} or {"form": {}}
    left = {way: said for way, said in ways.items() if could(principal, f"elicitation:{server}", way)}
    if not left:
        return None
    return {} if not declared else left


def _extensions(declared: object, principal: Principal, server: str, could: Could, *, modern: bool) -> dict[str, Any]:
    """Tasks are of the stateless era alone (SEP-2663)."""
    if not isinstance(declared, dict):
        return {}
    return {
        name: said
        for name, said in list(declared.items())[:64]
        if (modern or name not in STATELESS) and _granted(name, principal, server, could)
    }


def _granted(name: str, principal: Principal, server: str, could: Could) -> bool:
    found = f"task:{server}" if name == TASKS else f"extension:{server}/{name}"
    return names.kind_of(found) is not None and could(principal, found)


def offered(said: object, principal: Principal, server: str, could: Could, *, modern: bool = True) -> dict[str, Any]:
    """Of a server's capabilities those that are served here and of which this caller could use anything."""
    if not isinstance(said, dict):
        return {}
    kept: dict[str, Any] = {}
    for name, parts in _OFFERED.items():
        if isinstance(said.get(name), dict) and (name not in _OBJECTS or could(principal, _OBJECTS[name].format(server), UNDER)):
            kept[name] = {part: value for part, value in said[name].items() if part in parts}
    if "completions" in kept and not kept.keys() & {"prompts", "resources"}:
        del kept["completions"]  # it completes nothing that this caller could use
    extensions = _extensions(said.get("extensions"), principal, server, could, modern=modern)
    if extensions:
        kept["extensions"] = extensions
    return kept
