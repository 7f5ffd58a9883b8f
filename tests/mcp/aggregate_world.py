"""A gateway before servers of both eras, one that is dead and one that is silent; what the aggregate's tests share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.settings_outbound import Era
from gateway.upstream.client import Url
from gateway.upstream.credentials import block
from gateway.upstream.registry import McpTarget
from tests.mcp.world import FIXED, World, answer_of, gateway, plain_server

DEAD = "http://127.0.0.1:9/mcp"
SHARED = "file:///shared.txt"


def upstreams() -> Iterator[dict[str, str]]:
    """`old` speaks in sessions alone, `new` statelessly alone; both have one address in common."""
    with ExitStack() as stack:
        yield {
            era: stack.enter_context(plain_server("--era", speaks, "--name", era, "--uri", SHARED, "--uri", f"file:///{era}.txt"))
            for era, speaks in (("old", "legacy"), ("new", "modern"))
        }


@asynccontextmanager
async def aggregate(folder: Path, servers: dict[str, str], **options: Any) -> AsyncIterator[World]:
    async with gateway(folder, servers, **options) as world:
        yield world


async def asked(world: World, method: str, *, era: str = "modern", person: str = "anna", **params: Any) -> dict[str, Any]:
    """The answer of the aggregate to one request."""
    ask = world.modern if era == "modern" else world.legacy
    return answer_of(await ask(person, method, server="", **params))


async def called(world: World, name: str, *, era: str = "modern", person: str = "anna", **arguments: Any) -> dict[str, Any]:
    """The result of one tool call, or its error."""
    answer = await asked(world, "tools/call", era=era, person=person, name=name, arguments=arguments)
    found: dict[str, Any] = answer.get("result") or answer["error"]
    return found


async def tool_names(world: World, *, era: str = "modern", person: str = "anna") -> list[str]:
    return [tool["name"] for tool in (await asked(world, "tools/list", era=era, person=person))["result"]["tools"]]


def of_era(name: str, url: str, era: Era) -> McpTarget:
    """A server that is spoken to in this era, whatever else it speaks."""
    return McpTarget(name, "http", url=Url.parse(url, allow_private=True), static=block((), FIXED), era=era)


class Heard:
    """An open stream of the aggregate's, event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def line(self) -> str:
        return await anext(self._lines)

    async def next(self) -> dict[str, Any]:
        """The next message; {} at the end."""
        async for line in self._lines:
            if line.startswith("data: ") and len(line) > 6:  # an event without data is there for its id
                found: dict[str, Any] = json.loads(line[6:])
                return found
        return {}

    async def until(self, method: str) -> dict[str, Any]:
        while (said := await self.next()).get("method") != method:
            assert said, f"the stream ended before {method}"
        return said
