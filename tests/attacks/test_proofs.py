"""Attacks on how callers prove themselves, from a socket to the ledger: a gateway process, with a terminator before it.

The terminator is whoever calls from 127.0.0.2; everybody else is a stranger who reaches the same port.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace

from gateway.identity.delegation import Delegations
from gateway.identity.keys import es256_jwk
from gateway.model import Principal, new_id, wall_clock
from tests.identity.proving import certificate, client_cert, dpop, new_key, spiffe_bundle, svid, thumbprint_of
from tests.interaction.world import AGENT_GRANTS, MODERN, Gateway, Heard, Peers, done, new_trace
from tests.interaction.world import peers as scripted

TERMINATOR = "127.0.0.2"
SPIFFE = "spiffe://acme.example/agents/courier"
DPOP_CHALLENGE = 'DPoP error="invalid_dpop_proof", algs="ES256 ES384 EdDSA PS256 RS256"'
KEY, TRUST, IDP, DELEGATIONS = new_key(), new_key(), new_key(), new_key()
GRANTS = (
    AGENT_GRANTS
    + "p,   agent:courier, acme, desk.read, call, allow, -, -, AGT-2\np, svc:courier, acme, desk.read, call, allow, -, -, SVC-1\n"
)


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Peers]:
    with scripted() as world:
        yield world


@pytest.fixture
def peers(upstreams: Peers) -> Iterator[Peers]:
    yield upstreams
    upstreams.agents.clear()


@pytest.fixture(scope="module")
def gateway(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """clerk's hops are correlated by trace; courier has a key, a certificate and an SVID; an issuer binds its tokens."""
    folder = tmp_path_factory.mktemp("proofs")
    running = Gateway(folder, upstreams)
    settings: dict[str, Any] = json.loads(running.config.read_text())
    settings["agents"]["clerk"]["auth"]["trace_ok"] = True
    settings["agents"]["courier"]["auth"] |= {
        "jwks": {"file": "courier.json"}, "certificates": [SPIFFE], "spiffe_id": SPIFFE,
    }  # fmt: skip
    settings["terminator"] = {"peers": [TERMINATOR]}
    settings["trust_domains"] = [{"name": "acme.example", "jwks": {"file": "trust.json"}}]
    settings["issuers"].append(
        {
            "alias": "idp",
            "issuer": "https://idp.example",
            "audience": "api",
            "jwks": {"file": "idp.json"},
            "direct_clients": ["cli"],
        }
    )
    settings["delegation"] = {"key": {"file": "delegations.pem"}}
    (folder / "delegations.pem").write_bytes(DELEGATIONS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "delegations.pem").chmod(0o600)
    (folder / "courier.json").write_text(json.dumps({"keys": [es256_jwk(KEY.public_key())]}))
    (folder / "idp.json").write_text(json.dumps({"keys": [es256_jwk(IDP.public_key())]}))
    (folder / "trust.json").write_text(spiffe_bundle(TRUST))
    (folder / "policies" / "grants" / "agents.csv").write_text(GRANTS)
    running.config.write_text(json.dumps(settings))
    running.settings = settings
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def terminator(gateway: Gateway) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(local_address=TERMINATOR)
    with httpx.Client(base_url=gateway.url, transport=transport, trust_env=False, timeout=60) as client:
        yield client


def now() -> int:
    return wall_clock() // 1_000_000


def bound_token(holder: Any) -> str:
    at = now()
    claims = {
        "iss": "https://idp.example", "aud": "api", "sub": "paul", "client_id": "cli", "groups": ["procurement-managers"],
        "jti": new_id(at * 1_000_000), "iat": at, "exp": at + 600, "cnf": {"jkt": thumbprint_of(holder)},
    }  # fmt: skip
    headers = {"typ": "at+jwt", "kid": es256_jwk(IDP.public_key())["kid"]}
    return jwt.encode(claims, IDP, algorithm="ES256", headers=headers)


def whoami(gateway: Gateway, headers: dict[str, str], client: httpx.Client | None = None) -> httpx.Response:
    return (client or gateway.http).get("/api/whoami", headers=headers)


def refused(gateway: Gateway, ask: Callable[[str], httpx.Response]) -> str:
    """The detail in the ledger of a call that is refused for its credential; the wire tells nothing of it.

    Of strangers who come too often only some have a record of their own, so it is asked again until this one has.
    """
    until = time.monotonic() + 30
    while time.monotonic() < until:
        trace = new_trace()
        answer = ask(trace)
        assert answer.status_code == 401
        records = gateway.records(trace=trace)
        if records:
            break
    (record,) = records
    assert record.kind == "auth.refused"
    said: dict[str, str] = record.leaf["refused"]
    assert said["code"] == "invalid-credential"
    assert said["detail"]
    assert said["detail"] not in answer.text + str(answer.headers)
    return said["detail"]


# --- DPoP


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_a_bound_token_needs_its_keys_proof_on_both_protocols(gateway: Gateway, peers: Peers, protocol: str) -> None:
    holder, thief = new_key(), new_key()
    token = bound_token(holder)
    path = {"mcp": "/mcp/desk", "a2a": "/a2a/clerk/"}[protocol]

    def ask(proof: str | None, scheme: str = "DPoP", trace: str = "") -> httpx.Response:
        more = {"Authorization": f"{scheme} {token}"} | ({"DPoP": proof} if proof is not None else {})
        if protocol == "mcp":
            return gateway.call("desk.read", None, trace=trace, **more)
        return gateway.send("clerk", None, trace=trace, **more)

    def proof_of(key: Any, **bent: Any) -> str:
        return dpop(key, token, now(), **({"url": gateway.url + path} | bent))

    seen, trace = proof_of(holder), new_trace()
    answer = ask(seen, trace=trace)
    assert "result" in answer.json(), answer.text
    (start,) = gateway.records(trace=trace, kind="call.start")
    assert (start.leaf["auth"]["method"], start.leaf["auth"]["assurance"]) == ("dpop", "pop")
    attacks: dict[str, tuple[str | None, str]] = {
        "no proof": (None, "DPoP"),
        "as a plain bearer token": (None, "Bearer"),
        "as a bearer token with its proof": (proof_of(holder), "Bearer"),
        "the proof again": (seen, "DPoP"),
        "the thief's own key": (proof_of(thief), "DPoP"),
        "another path": (proof_of(holder, url=gateway.url + "/mcp/vault"), "DPoP"),
        "another host": (proof_of(holder, url="https://evil.example" + path), "DPoP"),
        "another method": (proof_of(holder, method="GET"), "DPoP"),
        "another token": (proof_of(holder, ath="A" * 43), "DPoP"),
        "an old one": (proof_of(holder, iat=now() - 120), "DPoP"),
        "a text": ("junk", "DPoP"),
    }
    heard = len(peers.heard)
    for name, (proof, scheme) in attacks.items():
        answer = ask(proof, scheme)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, DPOP_CHALLENGE), name
        assert answer.json()["error"]["data"], name
        assert all(word not in answer.text for word in ("proof", "jti", "htu", "key")), name
    assert len(peers.heard) == heard
    assert refused(gateway, lambda trace: ask(seen, trace=trace)) == "proof was used before"


def test_one_proof_is_for_one_request_at_all_servers_as_one_however_many_of_them_it_asks(gateway: Gateway) -> None:
    holder = new_key()
    token = bound_token(holder)
    meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    trace = new_trace()

    def ask(proof: str, trace: str) -> httpx.Response:
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof, "traceparent": f"00-{trace}-{'1' * 16}-01"}
        headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
        return gateway.post("/mcp", message, headers)

    seen = dpop(holder, token, now(), url=gateway.url + "/mcp")
    assert {"desk__read", "vault__open"} & {tool["name"] for tool in ask(seen, trace).json()["result"]["tools"]}
    asked = [record for record in gateway.records(trace=trace, kind="call.start") if record.leaf["method"] == "tools/list"]
    assert len({record.leaf["target"] for record in asked}) > 1
    assert {record.leaf["auth"]["method"] for record in asked} == {"dpop"}
    for other in (seen, dpop(holder, token, now(), url=gateway.url + "/mcp/desk")):
        assert ask(other, trace).status_code == 401


def test_two_proofs_are_no_proof(gateway: Gateway) -> None:
    holder = new_key()
    token = bound_token(holder)
    proof = dpop(holder, token, now(), url=f"{gateway.url}/api/whoami", method="GET")
    headers = [("Authorization", f"DPoP {token}"), ("DPoP", proof), ("DPoP", proof)]
    answer = gateway.http.get("/api/whoami", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, DPOP_CHALLENGE)
    headers = [("Authorization", f"DPoP {token}"), ("DPoP", proof)]
    assert gateway.http.get("/api/whoami", headers=headers).status_code == 200


def test_a_proof_that_one_replica_took_is_taken_by_no_other(gateway: Gateway) -> None:
    holder = new_key()
    token = bound_token(holder)
    proof = dpop(holder, token, now(), url=f"{gateway.url}/api/whoami", method="GET")
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    assert whoami(gateway, headers).status_code == 200
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as another:
        assert whoami(gateway, headers, another).status_code == 401


def test_a_stolen_delegation_of_an_agent_with_a_key_is_worth_nothing(gateway: Gateway) -> None:
    at = now()
    paul = Principal("user:dev/paul", (), "acme", "wf-" + "0" * 26, at + 600, "bearer", "0" * 64, frozenset(), issued=at)
    mint = Delegations(DELEGATIONS, gateway.public_url).mint
    url = f"{gateway.url}/mcp/desk"
    token = mint(paul, "courier", "call")
    good = gateway.call("desk.read", None, Authorization=f"DPoP {token}", DPoP=dpop(KEY, token, at, url=url))
    assert good.status_code == 200
    bound = mint(replace(paul, assurance="pop"), "courier", "call", jkt=thumbprint_of(KEY))
    for headers, why in (
        ({"Authorization": f"Bearer {token}"}, "must show a credential of its own"),
        ({"Bailiwick-Delegation": token}, "must show a credential of its own"),
        ({"Authorization": f"DPoP {token}", "DPoP": dpop(new_key(), token, at, url=url)}, "not one that the agent registered"),
        ({"Authorization": f"Bearer {gateway.agent_secrets['clerk']}", "Bailiwick-Delegation": token}, "another agent"),
        ({"Authorization": f"Bearer {gateway.agent_secrets['courier']}", "Bailiwick-Delegation": bound}, "bound to a key"),
    ):

        def ask(trace: str, headers: dict[str, str] = headers) -> httpx.Response:
            return gateway.call("desk.read", None, trace=trace, **headers)

        assert why in refused(gateway, ask)


# --- certificates and SVIDs


def test_a_certificate_in_a_header_is_believed_from_the_terminator_alone(gateway: Gateway, terminator: httpx.Client) -> None:
    header = {"Client-Cert": client_cert(certificate(uris=(SPIFFE,), now=now()))}
    answer = whoami(gateway, header, terminator)
    assert (answer.status_code, answer.json()["subject"]) == (200, "svc:courier")
    stranger = lambda trace: gateway.call("desk.read", None, trace=trace, **header)  # noqa: E731  one call
    assert "not the terminator" in refused(gateway, stranger)
    token, claimed = gateway.token(), header | {"X-Forwarded-For": TERMINATOR}  # somebody anyway, and a proxy's word for it
    assert "not the terminator" in refused(gateway, lambda trace: gateway.call("desk.read", token, trace=trace, **claimed))


def test_the_terminators_certificate_of_nobody_makes_nobody_of_a_stranger(gateway: Gateway, terminator: httpx.Client) -> None:
    for der in (certificate(common_name="courier", now=now()), certificate(uris=(SPIFFE + "/x",), now=now())):
        assert whoami(gateway, {"Client-Cert": client_cert(der)}, terminator).status_code == 401
    expired = certificate(uris=(SPIFFE,), now=now(), seconds=-1)
    assert whoami(gateway, {"Client-Cert": client_cert(expired)}, terminator).status_code == 401


def test_an_svid_for_another_audience_is_none(gateway: Gateway) -> None:
    own = svid(TRUST, now(), sub=SPIFFE, aud=[gateway.public_url])
    assert whoami(gateway, {"Authorization": f"Bearer {own}"}).json()["subject"] == "svc:courier"
    for aud in (["http://127.0.0.1:1"], [gateway.public_url, "http://127.0.0.1:1"]):
        stolen = svid(TRUST, now(), sub=SPIFFE, aud=aud)
        assert whoami(gateway, {"Authorization": f"Bearer {stolen}"}).status_code == 401
    forged = svid(new_key(), now(), sub=SPIFFE, aud=[gateway.public_url])
    assert whoami(gateway, {"Authorization": f"Bearer {forged}"}).status_code == 401


def test_an_assertion_is_good_once_on_every_replica_and_after_a_restart(gateway: Gateway) -> None:
    at = now()
    claims = {
        "iss": "courier",
        "sub": "courier",
        "aud": gateway.public_url,
        "iat": at,
        "exp": at + 60,
        "jti": new_id(at * 1_000_000),
    }
    headers = {"typ": "client-authentication+jwt", "kid": thumbprint_of(KEY)}
    shown = {"Authorization": f"Bearer {jwt.encode(claims, KEY, algorithm='ES256', headers=headers)}"}
    assert whoami(gateway, shown).status_code == 200
    twin = gateway.twin("second")
    try:
        twin.start()
        assert whoami(twin, shown).status_code == 401
    finally:
        twin.stop()


# --- correlation by trace


def test_an_unchanged_agent_goes_on_for_the_person_who_called_it(gateway: Gateway, peers: Peers) -> None:
    """clerk knows its own secret and does what every tracing library does; it never looks at a token."""
    asked = new_trace()

    def work(heard: Heard) -> str:
        assert heard.trace != asked  # a trace of the gateway's own
        return gateway.call("desk.read", gateway.agent_secrets["clerk"], trace=heard.trace).json()["result"]["content"][0]["text"]

    peers.agents["clerk"] = work
    answer = gateway.send("clerk", gateway.token(), trace=asked)
    assert answer.json()["result"]["task"]["artifacts"][0]["parts"][0]["text"] == done("done")["content"][0]["text"]
    first, second = gateway.records(workflow=answer.headers["bailiwick-workflow"], kind="call.start")
    assert second.leaf["auth"]["method"] == "trace+secret"
    assert second.leaf["auth"]["assurance"] == "correlated"
    assert [name for _, name in second.leaf["chain"][1:]] == ["agent:clerk"]
    assert second.leaf["caused_by"] == first.leaf["id"]
    assert second.leaf["subject"] == first.leaf["subject"]


def test_who_reuses_a_persons_trace_is_nobody_but_themselves(gateway: Gateway, peers: Peers) -> None:
    """Mia knows every trace id of Paul's; his agent works, hers works, and at the same time."""
    known: list[str] = []

    def as_clerk(trace: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {gateway.agent_secrets['clerk']}", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        said: dict[str, Any] = whoami(gateway, headers).json()
        return said

    def for_mia(heard: Heard) -> str:
        assert heard.trace not in known
        return str(as_clerk(heard.trace)["subject"])

    def for_paul(heard: Heard) -> str:
        known.append(heard.trace)
        peers.agents["clerk"] = for_mia
        for trace in known:
            answer = gateway.send("clerk", gateway.token("mia"), trace=trace)
            assert answer.json()["result"]["task"]["artifacts"][0]["parts"][0]["text"] == "user:dev/mia"
        return str(as_clerk(heard.trace)["subject"])

    known.append(new_trace())
    peers.agents["clerk"] = for_paul
    answer = gateway.send("clerk", gateway.token("paul"), trace=known[0])
    assert answer.json()["result"]["task"]["artifacts"][0]["parts"][0]["text"] == "user:dev/paul"
    for credential in (gateway.agent_secrets["courier"], gateway.agent_secrets["hermit"]):
        for trace in known:
            headers = {"Authorization": f"Bearer {credential}", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
            assert whoami(gateway, headers).json()["subject"] in {"svc:courier", "svc:hermit"}
    assert as_clerk(known[0])["subject"] == "svc:clerk"  # under the trace that Paul's client chose nothing was handed over
