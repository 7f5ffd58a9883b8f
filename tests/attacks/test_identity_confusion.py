"""One thing of identity taken for another: a name in a certificate for a thumbprint, a bound token for a plain one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.access import Access, AccessTokens
from gateway.identity.agents import AgentCredentials
from gateway.identity.certificates import Certificates
from gateway.identity.keys import es256_jwk
from gateway.identity.token import read
from gateway.model import Arrival, Refused, Trace, new_id
from gateway.reasons import Code
from gateway.settings import Agent, AgentAuth, Directory, Issuer, Keys, Terminator, TrustDomain
from tests.identity.proving import certificate, client_cert, spiffe_bundle, svid

NOW = 1_800_000_000
PROXY = "10.0.0.7"
VICTIM = certificate(dns=("pinned.acme.example",), now=NOW)
PIN = f"sha256:{hashlib.sha256(VICTIM).hexdigest()}"


def shown(der: bytes) -> Arrival:
    at = NOW * 1_000_000
    trace = Trace("0" * 31 + "1", "0" * 15 + "1")
    return Arrival(new_id(at), "mcp", "erp", (("client-cert", client_cert(der)),), b"", at, trace, peer=PROXY)


def certificates(*names: str) -> Certificates:
    agents = {"victim": Agent(auth=AgentAuth(certificates=names))}
    return Certificates(Terminator(peers=(PROXY,)), None, agents)


@pytest.mark.parametrize(
    ("registered", "uri"), [(PIN, PIN), ("dns:pinned.acme.example", "dns:pinned.acme.example")], ids=["thumbprint", "dns"]
)
def test_a_uri_that_a_stranger_had_written_into_a_certificate_is_no_thumbprint_and_no_host(registered: str, uri: str) -> None:
    known = certificates(registered)
    assert known.agent(shown(VICTIM), NOW) is not None
    assert known.agent(shown(certificate(uris=(uri,), now=NOW)), NOW) is None


def test_a_certificate_of_no_known_version_is_refused_and_breaks_nothing() -> None:
    odd = VICTIM.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    assert odd != VICTIM
    with pytest.raises(Refused) as caught:
        certificates(PIN).agent(shown(odd), NOW)
    assert caught.value.code is Code.INVALID_CREDENTIAL


KEY = ec.generate_private_key(ec.SECP256R1())
IDP = "https://idp.example"
AUDIENCE = "https://gateway.example"


async def verified(folder: Path, header: str, directory: Path | None = None, **claims: Any) -> Access:
    """What a token of a provider says whose tokens are all of one header."""
    (folder / "idp.json").write_text(json.dumps({"keys": [es256_jwk(KEY.public_key())]}))
    issuer = Issuer(
        alias="corp", issuer=IDP, audience=AUDIENCE, jwks=Keys(file=folder / "idp.json"),
        direct_clients=("desk",), token_types=("at+jwt", "JWT"), directory=Directory(file=directory) if directory else None,
    )  # fmt: skip
    tokens = AccessTokens((issuer,), {"clerk": Agent(client_ids=("clerk-app",))})
    said = {"iss": IDP, "aud": AUDIENCE, "sub": "paul", "client_id": "desk", "iat": NOW, "exp": NOW + 600} | claims
    text = jwt.encode(said, KEY, algorithm="ES256", headers={"typ": header, "kid": es256_jwk(KEY.public_key())["kid"]})
    return await tokens.verify(read(text), NOW)


@pytest.mark.parametrize("typ", ["at+jwt", "JWT"])
@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "clerk-app"},
        {"sub": "clerk-app@clients", "gty": "client-credentials"},
        {"sub": "clerk-app@clients"},
        {"idtyp": "app", "roles": ["all"]},
        {"preferred_username": "service-account-clerk-app"},
    ],
    ids=["rfc9068", "auth0", "auth0-plain", "entra", "keycloak"],
)
async def test_a_token_that_a_client_fetched_for_itself_makes_no_person(tmp_path: Path, typ: str, claims: dict[str, Any]) -> None:
    good: dict[str, Any] = {"gty": "password", "idtyp": "user", "preferred_username": "paul"}
    assert (await verified(tmp_path, typ, client_id="clerk-app", **good)).subject == "user:corp/paul"
    with pytest.raises(Refused, match="names no person"):
        await verified(tmp_path, typ, client_id="clerk-app", **claims)


@pytest.mark.parametrize(
    "claims", [{"typ": "ID"}, {"typ": "Refresh"}, {"typ": "Offline"}, {"typ": "Logout"}, {"typ": 7}, {"token_use": "id"}], ids=str
)
async def test_an_id_token_without_a_nonce_is_no_access_token(tmp_path: Path, claims: dict[str, Any]) -> None:
    assert (await verified(tmp_path, "JWT", typ="Bearer", token_use="access")).subject == "user:corp/paul"
    with pytest.raises(Refused, match="of another use"):
        await verified(tmp_path, "JWT", **claims)


async def test_an_svid_or_an_assertion_that_is_bound_to_a_key_is_no_plain_bearer_text(tmp_path: Path) -> None:
    (tmp_path / "acme.json").write_text(spiffe_bundle(KEY))
    (tmp_path / "clerk.json").write_text(json.dumps({"keys": [es256_jwk(KEY.public_key())]}))
    auth = AgentAuth(spiffe_id="spiffe://acme.example/agents/clerk", jwks=Keys(file=tmp_path / "clerk.json"))
    domain = TrustDomain(name="acme.example", jwks=Keys(file=tmp_path / "acme.json"))
    credentials = AgentCredentials({"clerk": Agent(auth=auth)}, "http://127.0.0.1:8080", trust_domains=(domain,))
    said = {"iss": "clerk", "sub": "clerk", "aud": "http://127.0.0.1:8080", "iat": NOW, "exp": NOW + 60}
    header = {"typ": "client-authentication+jwt", "kid": es256_jwk(KEY.public_key())["kid"]}
    for bound in ({"jkt": "A" * 43}, {"x5t#S256": "A" * 43}, {}, None):
        more: dict[str, Any] = {} if bound is None else {"cnf": bound}
        for text in (svid(KEY, NOW, **more), jwt.encode(said | {"jti": str(bound)} | more, KEY, "ES256", header)):
            if bound is None:
                proven = await credentials.shown(text, NOW)
                assert proven is not None
                assert proven.agent == "clerk"
                continue
            with pytest.raises(Refused, match="bound to a key"):
                await credentials.shown(text, NOW)


@pytest.mark.parametrize("claims", [{}, {"groups": []}, {"groups": ["buyers"]}], ids=str)
async def test_nobody_gets_rid_of_a_group_by_a_token_that_does_not_say_it(tmp_path: Path, claims: dict[str, Any]) -> None:
    people = tmp_path / "people.yaml"
    people.write_text("paul: {groups: [contractors], active: true}\n")
    said = (await verified(tmp_path, "JWT", directory=people, **claims)).groups
    assert said == frozenset(claims.get("groups", ["contractors"]))
    if not claims:
        people.write_text("paul: {groups: [contractors], active: false}\n")
        with pytest.raises(Refused, match="no such account"):
            await verified(tmp_path, "JWT", directory=people)
        assert (await verified(tmp_path, "JWT")).groups == frozenset()
