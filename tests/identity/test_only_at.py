"""A token that is for one server or agent behind the gateway (RFC 8707) counts there, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.identity.access import AccessTokens
from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations
from gateway.identity.issuers import Ways, endpoints_of
from gateway.model import Arrival, Principal, Refused, Trace
from gateway.settings import Agent
from tests.identity.exchange_world import URL, Idp, StandingClock

MCP = Arrival("id-1", "mcp", "erp", (), b"", 0, Trace("0" * 31 + "1", "0" * 15 + "1"))
ALL = replace(MCP, target="", url_path="/mcp")
A2A, API, OTHER = replace(MCP, protocol="a2a"), replace(MCP, target=""), replace(MCP, target="mail")


class Door:
    def __init__(self, folder: Path) -> None:
        clock = StandingClock()
        self.idp = Idp(folder, clock)
        issuers = (self.idp.settings(),)
        agents = {"analyst": Agent(client_ids=("analyst-app",))}
        ways = Ways(monotonic=clock.monotonic, endpoints=endpoints_of(URL))
        access = AccessTokens(issuers, agents, tenant="acme", ways=ways)
        delegations = Delegations(self.idp.key, URL, clock=clock)
        self.authenticator = Authenticator(
            tenant="acme", public_url=URL, issuers=issuers, agents=agents, delegations=delegations, access=access,
            clock=clock, monotonic=clock.monotonic,
        )  # fmt: skip

    async def __call__(self, token: str, arrival: Arrival) -> Principal:
        return await self.authenticator(replace(arrival, headers=(("authorization", f"Bearer {token}"),)))


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


async def refused(door: Door, token: str, arrival: Arrival) -> str:
    with pytest.raises(Refused) as caught:
        await door(token, arrival)
    return caught.value.detail


@pytest.mark.parametrize("audience", [f"{URL}/mcp/erp", [f"{URL}/mcp/erp"], [f"{URL}/mcp/erp", "https://other.example"]], ids=str)
async def test_a_token_for_one_server_counts_at_that_server_alone_seen_before_or_not(door: Door, audience: object) -> None:
    token = door.idp.token(aud=audience)
    for _ in range(2):  # the second time it is known
        assert "another address" in await refused(door, token, OTHER)
        assert "another address" in await refused(door, token, A2A)
        assert "another address" in await refused(door, token, API)
        assert (await door(token, MCP)).subject == "user:corp/paul"


async def test_a_token_for_the_gateway_and_one_server_counts_everywhere(door: Door) -> None:
    token = door.idp.token(aud=[URL, f"{URL}/mcp/erp"])
    for arrival in (MCP, OTHER, A2A, API):
        assert (await door(token, arrival)).subject == "user:corp/paul"


async def test_a_token_for_several_servers_counts_at_each(door: Door) -> None:
    token = door.idp.token(aud=[f"{URL}/mcp/erp", f"{URL}/a2a/erp"])
    assert await door(token, MCP)
    assert await door(token, A2A)
    assert "another address" in await refused(door, token, OTHER)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_a_token_for_all_servers_as_one_counts_there_alone(door: Door, path: str) -> None:
    token = door.idp.token(aud=f"{URL}/mcp")
    for _ in range(2):
        assert (await door(token, replace(ALL, url_path=path))).subject == "user:corp/paul"
        for arrival in (MCP, OTHER, A2A, API, replace(API, url_path="/api/whoami"), replace(ALL, url_path="/mcp/erp")):
            assert "another address" in await refused(door, token, arrival)
    assert "another address" in await refused(door, door.idp.token(aud=f"{URL}/mcp/erp"), ALL)


@pytest.mark.parametrize(
    "audience",
    [
        f"{URL}/mcp/", f"{URL}/mcp/erp/", f"{URL}/mcp/ERP", f"{URL}/mcp/erp?x", f"{URL}/mcp//erp", f"{URL}/mcp/mail/../erp",
        f"{URL}/api/kills", f"{URL}/a2a", f"{URL}/mcps", f"{URL}.evil.example/mcp/erp", "/mcp/erp", f"{URL}x/mcp/erp", [],
        [f"{URL}/mcp/"],
    ],
    ids=str,
)  # fmt: skip
async def test_what_only_looks_like_an_address_counts_nowhere(door: Door, audience: object) -> None:
    token = door.idp.token(aud=audience)
    for arrival in (MCP, OTHER, A2A, API, ALL):
        await refused(door, token, arrival)
