"""Everything that is governed, a row each: how its objects are written, which actions there are, and who is asked.

Later work adds rows, never grammar.  An object that does not fit its kind is unknown; a rule that does not is a finding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from policies import uri

RELAY: Final = "relay"
"""What every earlier agent of a chain is asked, whatever the call: may it cause this?"""
SLUG: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TOOL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.[A-Za-z0-9_./-]{1,128}")
MAX_OBJECT: Final = 1000

_HOST = re.compile(r"(?=.{1,253}:)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*:")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PROMPT = re.compile(rf"{SLUG.pattern}/[A-Za-z0-9_./-]{{1,128}}")
_EXTENSION = re.compile(rf"{SLUG.pattern}/[A-Za-z0-9.-]{{1,128}}/[A-Za-z0-9._-]{{1,64}}")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of governed thing.

    prefix    of its objects, with the colon; "" for tools and servers.
    written   the grammar, for people; `patterns` the forms with a star that rules may use.
    actions   action → the operations that ask for it.
    asks      `chain`: person, earlier agents (for relay) and acting agent; `acting`: the acting principal alone.
    ruled     whether rules name it; what is not named follows from other rules.
    instead   why rules may not name it yet: its operations are decided by something else, which this says.
    fits      whether a text, after the prefix, is one of its objects; `wide` whether one before a `*` begins some.
    """

    name: str
    prefix: str
    written: str
    patterns: tuple[str, ...]
    actions: Mapping[str, str]
    fits: Callable[[str], bool] = field(repr=False)
    wide: Callable[[str], bool] = field(repr=False)
    asks: Literal["chain", "acting"] = "chain"
    ruled: bool = True
    instead: str = ""

    def has(self, name: str) -> bool:
        """Whether a whole name is one of its objects."""
        return name.startswith(self.prefix) and self.fits(name[len(self.prefix) :])

    def covers(self, pattern: str) -> bool:
        """Whether a whole name with a star at its end is one of its patterns."""
        return pattern.startswith(self.prefix) and pattern.endswith("*") and self.wide(pattern[len(self.prefix) : -1])


def _matches(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text) is not None


def _one_of(words: tuple[str, ...], text: str) -> bool:
    return text in words


def _resource(text: str) -> bool:
    server, slash, rest = text.partition("/")
    return bool(slash) and SLUG.fullmatch(server) is not None and uri.is_canonical(rest)


def _resources(text: str) -> bool:
    server, slash, rest = text.partition("/")
    return bool(slash) and SLUG.fullmatch(server) is not None and (not rest or uri.prefix(rest))


def _after_server(mark: str, text: str) -> bool:
    return text.endswith(mark) and SLUG.fullmatch(text[:-1]) is not None


def _host(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return _before_port(host + ":") and _PORT.fullmatch(port) is not None and int(port) <= 65535


def _hosts(text: str) -> bool:
    return not text or _before_port(text)


def _before_port(text: str) -> bool:
    """Whether it is a host by name, and a colon; what a resolver takes for an address is none."""
    return _HOST.fullmatch(text) is not None and text[:-1].rpartition(".")[2][0].isalpha()


def _approved(text: str) -> bool:
    """Whether a call can be parked that asks for this object."""
    kind = kind_of(text)
    return kind is not None and kind.ruled and kind.name != "approval"


def _approvable(text: str) -> bool:
    """The same of a pattern, without its star."""
    kind = kind_of_cell(text)
    return not text or (kind is not None and kind.name != "approval" and kind.covers(text + "*"))


def _all(text: str) -> bool:
    return text == ""


def _none(_text: str) -> bool:
    return False


_slug = partial(_matches, SLUG)
AREAS: Final = (
    "policy",
    "decisions",
    "agents",
    "servers",
    "tasks",
    "approvals",
    "workflows",
    "kills",
    "keys",
    "grants",
    "erasure",
    "holds",
    "gateway",
)
"""What is administered: `admin:<area>`."""
SCREENS: Final = ("overview", "calls", "policy", "agents", "servers", "approvals", "ledger", "sandbox")
"""What the console shows: `console:<screen>`."""
LOGS: Final = ("ledger", "root")
"""What is audited: `audit:<log>`; the root log's records are the checkpoints of others."""

_CALLED = "write 'send' on a2a:<agent>: who may send to an agent may read and cancel its own tasks there"

KINDS: Final = (
    Kind("tool", "", "`<server>.<tool>`", ("`<server>.*`", "`set:<name>`"),
         {"call": "MCP `tools/call`; `tools/list` asks it with arguments unknown; the sandbox's tools"},
         partial(_matches, TOOL), partial(_after_server, ".")),
    Kind("server", "", "`<server>`", (),
         {"list": "MCP `initialize`, `server/discover`, `ping`, `tools/list` and the other lists, notifications"},
         _slug, _none, asks="acting", ruled=False),
    Kind("resource", "res:", "`res:<server>/<uri>`", ("`res:<server>/*`", "`res:<server>/<beginning of a uri>*`"),
         {"read": "MCP `resources/read`, `completion/complete` of a template; `resources/list` shows what may be read",
          "subscribe": "MCP `resources/subscribe`, and its notifications"},
         _resource, _resources),
    Kind("prompt", "prompt:", "`prompt:<server>/<name>`", ("`prompt:<server>/*`",),
         {"get": "MCP `prompts/get`, `completion/complete` of a prompt; `prompts/list` shows what may be got"},
         partial(_matches, _PROMPT), partial(_after_server, "/")),
    Kind("extension", "extension:", "`extension:<server>/<vendor>/<name>`", ("`extension:<server>/*`",),
         {"use": "an extension of MCP that client and server may agree on, as `io.modelcontextprotocol/ui`"},
         partial(_matches, _EXTENSION), partial(_after_server, "/")),
    Kind("sampling", "sampling:", "`sampling:<server>`", ("`sampling:*`",),
         {"create": "MCP `sampling/createMessage`: a server's question to the client's model"}, _slug, _all),
    Kind("elicitation", "elicitation:", "`elicitation:<server>`", ("`elicitation:*`",),
         {"form": "MCP `elicitation/create` with a form", "url": "MCP `elicitation/create` that sends the person to a page"},
         _slug, _all),
    Kind("roots", "roots:", "`roots:<server>`", ("`roots:*`",),
         {"read": "MCP `roots/list`: a server's question for the client's folders"}, _slug, _all),
    Kind("task", "task:", "`task:<server>`", ("`task:*`",),
         {"read": "MCP `tasks/get`, of one's own tasks", "update": "MCP `tasks/update`",
          "cancel": "MCP `tasks/cancel`"}, _slug, _all),
    Kind("agent", "a2a:", "`a2a:<agent>`", ("`a2a:*`",),
         {"send": "A2A `SendMessage`, `SendStreamingMessage`, `GetTask` and the other operations on tasks, the agent card"},
         _slug, _all),
    Kind("skill", "skill:", "`skill:<agent>/<skill id>`", ("`skill:<agent>/*`",),
         {"read": "A2A agent cards: which skills of an agent a caller is told of; where no line names one, whoever may send"},
         partial(_matches, _PROMPT), partial(_after_server, "/")),
    Kind("agent-task", "a2a-task:", "`a2a-task:<agent>`", ("`a2a-task:*`",),
         {"read": "A2A `GetTask`, `ListTasks`, `SubscribeToTask`", "cancel": "A2A `CancelTask`",
          "push": "A2A push notification configurations"}, _slug, _all, instead=_CALLED),
    Kind("profile", "profile:", "`profile:<name>`", ("`profile:*`",),
         {"use": "the sandbox's tools, where the caller names a profile itself"}, _slug, _all),
    Kind("host", "host:", "`host:<name>:<port>`", ("`host:*`", "`host:<name>:*`"),
         {"connect": "a connection that sandboxed code opens, under a profile that lists the host"}, _host, _hosts),
    Kind("approval", "approval:", "`approval:<object>`", ("`approval:*`", "`approval:<pattern of that kind>`"),
         {"approve": "a person's yes or no to a parked call that asks for that object"}, _approved, _approvable),
    Kind("administration", "admin:", "`admin:<area>`", ("`admin:*`",),
         {"read": "seeing an area's state", "change": "changing it", "approve": "agreeing to another's change",
          "ask": "asking for decisions about others (`admin:decisions`)"},
         partial(_one_of, AREAS), _all),
    Kind("console", "console:", "`console:<screen>`", ("`console:*`",),
         {"read": "a page of the console, and its JSON twin"}, partial(_one_of, SCREENS), _all),
    Kind("audit", "audit:", "`audit:<log>`", ("`audit:*`",),
         {"read": "reading records", "open": "opening what they carried, which is sealed",
          "export": "taking records out", "verify": "proofs, and checks of the whole log",
          "review": "saying on record that a period was looked at"},
         partial(_one_of, LOGS), _all),
)  # fmt: skip

TOOLS, SERVERS = KINDS[0], KINDS[1]
EVERY_AGENT: Final = "a2a:*"
"""What `list` is asked of where agents are looked for."""
ACTIONS: Final = tuple(dict.fromkeys(action for kind in KINDS if kind.ruled for action in kind.actions))
"""What rules and questions can name, beside `relay`, `list` and `*`."""
WITH_ARGUMENTS: Final = frozenset({TOOLS.name})
"""Kinds whose questions carry arguments and facts of a tool that conditions can read."""

_PREFIXED: Mapping[str, Kind] = {kind.prefix[:-1]: kind for kind in KINDS if kind.prefix}
PREFIXES: Final = tuple(kind.prefix for kind in KINDS if kind.prefix)


def kind_of(name: str) -> Kind | None:
    """The kind of an object, in its one form; None for what fits none."""
    if len(name) > MAX_OBJECT:
        return None
    prefix, colon, _ = name.partition(":")
    if colon:
        kind = _PREFIXED.get(prefix)
        return kind if kind is not None and kind.has(name) else None
    return TOOLS if TOOLS.has(name) else SERVERS if SERVERS.has(name) else None


def kind_of_pattern(name: str) -> Kind | None:
    """The kind of what lies under a pattern of one server: `<server>.*`, `res:<server>/…*`, `prompt:<server>/*`."""
    if len(name) > MAX_OBJECT:
        return None
    kind = kind_of_cell(name)
    return kind if kind is not None and kind.name in ("tool", "resource", "prompt") and kind.covers(name) else None


def kind_of_cell(cell: str) -> Kind | None:
    """The kind that a rule's object is of, pattern or not, by its prefix alone; None for an unknown prefix."""
    prefix, colon, _ = cell.partition(":")
    return (TOOLS if prefix == "set" else _PREFIXED.get(prefix)) if colon else TOOLS


def reached(cell: str, action: str) -> tuple[Kind, ...]:
    """The kinds whose questions a rule with this object and action can speak to."""
    kinds = KINDS if cell == "*" else (kind,) if (kind := kind_of_cell(cell)) is not None else ()
    return tuple(kind for kind in kinds if kind.ruled and (action in ("*", RELAY) or action in kind.actions))


def resource(server: str, address: str) -> str | None:
    """The object of a resource as a client names it; None where its URI has no one form, or cannot stand in a rule."""
    form = uri.form_of(address)
    return None if form is None or SLUG.fullmatch(server) is None else f"res:{server}/{form}"


def skill(agent: str, text: str) -> str | None:
    """The object of a skill by its id on the agent's card; None for an id that can stand in no rule."""
    name = f"skill:{agent}/{text}"
    return name if kind_of(name) is not None else None


def template(server: str, text: str) -> str | None:
    """What a URI template can name, as a pattern of rules: its beginning, up to the last boundary before a variable.

    The object itself where it has no variable; None where its beginning has no one form.
    """
    start, brace, _ = text.partition("{")
    if not brace:
        return resource(server, text)
    start = start[: max(map(start.rfind, uri.BOUNDARIES)) + 1]
    start_ = uri.beginning(start) if start else ""
    return None if start_ is None or SLUG.fullmatch(server) is None else f"res:{server}/{start_}*"
