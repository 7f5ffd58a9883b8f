"""A gateway before servers of both eras, one that is dead and one that is silent; what the aggregate's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.mcp.world import World, answer_of, gateway, plain_server

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
