"""JWT-SVIDs: an agent's identity as its trust domain signs it, for this gateway alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.identity.agents import AgentCredentials
from gateway.identity.authenticate import Authenticator
from gateway.model import Refused
from gateway.problem import ProblemError
from gateway.reasons import Code
from gateway.settings import Agent, AgentAuth, Keys, TrustDomain
from tests.identity.proving import new_key, spiffe_bundle, svid

NOW = 1_800_000_000
URL = "http://127.0.0.1:8080"
ID = "spiffe://acme.example/agents/clerk"
KEY, OTHER = new_key(), new_key()
AGENTS = {"clerk": Agent(auth=AgentAuth(spiffe_id=ID)), "erp": Agent(auth=AgentAuth(bearer_ok=True))}


@pytest.fixture
def world(world, tmp_path: Path):
    for name, key in (("acme", KEY), ("other", OTHER)):
        (tmp_path / f"{name}.json").write_text(spiffe_bundle(key))
    domains = [TrustDomain(name=f"{name}.example", jwks=Keys(file=tmp_path / f"{name}.json")) for name in ("acme", "other")]
    credentials = AgentCredentials(AGENTS, URL, None, world.clock.monotonic, trust_domains=domains)
    world.authenticator = Authenticator(
        tenant="acme", public_url=URL, issuers=(world.issuer.settings(),), agents=AGENTS, delegations=world.delegations,
        credentials=credentials, clock=world.clock, monotonic=world.clock.monotonic,
    )  # fmt: skip
    return world


async def refused(awaitable) -> str:
    with pytest.raises(Refused) as caught:
        await awaitable
    assert caught.value.code is Code.INVALID_CREDENTIAL
    return caught.value.detail


@pytest.mark.parametrize("typ", ["JWT", "JOSE", None])
@pytest.mark.parametrize("more", [{}, {"iss": "https://spire.acme.example"}, {"aud": URL}, {"jti": "x"}], ids=str)
async def test_an_svid_proves_the_agent_of_its_id(world, typ: str | None, more: dict[str, object]) -> None:
    principal = await world.bearer(svid(KEY, NOW, typ=typ, **more))
    assert (principal.subject, principal.actors) == ("svc:clerk", ("agent:clerk",))
    assert (principal.method, principal.assurance) == ("svid", "bearer")  # a text that whoever has it can show again


async def test_an_svid_beside_a_delegation_acts_for_the_person(world) -> None:
    paul = await world.paul()
    principal = await world.bearer(svid(KEY, NOW), world.delegations.mint(paul, "clerk", "c"))
    assert (principal.subject, principal.method) == ("user:dev/paul", "delegation+svid")
    assert "another agent" in await refused(world.bearer(svid(KEY, NOW), world.delegations.mint(paul, "erp", "c")))


@pytest.mark.parametrize(
    ("bent", "why"),
    [
        ({"aud": ["https://other.example"]}, "aud"),
        ({"aud": [URL, "https://other.example"]}, "beside this gateway"),
        ({"aud": [URL, URL]}, "beside this gateway"),
        ({"aud": []}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": [f"{URL}/"]}, "aud"),
        ({"exp": None}, "exp"),
        ({"exp": NOW - 31, "iat": NOW - 60}, "ended"),
        ({"exp": NOW + 3600 + 31}, "exp"),
        ({"iat": NOW + 31}, "iat"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"sub": "spiffe://acme.example/agents/other"}, "not a registered agent"),
        ({"sub": "spiffe://acme.example/agents/CLERK"}, "not a registered agent"),
        ({"sub": "spiffe://other.example/agents/clerk"}, "signature"),
        ({"sub": "spiffe://third.example/agents/clerk"}, "trust domain"),
        ({"sub": "spiffe://acme.example"}, "trust domain"),
        ({"sub": "spiffe://acme.example/"}, "trust domain"),
        ({"sub": "spiffe://acme.example/agents//clerk"}, "trust domain"),
        ({"sub": "spiffe://acme.example/agents/../agents/clerk"}, "trust domain"),
        ({"sub": "spiffe://ACME.example/agents/clerk"}, "trust domain"),
        ({"sub": "spiffe://acme.example:80/agents/clerk"}, "trust domain"),
        ({"sub": "spiffe://u@acme.example/agents/clerk"}, "trust domain"),
        ({"sub": f"{ID}?x"}, "trust domain"),
        ({"sub": f"{ID}\n"}, "trust domain"),
        ({"sub": f"SPIFFE{ID[6:]}"}, "iss"),
        ({"sub": 7}, "iss"),
        ({"sub": None}, "iss"),
    ],
    ids=str,
)
async def test_a_bent_svid_is_refused(world, bent: dict[str, object], why: str) -> None:
    assert why in await refused(world.bearer(svid(KEY, NOW, **bent)))


async def test_the_keys_of_one_domain_speak_for_no_other(world) -> None:
    assert "signature" in await refused(world.bearer(svid(OTHER, NOW)))
    assert "not a registered agent" in await refused(world.bearer(svid(OTHER, NOW, sub="spiffe://other.example/agents/clerk")))


async def test_another_kind_of_token_is_no_svid(world) -> None:
    for typ in ("at+jwt", "dpop+jwt", "client-authentication+jwt", "wf-dt+jwt"):
        await refused(world.bearer(svid(KEY, NOW, typ=typ)))
    assert "kid" in await refused(world.bearer(svid(KEY, NOW, kid="another")))


async def test_a_key_for_certificates_signs_no_svid(world, tmp_path: Path) -> None:
    (tmp_path / "acme.json").write_text(spiffe_bundle(KEY, use="x509-svid"))
    assert "kid is not one" in await refused(world.bearer(svid(KEY, NOW)))


async def test_an_svid_beside_the_scheme_dpop_is_refused(world) -> None:
    await refused(world.ask(("authorization", f"DPoP {svid(KEY, NOW)}")))


def test_ids_and_domains_that_contradict_are_told_at_start(tmp_path: Path) -> None:
    domain = TrustDomain(name="acme.example", jwks=Keys(file=tmp_path / "k"))
    clerk = Agent(auth=AgentAuth(spiffe_id=ID))
    with pytest.raises(ProblemError, match="two agents"):
        AgentCredentials({"a": clerk, "b": clerk}, URL, trust_domains=(domain,))
    with pytest.raises(ProblemError, match="not configured"):
        AgentCredentials({"a": clerk}, URL)
    with pytest.raises(ProblemError, match="no SPIFFE id"):
        AgentCredentials({"a": Agent(auth=AgentAuth(spiffe_id="clerk"))}, URL, trust_domains=(domain,))
    with pytest.raises(ProblemError, match="stands twice"):
        AgentCredentials({}, URL, trust_domains=(domain, domain))
    with pytest.raises(ProblemError, match="no trust domain"):
        AgentCredentials({}, URL, trust_domains=(TrustDomain(name="spiffe://acme.example", jwks=Keys(file=tmp_path / "k")),))
