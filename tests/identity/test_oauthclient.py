"""The gateway at a token endpoint, on a socket: how it proves itself, what it takes for an answer, what it tells of a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.identity.oauthclient import MAX_WAITING, SECRET_AGAIN_SECONDS, TokenServer
from gateway.model import Refused, wall_clock
from gateway.problem import ProblemError
from gateway.reasons import Code
from gateway.settings import Client, Secret, TokenEndpoint
from gateway.upstream.client import Upstreams
from tests.interaction.outside import CLIENT, SECRET, Outside, outside

FORM = {"grant_type": "client_credentials", "scope": "all"}


@pytest.fixture
def world() -> Iterator[Outside]:
    with outside() as made:
        yield made


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.aclose()


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def server(
    world: Outside, upstreams: Upstreams, client: Client, path: str = "/as/token", time: Time | None = None
) -> TokenServer:
    endpoint = TokenEndpoint.model_validate({"url": f"{world.base}{path}", "client": client.model_dump()})
    return TokenServer(endpoint, upstreams, {}, wall_clock, "mcp.erp.credentials.endpoint", time or Time())


def keyed(folder: Path, world: Outside) -> Client:
    key = ec.generate_private_key(ec.SECP256R1())
    world.client_key = key.public_key()
    file = folder / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    return Client(id=CLIENT, key=Secret(file=file))


async def test_a_key_proves_the_client_anew_each_time(world: Outside, upstreams: Upstreams, tmp_path: Path) -> None:
    endpoint = server(world, upstreams, keyed(tmp_path, world))
    first, second = await endpoint.token(FORM), await endpoint.token(FORM)
    assert first.text != second.text
    assert len(world.assertions) == 2
    assert all("client_secret" not in form for _, form in world.asked)


async def test_a_key_that_was_changed_here_and_there_is_read_again_and_a_wrong_one_is_told_without_it(
    world: Outside, upstreams: Upstreams, tmp_path: Path
) -> None:
    time = Time()
    endpoint = server(world, upstreams, keyed(tmp_path, world), time=time)
    await endpoint.token(FORM)
    keyed(tmp_path, world)  # another key in the same file, and at the server
    time.now += SECRET_AGAIN_SECONDS
    await endpoint.token(FORM)
    world.client_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    asked = len(world.asked)
    with pytest.raises(Refused) as refused:
        await endpoint.token(FORM)
    assert (refused.value.code, refused.value.detail) == (
        Code.CREDENTIAL_UNAVAILABLE,
        "mcp.erp.credentials.endpoint: the authorization server refuses: invalid_client",
    )
    assert len(world.asked) == asked + 1  # read a moment ago: not tried again


async def test_a_refusal_is_told_by_its_code_alone(world: Outside, upstreams: Upstreams, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    endpoint = server(world, upstreams, Client(id=CLIENT, secret=Secret(file=file)), "/idp/token")
    with pytest.raises(Refused) as refused:
        await endpoint.token({"grant_type": "password", "subject_token": "the.persons.token"})
    assert refused.value.detail.endswith("the authorization server refuses: unsupported_grant_type")
    assert "persons" not in str(refused.value)


async def test_a_server_that_is_not_there_gives_no_credential(world: Outside, upstreams: Upstreams) -> None:
    world.port = 1  # nobody listens there
    with pytest.raises(Refused) as refused:
        await server(world, upstreams, Client(id=CLIENT)).token(FORM)
    assert refused.value.code is Code.CREDENTIAL_UNAVAILABLE


async def test_more_questions_than_may_wait_are_refused(world: Outside, upstreams: Upstreams, tmp_path: Path) -> None:
    endpoint = server(world, upstreams, keyed(tmp_path, world))
    asked = [asyncio.create_task(endpoint.token(FORM)) for _ in range(MAX_WAITING + 1)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    refused = [each for each in told if isinstance(each, Refused)]
    assert [each.code for each in refused] == [Code.OVERLOADED]
    assert len({each.text for each in told if not isinstance(each, BaseException)}) == MAX_WAITING


def test_a_key_that_is_none_keeps_the_gateway_from_starting(world: Outside, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("not a key")
    file.chmod(0o600)
    with pytest.raises(ProblemError) as raised:
        server(world, Upstreams(), Client(id=CLIENT, key=Secret(file=file)))
    assert raised.value.problems[0].location == "mcp.erp.credentials.endpoint.client.key"
