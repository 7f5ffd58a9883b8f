"""Every method and notification that clients send, a row each: what is done with it in either era.  What has no row is unknown.

What a row does not list is passed on untouched; what it lists has a meaning here and exactly one spelling.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MODERN: Final = ("2026-07-28",)
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
ASSUMED: Final = "2025-03-26"
"""What a request without a version header speaks."""

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
LEVEL_KEY: Final = "io.modelcontextprotocol/logLevel"
TASKS: Final = "io.modelcontextprotocol/tasks"
"""The extension by which a call becomes a task."""
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
SUBSCRIPTION_KEY: Final = "io.modelcontextprotocol/subscriptionId"

INITIALIZE: Final = "initialize"
INITIALIZED: Final = "notifications/initialized"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"
ROOTS_CHANGED: Final = "notifications/roots/list_changed"
TASK_STATUS: Final = "notifications/tasks/status"
DISCOVER: Final = "server/discover"
PING: Final = "ping"
LIST_TOOLS: Final = "tools/list"
CALL_TOOL: Final = "tools/call"
LIST_RESOURCES: Final = "resources/list"
LIST_TEMPLATES: Final = "resources/templates/list"
READ_RESOURCE: Final = "resources/read"
SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
LISTEN: Final = "subscriptions/listen"
LIST_PROMPTS: Final = "prompts/list"
GET_PROMPT: Final = "prompts/get"
COMPLETE: Final = "completion/complete"
SET_LEVEL: Final = "logging/setLevel"
GET_TASK: Final = "tasks/get"
TASK_RESULT: Final = "tasks/result"
LIST_TASKS: Final = "tasks/list"
UPDATE_TASK: Final = "tasks/update"
CANCEL_TASK: Final = "tasks/cancel"
MESSAGE: Final = "notifications/message"


class Act(StrEnum):
    """What is done with a message.  Whatever is sent on is written anew from what was checked."""

    FORWARD = "forward"  # whoever may know of the server may send it; the answer comes back as it is
    REWRITE = "rewrite"  # the same, and what the answer offers is cut down to what this caller can have
    FILTER = "filter"  # the same, and the answer's list is cut down to what this caller could use
    CHECK = "check"  # policy is asked about the very object that it names
    ANSWER = "answer"  # concerns this hop alone, and is answered here
    DROP = "drop"  # accepted, and goes no further
    REFUSE = "refuse"  # known, and answered as an unknown method


@dataclass(frozen=True, slots=True)
class Method:
    """One row.

    legacy, modern  what is done with it in the era of handshakes, and in the stateless one; None: the era does not know it.
    members         of `params` that are read here, beside `_meta`.
    withheld        of those the ones that go no further.
    named           the member that the `Mcp-Name` header repeats, "" where none does.
    again           whether it may be sent a second time, where a credential was not taken.
    known           every member of `params` that has a meaning here.
    """

    name: str
    legacy: Act | None
    modern: Act | None
    members: tuple[str, ...] = ()
    withheld: frozenset[str] = frozenset()
    named: str = ""
    notification: bool = False
    again: bool = False
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", frozenset((*self.members, "_meta")))

    def act(self, *, modern: bool) -> Act | None:
        """What is done with it in this era."""
        return self.modern if modern else self.legacy


_INPUT: Final = ("inputResponses", "requestState")
_TASK: Final = ("task",)  # 2025-11-25 only, where nobody is offered tasks; a receiver without them ignores it
_HELD: Final = frozenset(_TASK)

METHODS: Final = {
    row.name: row
    for row in (
        Method(INITIALIZE, Act.REWRITE, None, ("protocolVersion", "capabilities", "clientInfo")),
        Method(DISCOVER, None, Act.REWRITE, again=True),
        Method(PING, Act.ANSWER, None),
        Method(LIST_TOOLS, Act.FILTER, Act.FILTER, ("cursor",), again=True),
        Method(CALL_TOOL, Act.CHECK, Act.CHECK, ("name", "arguments", *_INPUT, *_TASK), withheld=_HELD, named="name"),
        Method(LIST_RESOURCES, Act.FILTER, Act.FILTER, ("cursor",), again=True),
        Method(LIST_TEMPLATES, Act.FILTER, Act.FILTER, ("cursor",), again=True),
        Method(READ_RESOURCE, Act.CHECK, Act.CHECK, ("uri", *_INPUT), named="uri", again=True),
        Method(SUBSCRIBE, Act.CHECK, None, ("uri",)),
        Method(UNSUBSCRIBE, Act.CHECK, None, ("uri",)),
        Method(LISTEN, None, Act.CHECK, ("notifications",)),
        Method(LIST_PROMPTS, Act.FILTER, Act.FILTER, ("cursor",), again=True),
        Method(GET_PROMPT, Act.CHECK, Act.CHECK, ("name", "arguments", *_INPUT), named="name", again=True),
        Method(COMPLETE, Act.CHECK, Act.CHECK, ("ref", "argument", "context"), again=True),
        Method(SET_LEVEL, Act.FORWARD, None, ("level",), again=True),
        Method(GET_TASK, Act.REFUSE, Act.CHECK, ("taskId",), named="taskId"),
        Method(TASK_RESULT, Act.REFUSE, None, ("taskId",)),
        Method(LIST_TASKS, Act.REFUSE, None, ("cursor",)),
        Method(UPDATE_TASK, None, Act.CHECK, ("taskId", "inputResponses"), named="taskId"),
        Method(CANCEL_TASK, Act.REFUSE, Act.CHECK, ("taskId",), named="taskId"),
        Method(INITIALIZED, Act.FORWARD, None, notification=True),
        Method(CANCELLED, Act.FORWARD, Act.DROP, ("requestId", "reason"), notification=True),
        Method(PROGRESS, Act.FORWARD, None, ("progressToken", "progress", "total", "message"), notification=True),
        Method(ROOTS_CHANGED, Act.CHECK, None, notification=True),
        Method(TASK_STATUS, Act.DROP, None, ("taskId",), notification=True),
    )
}
