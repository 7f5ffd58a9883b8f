"""Servers' questions through the gateway, in both eras, with the official client on this side and the official server on that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.mcp.world import MODERN, World

ERAS = ["legacy", MODERN]


@asynccontextmanager
async def asked(world: World, mode: str, person: str = "anna", name: str = "Ada") -> AsyncIterator[Client]:
    """A client that answers what it is asked, and keeps it in `client.seen`."""
    seen: list[Any] = []

    async def elicit(_: Any, params: Any) -> types.ElicitResult:
        seen.append(params)
        fields = params.requested_schema["properties"]
        values = {key: (True if field["type"] == "boolean" else name) for key, field in fields.items()}
        return types.ElicitResult(action="accept", content=values)

    async def sample(_: Any, params: Any) -> types.CreateMessageResult:
        seen.append(params)
        text = types.TextContent(text=f"{name} says hello")
        return types.CreateMessageResult(role="assistant", content=text, model="m")

    async def roots(_: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///work", name="work")])

    async with httpx2.AsyncClient(headers=world.token(person), timeout=30, trust_env=False) as http:
        transport = streamable_http_client(f"{world.url}/mcp/ref", http_client=http)
        async with Client(
            transport, mode=mode, elicitation_callback=elicit, sampling_callback=sample, list_roots_callback=roots
        ) as client:
            client.seen = seen  # type: ignore[attr-defined]
            yield client


def text_of(result: Any) -> str:
    return str(result.content[0].text)


FORM = {"legacy": ("test_elicitation", {"message": "Who are you?"}), MODERN: ("test_input_required_result_elicitation", {})}
SAMPLE = {"legacy": ("test_sampling", {"prompt": "hi"}), MODERN: ("test_input_required_result_sampling", {})}


@pytest.mark.parametrize("mode", ERAS)
async def test_a_person_is_asked_by_the_servers_name_and_the_answer_comes_back(world: World, mode: str) -> None:
    tool, arguments = FORM[mode]
    async with asked(world, mode) as client:
        result = await asyncio.wait_for(client.call_tool(tool, arguments), 20)
        assert "Ada" in text_of(result)
        assert client.seen[0].message.startswith("ref asks: ")  # type: ignore[attr-defined]
    put = next(entry for entry in world.ledger.entries if entry.kind == "question.ask")
    answers = [entry for entry in world.ledger.entries if put.id in entry.fields.get("about", ())]  # type: ignore[operator]
    assert [entry.kind for entry in answers] == ["call.start"]
    assert answers[0].fields["said"] == [{"question": put.id, "kind": "elicitation.form", "action": "accept"}]
    assert (put.fields["action"], put.fields["resource"], put.fields["direction"]) == ("form", "elicitation:ref", "question")
