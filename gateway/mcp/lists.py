"""What of an upstream's lists a caller sees: decided by the very judge that decides calls, on the very same objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from gateway.mcp.normalise import prompt
from gateway.model import Clock, Principal, UpstreamError
from gateway.scope import within
from policies import names
from policies.model import NOTHING, AccessRequest, Decision


class Could(Protocol):
    """Whether this principal could do anything of this kind to this object, under some arguments where it is a tool.

    The object as rules write it: `<server>.<tool>`, `res:<server>/<uri>`, `prompt:<server>/<name>`; `<server>` asks whether the
    principal may know of the server.  `UNDER` asks of a pattern whether there is something under it; no other action does.
    """

    def __call__(self, principal: Principal, resource: str, action: str = "", /) -> bool:
        """`action` where the object's kind has several; the first one of its kind otherwise."""


UNDER: Final = "list"
TTL_CAP_MS = 30_000


def asking(decide: Callable[[AccessRequest], Decision], clock: Clock) -> Could:
    """`Could` by the very function that decides calls, asked without arguments."""

    def could(principal: Principal, resource: str, action: str = "", /) -> bool:
        under = action == UNDER
        kind = names.kind_of_cell(resource)  # of its form the judge has the last word
        if kind is None:
            return False
        if kind is names.TOOLS and "." not in resource:
            kind = names.SERVERS
        request = AccessRequest(
            subject=principal.subject,
            actors=principal.actors,
            tenant=principal.tenant,
            action=action or next(iter(kind.actions)),
            resource=resource,
            at=clock(),
            groups=principal.groups,
            arguments=None if kind is names.TOOLS and not under else NOTHING,
            context=principal.facts("mcp"),
        )
        return decide(request).allowed and within(principal.scope, resource)

    return could


Asked = tuple[str, str]
"""(object, action) that an entry of a list comes to."""


def tool_object(server: str, entry: dict[str, Any]) -> Asked:
    """What an entry of `tools/list` comes to."""
    return f"{server}.{_text(entry, 'name')}", "call"


def prompt_object(server: str, entry: dict[str, Any]) -> Asked:
    """What an entry of `prompts/list` comes to."""
    return prompt(server, _text(entry, "name")), "get"


def resource_object(server: str, entry: dict[str, Any]) -> Asked:
    """What an entry of `resources/list` comes to; where its address has no form, nobody can ask for it."""
    return names.resource(server, _text(entry, "uri")) or "", "read"


def template_object(server: str, entry: dict[str, Any]) -> Asked:
    """What an entry of `resources/templates/list` stands for."""
    found = names.template(server, _text(entry, "uriTemplate")) or ""
    return found, UNDER if found.endswith("*") else "read"


ObjectOf = Callable[[str, dict[str, Any]], Asked]


def visible(
    result: dict[str, Any], member: str, object_of: ObjectOf, *, server: str, principal: Principal, could: Could, modern: bool
) -> dict[str, Any]:
    """A list's result with the entries that the caller could use, in the upstream's order, every one untouched."""
    entries = result.get(member)
    if not isinstance(entries, list):
        raise UpstreamError("protocol", f"no list of {member}")
    kept = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise UpstreamError("protocol", f"an entry of {member} is not an object")
        found, action = object_of(server, entry)
        if found and could(principal, found, action):
            kept.append(entry)
    return cached({**result, member: kept}, modern=modern)


def _text(entry: dict[str, Any], member: str) -> str:
    text = entry.get(member)
    if not isinstance(text, str):
        raise UpstreamError("protocol", f"an entry without {member}")
    return text


def cached(result: dict[str, Any], *, modern: bool) -> dict[str, Any]:
    """The result with cache fields that hold for this caller alone; an older revision has none."""
    if not modern:
        return {key: value for key, value in result.items() if key not in {"ttlMs", "cacheScope"}}
    ttl = result.get("ttlMs")
    if not isinstance(ttl, int) or isinstance(ttl, bool):
        ttl = 0
    return {**result, "ttlMs": min(max(ttl, 0), TTL_CAP_MS), "cacheScope": "private"}
