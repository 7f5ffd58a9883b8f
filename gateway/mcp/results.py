"""What of a result is released, a line per method; a method without one is released as it came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.mcp import capabilities, lists
from gateway.mcp.methods import (
    DISCOVER,
    GET_PROMPT,
    INITIALIZE,
    LEGACY,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    MODERN,
    READ_RESOURCE,
)  # fmt: skip
from gateway.mcp.repeated import repeats
from gateway.model import Call, Principal, UpstreamError
from policies import names


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom a result is cut: the call that it answers, and the judge that decided it."""

    call: Call
    principal: Principal
    could: lists.Could

    @property
    def modern(self) -> bool:
        """Whether the caller speaks the stateless era."""
        return self.call.version in MODERN

    def may_read(self, uri: str) -> bool:
        """Whether it could read this resource of the same server."""
        found = names.resource(self.call.target, uri)
        return found is not None and self.could(self.principal, found)


WITHHELD: Final = "[withheld by policy]"
Cut = Callable[[dict[str, Any], Reader], dict[str, Any]]


def _listed(member: str, object_of: lists.ObjectOf) -> Cut:
    def cut(result: dict[str, Any], reader: Reader) -> dict[str, Any]:
        return lists.visible(
            result, member, object_of,
            server=reader.call.target, principal=reader.principal, could=reader.could, modern=reader.modern,
        )  # fmt: skip

    return cut


def _tools(result: dict[str, Any], reader: Reader) -> dict[str, Any]:
    """The tools that the caller could call; without those whose marks for headers are broken, which no client may call."""
    listed = _listed("tools", lists.tool_object)(result, reader)
    if not reader.modern:
        return listed
    return {**listed, "tools": [tool for tool in listed["tools"] if repeats(tool.get("inputSchema")) is not None]}


def _initialized(result: dict[str, Any], reader: Reader) -> dict[str, Any]:
    """An `initialize` result that offers what is served here."""
    if result.get("protocolVersion") not in LEGACY:
        raise UpstreamError("protocol", "not an initialize result")
    return {**result, "capabilities": _offered(result, reader)}


def _discovered(result: dict[str, Any], reader: Reader) -> dict[str, Any]:
    """A `server/discover` result that offers what is served here, to this caller alone."""
    versions = result.get("supportedVersions")
    if not isinstance(versions, list):
        raise UpstreamError("protocol", "not a discover result")
    served = [version for version in versions if version in MODERN or version in LEGACY]
    return lists.cached({**result, "supportedVersions": served, "capabilities": _offered(result, reader)}, modern=True)


def _offered(result: dict[str, Any], reader: Reader) -> dict[str, Any]:
    return capabilities.offered(
        result.get("capabilities"), reader.principal, reader.call.target, reader.could, modern=reader.modern
    )


def _read(result: dict[str, Any], reader: Reader) -> dict[str, Any]:
    """A `resources/read` result that holds what was asked for, what lies under it, or what the caller may read besides."""
    asked = reader.call.message["params"]["uri"]
    contents = result.get("contents")
    if not isinstance(contents, list):
        raise UpstreamError("protocol", "no contents")
    for part in contents:
        uri = part.get("uri") if isinstance(part, dict) else None
        if not isinstance(uri, str):
            raise UpstreamError("protocol", "contents without a uri")
        if uri != asked and not reader.may_read(uri):
            raise UpstreamError("protocol", "contents of another resource than was asked for")
    return lists.cached(result, modern=reader.modern)


def _got(result: dict[str, Any], reader: Reader) -> dict[str, Any]:
    """A prompt's messages, in which a resource that the caller may not read leaves only the word that it is withheld."""
    messages = result.get("messages")
    if not isinstance(messages, list):
        raise UpstreamError("protocol", "a prompt without messages")
    seen = [_seen(message, reader) for message in messages]
    return result if all(new is old for new, old in zip(seen, messages, strict=True)) else {**result, "messages": seen}


def _seen(message: Any, reader: Reader) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, dict) or content.get("type") != "resource":
        return message
    resource = content.get("resource")
    uri = resource.get("uri") if isinstance(resource, dict) else None
    if isinstance(uri, str) and reader.may_read(uri):
        return message
    return {**message, "content": {"type": "text", "text": WITHHELD}}


CUTS: Final[Mapping[str, Cut]] = {
    INITIALIZE: _initialized,
    DISCOVER: _discovered,
    LIST_TOOLS: _tools,
    LIST_PROMPTS: _listed("prompts", lists.prompt_object),
    LIST_RESOURCES: _listed("resources", lists.resource_object),
    LIST_TEMPLATES: _listed("resourceTemplates", lists.template_object),
    GET_PROMPT: _got,
    READ_RESOURCE: _read,
}
