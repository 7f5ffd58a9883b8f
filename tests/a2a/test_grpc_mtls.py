"""Mutual TLS on gRPC's own listener: who has no certificate of the authority is not let in, and an agent's proves the agent."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from gateway.a2a.grpc_server import Certificate, DeafError, Door, GrpcFace
from gateway.settings import Grpc, Limits
from tests.a2a.agents import Request, scripted, task
from tests.a2a.calls import asking, error_of, metadata
from tests.a2a.world import World, gateway
from tests.upstream.certificates import Authority, self_signed

ONE = "spiffe://acme.example/one"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority("clients")
    (tmp_path / "clients.pem").write_bytes(made.pem)
    return made


@pytest.fixture
async def world(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    async def done(request: Request) -> None:
        await request.result(task("COMPLETED"))

    certificate = Certificate(*self_signed(tmp_path, "localhost"), tmp_path / "clients.pem")
    async with (
        scripted(done) as (url, _),
        gateway(tmp_path, {"two": url, "one": url}, grpc=certificate, certificates={"one": (ONE,)}) as running,
    ):
        yield running


async def call(world: World, folder: Path, shown: tuple[bytes, bytes] | None, *lines: tuple[str, str]) -> str:
    """The state that comes back, or the code of the error."""
    root = (folder / "cert.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(root, *(shown or ()))
    async with grpc.aio.secure_channel(f"localhost:{world.doors['two']}", credentials) as channel:
        client: Any = A2AServiceStub(channel)  # type: ignore[no-untyped-call]
        asked = client.SendMessage(asking("m"), metadata=(("a2a-version", "1.0"), *lines), timeout=20)
        try:
            return str((await asked).task.id)
        except grpc.aio.AioRpcError:
            return str((await error_of(asked)).code().name)


def bearer(world: World, person: str) -> tuple[str, str]:
    return next(line for line in metadata(world, person) if line[0] == "authorization")


async def test_who_shows_no_certificate_of_the_authority_is_not_let_in(
    world: World, tmp_path: Path, authority: Authority
) -> None:
    token = bearer(world, "paul")
    for shown in (None, Authority("clients").signs(ONE), authority.signs(ONE, days=-1)):
        assert await call(world, tmp_path, shown, token) == "UNAVAILABLE"
    assert world.ledger.entries == []
    assert await call(world, tmp_path, authority.signs("spiffe://acme.example/nobody"), token) == "t-1"
    assert world.ledger.entries[-2].fields["auth"]["method"] == "bearer"
    assert await call(world, tmp_path, authority.signs("spiffe://acme.example/nobody")) == "UNAUTHENTICATED"


async def test_an_agents_certificate_proves_the_agent(world: World, tmp_path: Path, authority: Authority) -> None:
    assert await call(world, tmp_path, authority.signs(ONE)) == "t-1"
    start = world.ledger.entries[-2]
    assert (start.subject, start.fields["auth"]["method"], start.fields["auth"]["assurance"]) == ("svc:one", "certificate", "pop")
    two = ("authorization", f"Bearer {world.secrets['two']}")
    assert await call(world, tmp_path, authority.signs(ONE), two) == "UNAUTHENTICATED", "of two agents"
    assert await call(world, tmp_path, authority.signs(ONE), bearer(world, "paul")) == "UNAUTHENTICATED", "a token of nobody's"


async def test_a_certificate_that_is_only_said_proves_nothing(world: World, tmp_path: Path, authority: Authority) -> None:
    der = x509.load_pem_x509_certificate(authority.signs(ONE)[1]).public_bytes(Encoding.DER)
    said = ("client-cert", f":{base64.b64encode(der).decode()}:")
    assert await call(world, tmp_path, authority.signs("spiffe://acme.example/nobody"), said) == "UNAUTHENTICATED"


async def test_another_authority_counts_without_a_restart(world: World, tmp_path: Path, authority: Authority) -> None:
    other = Authority("clients of later")
    (tmp_path / "clients.pem").write_bytes(other.pem)
    os.utime(tmp_path / "clients.pem", (0, 0))
    assert await call(world, tmp_path, other.signs(ONE)) == "t-1"
    assert await call(world, tmp_path, authority.signs(ONE)) == "UNAVAILABLE"
    for at, nothing in enumerate((b"", b"no certificate")):  # what cannot be read changes nothing
        (tmp_path / "clients.pem").write_bytes(nothing)
        os.utime(tmp_path / "clients.pem", (at + 1, at + 1))
        assert await call(world, tmp_path, None, bearer(world, "paul")) == "UNAVAILABLE"
        assert await call(world, tmp_path, other.signs(ONE)) == "t-1"


async def test_settings_that_could_let_in_anybody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="certificate and key are missing"):
        Grpc.model_validate({"clients": "c.pem", "agents": {"one": {"port": 1}}})
    face = GrpcFace(lambda: pytest.fail("called"), limits=Limits())
    own, clients = self_signed(tmp_path, "localhost"), tmp_path / "none.pem"
    for nothing in ("", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        clients.write_text(nothing)
        with pytest.raises(DeafError):
            await face.open(Door("127.0.0.1", 0, {"a": "a"}, {}), Certificate(*own, clients))
    await face.close(0)
