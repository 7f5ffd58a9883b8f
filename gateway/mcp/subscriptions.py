"""`subscriptions/listen`: what a caller may hear of, in its own spelling; what it may not is left out of the acknowledgement.

Whatever was honoured is asked again when it happens: a right that ended since is no right to hear of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from gateway.mcp.errors import INVALID_PARAMS, RpcRefused
from gateway.mcp.sealed import Sealed, UnknownValueError
from gateway.mcp.tasks import Task, opened
from gateway.model import Call, Principal
from gateway.reasons import Code
from policies import names
from policies import uri as uris

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
UPDATED: Final = "notifications/resources/updated"
TASKS: Final = "notifications/tasks"
CHANGED: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
_MOST: Final = 1000


class Filter(msgspec.Struct, frozen=True, gc=False):
    """What a stream is for: kinds of lists; resources by their one form, as the client spells them; tasks by the server's id."""

    lists: frozenset[str]
    uris: Mapping[str, str]
    tasks: Mapping[str, Task]

    def sent(self) -> dict[str, Any]:
        """As the upstream is asked."""
        said: dict[str, Any] = {kind: True for kind in CHANGED.values() if kind in self.lists}
        if self.uris:
            said["resourceSubscriptions"] = list(self.uris.values())
        if self.tasks:
            said["taskIds"] = list(self.tasks)
        return said

    def told(self, honoured: Mapping[str, Any]) -> dict[str, Any]:
        """Of what the upstream honours, what was asked for, as the client spells it."""
        said: dict[str, Any] = {kind: True for kind in CHANGED.values() if kind in self.lists and honoured.get(kind) is True}
        tasks = {each: task.sealed for each, task in self.tasks.items()}
        for member, known, form in (("resourceSubscriptions", self.uris, uris.form_of), ("taskIds", tasks, str)):
            found = honoured.get(member)
            if isinstance(found, list):
                mine = [known[name] for each in found if isinstance(each, str) and (name := form(each) or "") in known]
                said |= {member: mine} if mine else {}
        return said


def with_filter(call: Call, principal: Principal, sealed: Sealed) -> Call:
    """The call for what is this caller's to ask for: tasks of its own, addresses that have a form."""
    asked = call.message["params"].get("notifications")
    if not isinstance(asked, dict):
        raise _bad(call, "notifications")
    uris, tasks = asked.get("resourceSubscriptions", []), asked.get("taskIds", [])
    if not _texts(uris) or not _texts(tasks):
        raise _bad(call, "resourceSubscriptions or taskIds")
    found: dict[str, str] = {}
    for uri in uris:
        resource = names.resource(call.target, uri)
        if resource is not None:
            found.setdefault(resource.partition("/")[2], uri)
    mine = {task.id: task for task in _mine(tasks, call.target, principal, sealed)}
    kinds = frozenset(kind for kind in CHANGED.values() if asked.get(kind) is True)
    return listening(call, Filter(kinds, found, mine))


def listening(call: Call, found: Filter) -> Call:
    """The same call, for just that."""
    params = {**call.message["params"], "notifications": found.sent()}
    return replace(call, message={**call.message, "params": params}, kept=found)


def _mine(texts: list[str], server: str, principal: Principal, sealed: Sealed) -> Iterator[Task]:
    for text in texts:
        try:
            yield opened(text, server, principal, sealed)
        except UnknownValueError:
            continue  # somebody else's, or none at all: neither is told from the other


def _texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MOST and all(isinstance(each, str) for each in value)


def _bad(call: Call, what: str) -> RpcRefused:
    return RpcRefused(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id)
