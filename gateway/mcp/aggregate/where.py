"""Where a request goes: to the one server whose tool, prompt or resource it names.  Nobody is asked by guess.

Names say their server.  Addresses do not: a resource is its server's that lists it, has a template for it or has linked to it,
among those from which this caller may read it.  Where two have it, nobody is asked, and the caller is told of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.mcp.aggregate.caller import Caller, Leg, UnroutedError
from gateway.mcp.aggregate.fan import Fan
from gateway.mcp.aggregate.links import Links
from gateway.mcp.aggregate.naming import Names
from gateway.mcp.errors import INVALID_PARAMS
from gateway.mcp.lists import UNDER
from gateway.mcp.methods import (
    CALL_TOOL,
    COMPLETE,
    GET_PROMPT,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    READ_RESOURCE,
    SUBSCRIBE,
    UNSUBSCRIBE,
)  # fmt: skip
from gateway.mcp.normalise import PROMPT_REF, TASK_ACTIONS, prompt
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import UpstreamError
from gateway.reasons import Code
from policies import names
from policies import uri as uris

ROUTED: Final = frozenset({CALL_TOOL, GET_PROMPT, READ_RESOURCE, SUBSCRIBE, UNSUBSCRIBE, COMPLETE, *TASK_ACTIONS})
_ACTION: Final = {READ_RESOURCE: "read", SUBSCRIBE: "subscribe", UNSUBSCRIBE: "subscribe", COMPLETE: "read"}


@dataclass(frozen=True, slots=True)
class Place:
    """A server (none: ""), and the request as that server knows it.

    may  whether the caller could do this there at all; what it could not is refused on the road, as everywhere.
    """

    server: str
    params: Mapping[str, Any]
    may: bool = False


@dataclass(frozen=True, slots=True)
class _Claims:
    """What one server says that it has."""

    uris: frozenset[str] = frozenset()
    templates: frozenset[str] = frozenset()

    def resource(self, uri: str, form: str) -> bool:
        """Whether a resource is among them, as it was written, or in its form."""
        return form in self.uris or any(_fits(template, uri) or _fits(template, form) for template in self.templates)


class Where:
    """Finds the server of a request; `mounts` is what the servers' own URLs begin with."""

    def __init__(self, fan: Fan, names_: Names, sealed: Sealed, mounts: str) -> None:
        self.links = Links()
        self._fan = fan
        self._names = names_
        self._sealed = sealed
        self._mounts = mounts

    async def of(self, caller: Caller, leg: Leg) -> Place:
        """The place; `leg` says whose list was needed for it, should that fail."""
        call, params = caller.call, caller.call.message["params"]
        if call.method == CALL_TOOL:
            server, own = await self._named(caller, leg, call.name or "", LIST_TOOLS, "tools")
            return Place(server, {**params, "name": own}, _could(caller, server, f"{server}.{own}"))
        if call.method == GET_PROMPT:
            server, own = await self._named(caller, leg, call.name or "", LIST_PROMPTS, "prompts")
            return Place(server, {**params, "name": own}, _could(caller, server, prompt(server, own)))
        if call.method in TASK_ACTIONS:
            server = self.of_task(caller, params.get("taskId"))
            return Place(server, params, may=bool(server))
        if call.method == COMPLETE:
            return await self._completed(caller, leg, params)
        return await self._addressed(caller, leg, params)

    def of_task(self, caller: Caller, text: object) -> str:
        """The server of this caller's task; "" for anybody else's, and for what is none."""
        try:
            return self._sealed.routed(Purpose.TASK, text, principal=caller.principal)[0]
        except UnknownValueError:
            return ""

    async def of_all(self, caller: Caller, addresses: Iterable[str]) -> dict[str, list[str]]:
        """Of these addresses those that one server alone has, by server, as they were spelled."""
        forms = {uri: form for uri in addresses if (form := uris.form_of(uri)) is not None}
        said = await self._fan.every(caller, lambda each: self._claims(caller, each))
        found: dict[str, list[str]] = {}
        for uri, form in forms.items():
            having = [
                server
                for server, claims in said.found.items()
                if claims.resource(uri, form) and caller.could(caller.principal, names.resource(server, form) or "", "read")
            ]
            if len(having) == 1:
                found.setdefault(having[0], []).append(uri)
        return found

    async def _named(self, caller: Caller, leg: Leg, shown: str, method: str, member: str) -> tuple[str, str]:
        """(server, own name) of what is shown so; the name itself, of no server, where nothing is."""
        server, own = self._names.server(shown), self._names.name(shown)
        if own or not self._names.digested(shown) or not _could(caller, server, server):
            return (server, own) if own else ("", shown)
        leg.server = server
        listed = await self._fan.one_list(caller, leg, method, member, "name")
        own = self._names.of(server, (item["name"] for item in listed.items)).get(shown, "")
        return (server, own) if own else ("", shown)

    async def _completed(self, caller: Caller, leg: Leg, params: Mapping[str, Any]) -> Place:
        ref = params["ref"]
        if ref["type"] == PROMPT_REF:
            server, own = await self._named(caller, leg, ref["name"], LIST_PROMPTS, "prompts")
            sent = {**params, "ref": {**ref, "name": own}}
            return Place(server, sent, _could(caller, server, prompt(server, own)))
        said = ref["uri"]
        objects = {server: names.template(server, said) for server in self._fan.reachable(caller)}
        server = await self._claimed(caller, leg, objects, lambda claims, _: said in claims.templates or said in claims.uris)
        return Place(server, params, may=bool(server))

    async def _addressed(self, caller: Caller, leg: Leg, params: Mapping[str, Any]) -> Place:
        uri = params["uri"]
        form = uris.form_of(uri)
        if form is None:
            raise UnroutedError(Code.INVALID_PARAMS, "uri", rpc_id=caller.call.rpc_id)
        objects = {server: names.resource(server, form) for server in self._fan.reachable(caller)}
        linked = self.links.of(caller.whose, form)
        server = await self._claimed(caller, leg, objects, lambda claims, it: it in linked or claims.resource(uri, form))
        return Place(server, params, may=bool(server))

    async def _claimed(self, caller: Caller, leg: Leg, objects: Mapping[str, str | None], claims: Any) -> str:
        """The one server that claims it, of those where the caller could do this; "" where none does."""
        action = _ACTION[caller.call.method]
        asked = [
            server
            for server, found in objects.items()
            if found and caller.could(caller.principal, found, UNDER if found.endswith("*") else action)
        ]
        if not asked:
            return ""
        said = await self._fan.every(caller, lambda each: self._claims(caller, each), asked)
        claiming = [server for server, its in said.found.items() if claims(its, server)]
        if len(claiming) > 1:
            raise self._ambiguous(caller, claiming)
        if not claiming and said.missing:  # one of those that do not answer may have it
            leg.server = next(iter(said.missing))
            leg.id = said.legs[leg.server].id
            raise UpstreamError("connect", said.missing[leg.server])
        return claiming[0] if claiming else ""

    async def _claims(self, caller: Caller, leg: Leg) -> _Claims:
        listed = await self._fan.drained(caller, leg, LIST_RESOURCES, "resources", "uri")
        templates = await self._fan.drained(caller, leg, LIST_TEMPLATES, "resourceTemplates", "uriTemplate")
        said = frozenset(item["uri"] for item in listed.items)
        said |= frozenset(form for uri in said if (form := uris.form_of(uri)) is not None)
        return _Claims(said, frozenset(item["uriTemplate"] for item in templates.items))

    def _ambiguous(self, caller: Caller, claiming: Iterable[str]) -> UnroutedError:
        urls = {server: f"{self._mounts}{server}" for server in claiming}
        text = "Several servers have this resource; ask one of them by its own URL: " + ", ".join(
            f"{server} ({url})" for server, url in urls.items()
        )
        return UnroutedError(
            Code.AMBIGUOUS, " ".join(urls), rpc_code=INVALID_PARAMS, rpc_id=caller.call.rpc_id, data={"servers": urls}, text=text
        )


def _could(caller: Caller, server: str, found: str) -> bool:
    """Asked also where there is no server: a name that leads nowhere takes the way of one that is hidden."""
    return caller.could(caller.principal, found) and bool(server)


def _fits(template: str, form: str) -> bool:
    """Whether a template (RFC 6570) may stand for this address: by what it says literally before and behind its variables."""
    head, brace, rest = template.partition("{")
    if not brace or ":" not in head:
        return False
    tail = rest.rpartition("}")[2]
    return len(form) > len(head) + len(tail) and form.startswith(head) and form.endswith(tail)
