"""A token that is good and lacks a scope: its client is told which scopes to come back with, and where to ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mcp.world import gateway

WANTED = {"required_scope": ("tools.use", "tools.see")}


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_token_without_a_scope_is_asked_to_step_up_once_for_all_of_them(tmp_path: Path, era: str) -> None:
    async with gateway(tmp_path, {"ref": "http://127.0.0.1:9/mcp"}, issuer=WANTED) as world:
        ask = world.modern if era == "modern" else world.legacy
        answer = await ask("anna", "tools/list")
        stranger = await ask(None, "tools/list")
    metadata = f'resource_metadata="{world.url}/.well-known/oauth-protected-resource/mcp/ref"'
    assert answer.status_code == 403
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope", scope="tools.see tools.use", ')
    assert metadata in challenge
    assert answer.json()["error"]["data"]["code"] == "scope-required"
    assert stranger.status_code == 401
    assert stranger.headers["www-authenticate"] == f'Bearer {metadata}, scope="tools.see tools.use"'
    assert world.asked == []
