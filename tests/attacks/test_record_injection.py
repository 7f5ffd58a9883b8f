"""What a stranger puts into a path must not become a line of somebody's terminal, nor stand in the ledger for good."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.a2a.world import World, gateway

PATHS = {
    "a line of its own": "/a2a/x%0a%20%20%20%2099%20%20call.end%20ok",
    "an escape sequence": "/a2a/%1b%5b2J",
    "a NUL": "/a2a/x%00",
    "a bidirectional override": "/a2a/%e2%80%ae",
    "very long": "/a2a/" + "x" * 4000,
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("person", [None, "mia"])
async def test_a_target_that_no_agent_can_have_is_not_recorded(tmp_path: Path, path: str, person: str | None) -> None:
    async with gateway(tmp_path, {}) as world:
        answer = await _post(world, path, person)
        known = await _post(world, "/a2a/nobody", person)
        assert [entry.fields["target"] for entry in world.ledger.entries] == ["", "nobody"]
        assert (answer.status_code, answer.json()["error"]["code"]) == (known.status_code, known.json()["error"]["code"])


async def _post(world: World, path: str, person: str | None) -> httpx.Response:
    headers = {"content-type": "application/json", "a2a-version": "1.0"} | (world.token(person) if person else {})
    body = b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"t"}}'
    return await world.client.post(path, content=body, headers=headers)
