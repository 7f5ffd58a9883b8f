"""`step-up`: what a session must have been begun with, and the challenge (RFC 9470) of one that was not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc.aio
import jwt
import pytest

from gateway.identity.devissuer import DevIssuer
from policies.model import Decision, Effect, Obligation, Reason
from tests.a2a.calls import VERSION, asking, stub
from tests.a2a.world import gateway as a2a_gateway
from tests.mcp.world import gateway as mcp_gateway
from tests.mcp.world import modern_body, modern_headers

STRONG = {"acr": "mfa", "auth_time": 0}  # `auth_time` in seconds from now: a test may run long after its file was read
WEAK: list[dict[str, Any]] = [
    {},
    {"acr": "pwd", "auth_time": 0},
    {"acr": "mfa"},
    {"acr": "mfa", "auth_time": -3600},
    {"acr": "mfa", "auth_time": 3600},
    {"acr": ["mfa"], "auth_time": True},
]


def demanding(**params: Any) -> Decision:
    return Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=(Obligation("strong", "step-up", params),))


DECISION = demanding(acr=["mfa", "hwk"], max_age="10m")


def token(issuer: DevIssuer, **claims: Any) -> dict[str, str]:
    """A person's token with more claims."""
    if type(claims.get("auth_time")) is int:
        claims["auth_time"] += int(time.time())
    said = jwt.decode(issuer.issue("paul", ()), options={"verify_signature": False})
    header = {"typ": "at+jwt", "kid": issuer._jwk["kid"]}
    return {"authorization": f"Bearer {jwt.encode(said | claims, issuer._key, algorithm='ES256', headers=header)}"}


@pytest.mark.parametrize("claims", WEAK)
async def test_a_weak_or_old_session_gets_the_challenge_on_mcp_and_a_strong_one_goes_through(
    tmp_path: Path, server_url: str, claims: dict[str, Any]
) -> None:
    async with mcp_gateway(tmp_path, {"ref": server_url}) as world:
        world.verdicts["*", "ref.test_simple_text"] = DECISION

        async def call(said: dict[str, Any]) -> Any:
            body = modern_body("tools/call", 1, None, name="test_simple_text", arguments={})
            headers = modern_headers("tools/call", name="test_simple_text") | token(world.issuer, **said)
            return await world.client.post("/mcp/ref", json=body, headers=headers)

        answer = await call(claims)
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith("Bearer resource_metadata=")
        for part in ('error="insufficient_user_authentication"', 'acr_values="mfa hwk"', 'max_age="600"'):
            assert part in challenge
        assert answer.json()["error"]["data"]["code"] == "step-up-required"
        assert (await call(STRONG)).status_code == 200


@pytest.mark.parametrize("claims", WEAK)
async def test_the_same_on_a2a(tmp_path: Path, agent_url: str, claims: dict[str, Any]) -> None:
    async with a2a_gateway(tmp_path, {"ref": agent_url}) as world:
        world.verdicts["*", "a2a:ref"] = DECISION
        params = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
        answer = await world.rpc(None, "SendMessage", params, **token(world.issuer, **claims))
        assert answer.status_code == 401
        assert 'error="insufficient_user_authentication"' in answer.headers["www-authenticate"]
        (info,) = answer.json()["error"]["data"]
        assert info["metadata"]["acrValues"] == "mfa hwk"
        assert info["metadata"]["maxAge"] == "600"
        assert "result" in (await world.rpc(None, "SendMessage", params, **token(world.issuer, **STRONG))).json()


async def test_over_grpc_the_challenge_is_trailing_metadata(tmp_path: Path, agent_url: str) -> None:
    async with a2a_gateway(tmp_path, {"ref": agent_url}, grpc=False) as world, stub(world) as client:
        world.verdicts["*", "a2a:ref"] = DECISION
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await client.SendMessage(asking("m"), metadata=(VERSION, *token(world.issuer).items()))
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
    trailing = dict(failed.value.trailing_metadata() or ())
    assert 'acr_values="mfa hwk"' in str(trailing["www-authenticate"])


async def test_who_acts_for_the_person_carries_how_they_proved_themselves(tmp_path: Path, agent_url: str) -> None:
    async with a2a_gateway(tmp_path, {"ref": agent_url}) as world:
        params = {"message": {"messageId": "gw-headers-1", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
        answer = (await world.rpc(None, "SendMessage", params, **token(world.issuer, **STRONG))).json()
        got = json.loads(answer["result"]["message"]["parts"][0]["text"])
        delegated = world.delegations.verify(got["authorization"].removeprefix("Bearer "))
    assert delegated.acr == "mfa"
    assert time.time() - 600 < (delegated.auth_time or 0) <= time.time()
