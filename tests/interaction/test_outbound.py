"""What upstreams are shown, and what they are not: a whole gateway between strangers' authorization servers and tool servers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from examples.txn_token import Verifier, canonical
from gateway.identity.devissuer import DevIssuer
from tests.interaction.outside import CLIENT, GRANT, SECRET, TOKEN_TYPE, Outside, outside
from tests.interaction.world import LEGACY, MODERN, Gateway, Peers

SERVERS = ("told", "traded", "jagged", "hired", "fixed", "printed", "bare")
NUMBERS = {"n": 4.50, "big": 1e21, "small": 1e-7, "whole": 3.0}
ARGUMENTS: dict[str, Any] = {
    "text": "héllo \u20ac",
    **NUMBERS,
    "deep": {"z": [1, None], "\u20ac": True},
}


def _policies(folder: Path) -> None:
    """Everybody who buys may call everything here."""
    kinds = ", ".join(f"{name}: number" for name in NUMBERS)
    tools = "".join(f"  {name}.read: {{args: {{text: string, {kinds}, deep: object}}, risk: low}}\n" for name in SERVERS)
    text = (folder / "tools.yaml").read_text()
    (folder / "tools.yaml").write_text(text.replace("sets:\n", tools + "sets:\n"))
    with (folder / "grants" / "people.csv").open("a") as grants:
        for number, server in enumerate(SERVERS):
            for who, mark in (("role:buyer", "B"), ("role:marketer", "M"), ("svc:clerk", "S")):
                grants.write(f"p, {who}, acme, {server}.read, call, allow, -, -, OUT-{mark}{number}\n")
    with (folder / "grants" / "agents.csv").open("a") as grants:
        for number, server in enumerate(SERVERS):
            grants.write(f"p, agent:clerk, acme, {server}.read, call, allow, -, -, OUT-A{number}\n")


def _settings(folder: Path, world: Outside, peers: Peers) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    world.client_key = key.public_key()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for name, text in {"client": SECRET, "client.pem": pem, "fixed": "first", "printed": "printed-1\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    idp = {"url": f"{world.base}/idp/token", "client": {"id": CLIENT, "secret": {"file": "client"}}}
    server = {"url": f"{world.base}/as/token", "client": {"id": CLIENT, "key": {"file": "client.pem"}}}
    exchange = {"strategy": "token_exchange", "endpoint": idp, "audience": "traded", "scope": ["read", "write"]}
    jag = {"strategy": "id_jag", "endpoint": idp, "redeem": server, "audience": f"{world.base}/as", "resource": "urn:jagged"}
    cat = [sys.executable, "-c", f"print(open({str(folder / 'printed')!r}).read(), end='')"]
    credentials: dict[str, dict[str, Any]] = {
        "told": {"strategy": "txn_token", "audience": "https://told.example"},
        "traded": exchange,
        "jagged": jag,
        "hired": {"strategy": "client_credentials", "endpoint": server, "scope": ["all"]},
        "fixed": {"strategy": "static_secret", "secret": {"file": "fixed"}, "header": "X-Api-Key"},
        "printed": {"strategy": "static_secret", "secret": {"command": cat}},
        "bare": {"strategy": "none"},
    }
    return {name: {"url": f"{world.base}/mcp/{name}", "credentials": said} for name, said in credentials.items()}


@pytest.fixture(scope="module")
def world() -> Iterator[Outside]:
    with outside() as made:
        yield made


@pytest.fixture(scope="module")
def gate(world: Outside, upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("outbound")
    plain = Gateway(folder, upstreams)  # for what it says of itself
    _policies(folder / "policies")
    agents = plain.settings["agents"]
    agents["clerk"] |= {"credentials": {"strategy": "txn_token"}, "client_ids": ["clerk-client"]}
    agents["hermit"]["credentials"] = {
        "strategy": "static_secret", "secret": {"file": "fixed", "prefix": "Key "}, "header": "X-Api-Key"
    }  # fmt: skip
    plain.settings["mcp"] = _settings(folder, world, upstreams)
    plain.config.write_text(json.dumps(plain.settings))
    world.people = folder / "data" / "dev-jwks.json"
    try:
        yield plain.start()
    finally:
        plain.stop()


@pytest.fixture(autouse=True)
def _forget(world: Outside) -> Iterator[None]:
    yield
    world.demands.clear()
    world.heard.clear()
    world.asked.clear()
    world.bend = lambda answer, _: answer


def _refused(gate: Gateway, answer: Any, said_why: str = "") -> str:
    """The reason that stands in the ledger, for a call that was answered as one that failed."""
    said = answer.json()
    assert "error" in said or said["result"]["isError"], answer.text
    (record,) = gate.records(kind="decision.deny", id=answer.headers["bailiwick-decision"])
    assert said_why in record.leaf["refused"]["detail"]
    return str(record.leaf["refused"]["code"])


def _kinds(gate: Gateway, server: str) -> list[str]:
    return [record.leaf.get("cred", "") for record in gate.records(kind="call.start", target=server)]


@pytest.mark.parametrize(("version", "size"), [(LEGACY, 1), (MODERN, 1), (MODERN, 50_000)])
def test_a_tool_server_can_verify_for_whom_and_for_which_arguments_it_is_called(
    gate: Gateway, world: Outside, version: str, size: int
) -> None:
    verifier, seen = Verifier(gate.url, "https://told.example"), []

    def demand(headers: Any, message: dict[str, Any]) -> bool:
        seen.append(verifier.verify(headers["txn-token"], message["method"], message["params"]))
        return True

    world.demands["told"] = demand
    answer = gate.call("told.read", gate.token(), version=version, arguments=ARGUMENTS | {"text": "ä\n" * size})
    assert answer.json()["result"]["isError"] is False, answer.text
    (claims,) = seen
    assert claims["sub"] == "user:dev/paul"
    assert (claims["scope"], claims["req_wl"], claims["chain"]) == ("call:told.read", "user:dev/paul", [])
    assert claims["txn"] == answer.headers["bailiwick-workflow"]
    assert claims["exp"] - claims["iat"] <= 30
    assert _kinds(gate, "told")[-1] == "transaction"
    (headers,) = world.of("told")
    assert "authorization" not in headers


def test_a_transaction_token_is_good_for_no_other_arguments_tool_audience_or_second_time(gate: Gateway, world: Outside) -> None:
    gate.call("told.read", gate.token(), arguments=ARGUMENTS)
    _, headers, message = world.heard[-1]
    token, method, params = headers["txn-token"], message["method"], message["params"]
    for changed in (
        {**params, "arguments": {**params["arguments"], "n": 4.51}},
        {**params, "arguments": {}},
        {**params, "name": "write"},
    ):
        with pytest.raises(jwt.InvalidTokenError):
            Verifier(gate.url, "https://told.example").verify(token, method, changed)
    with pytest.raises(jwt.InvalidTokenError):
        Verifier(gate.url, "https://other.example").verify(token, method, params)
    with pytest.raises(jwt.InvalidTokenError):
        Verifier(gate.url, "https://told.example").verify(token, "tools/list", {})
    verifier = Verifier(gate.url, "https://told.example")
    assert verifier.verify(token, method, params)
    with pytest.raises(jwt.InvalidTokenError, match="before"):
        verifier.verify(token, method, params)


def test_a_transaction_token_is_no_credential_at_the_gateway(gate: Gateway, world: Outside) -> None:
    gate.call("told.read", gate.token())
    token = world.of("told")[-1]["txn-token"]
    assert gate.call("told.read", token).status_code == 401


def test_an_integer_that_two_readers_would_take_for_different_ones_is_not_vouched_for(gate: Gateway, world: Outside) -> None:
    answer = gate.call("told.read", gate.token(), arguments={"n": 2**53 + 1})
    assert _refused(gate, answer, "2^53") == "credential-unavailable"
    assert world.of("told") == []


def test_an_agent_sees_the_person_and_the_chain_beside_its_delegation(gate: Gateway, peers: Peers) -> None:
    answer = gate.send("clerk", gate.token())
    assert "result" in answer.json(), answer.text
    heard = peers.heard[-1]
    keys = jwt.PyJWKClient(f"{gate.url}/.well-known/jwks.json")
    token = heard.headers["txn-token"]
    claims = jwt.decode(token, keys.get_signing_key_from_jwt(token), ["ES256"], audience=_clerk(gate))
    assert (claims["sub"], claims["scope"]) == ("user:dev/paul", "send:a2a:clerk")
    assert claims["tctx"]["method"] == "SendMessage"
    assert claims["tctx"]["args_sha256"] == hashlib.sha256(canonical(heard.message["params"])).hexdigest()
    assert heard.headers["authorization"].startswith("Bearer ")


def _clerk(gate: Gateway) -> str:
    return str(gate.settings["agents"]["clerk"]["url"])


def test_the_chain_stands_in_the_token_when_an_agent_calls_on(gate: Gateway, world: Outside, peers: Peers) -> None:
    def forward(heard: Any) -> str:
        delegation = heard.headers["authorization"].removeprefix("Bearer ")
        more = {"Bailiwick-Delegation": delegation}
        return gate.call("told.read", gate.agent_secrets["clerk"], **more).text

    peers.agents["clerk"] = forward
    gate.send("clerk", gate.token())
    claims = jwt.decode(world.of("told")[-1]["txn-token"], options={"verify_signature": False})
    assert (claims["sub"], claims["chain"], claims["req_wl"]) == ("user:dev/paul", ["agent:clerk"], "agent:clerk")
    assert claims["act"] == {"sub": "agent:clerk"}


def test_an_exchange_is_asked_for_once_a_workflow_and_shown_to_its_upstream_alone(gate: Gateway, world: Outside) -> None:
    token = gate.token()
    for _ in range(3):
        assert "result" in gate.call("traded.read", token).json()
    (form,) = world.forms("/idp/token")
    assert form["grant_type"] == f"{GRANT}token-exchange"
    assert (form["subject_token"], form["subject_token_type"]) == (token, f"{TOKEN_TYPE}access_token")
    assert (form["audience"], form["scope"]) == ("traded", "read write")
    shown = {headers["authorization"] for headers in world.of("traded")}
    assert len(shown) == 1
    assert world.given[shown.pop().removeprefix("Bearer ")] == "paul at traded"
    assert set(_kinds(gate, "traded")) == {"person"}


def test_what_was_got_for_one_person_is_never_shown_for_another(gate: Gateway, world: Outside) -> None:
    gate.call("traded.read", gate.token("paul"))
    gate.call("traded.read", gate.token("mia"))
    said = [world.given[headers["authorization"].removeprefix("Bearer ")] for headers in world.of("traded")]
    assert said == ["paul at traded", "mia at traded"]


def test_an_agent_down_the_chain_gets_the_persons_exchange_and_never_their_token(
    gate: Gateway, world: Outside, peers: Peers
) -> None:
    def forward(heard: Any) -> str:
        more = {"Bailiwick-Delegation": heard.headers["authorization"].removeprefix("Bearer ")}
        return gate.call("traded.read", gate.agent_secrets["clerk"], **more).text

    peers.agents["clerk"] = forward
    token = gate.token()
    gate.send("clerk", token)
    assert world.forms("/idp/token")[-1]["subject_token"] == token
    assert world.given[world.of("traded")[-1]["authorization"].removeprefix("Bearer ")] == "paul at traded"


def test_a_service_has_no_person_to_exchange(gate: Gateway, world: Outside) -> None:
    answer = gate.call("traded.read", gate.agent_secrets["clerk"])
    assert _refused(gate, answer) == "credential-unavailable"
    assert world.forms("/idp/token") == []
    assert world.of("traded") == []


@pytest.mark.parametrize(
    ("bend", "why"),
    [
        (lambda answer, form: answer | {"access_token": form["subject_token"]}, "own token back"),
        (lambda answer, _: answer | {"token_type": "DPoP"}, "not one of type bearer"),
        (lambda answer, _: answer | {"issued_token_type": f"{TOKEN_TYPE}refresh_token"}, "another type"),
        (lambda answer, _: answer | {"access_token": "two\r\nlines"}, "no token"),
        (lambda answer, _: answer | {"access_token": "x" * 20_000}, "no token"),
        (lambda answer, _: answer | {"access_token": ""}, "no token"),
        (lambda answer, _: answer | {"expires_in": "soon"}, "no readable end"),
        (lambda answer, _: answer | {"expires_in": -1}, "no readable end"),
        (lambda *_: [], "no object"),
        (lambda answer, _: answer | {"padding": "x" * 70_000}, "cannot be asked"),
        (lambda answer, _: answer | {"error": "invalid_target"}, "invalid_target"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_no_credential(
    gate: Gateway, world: Outside, bend: Callable[[Any, Any], Any], why: str
) -> None:
    world.bend = bend
    token = gate.token()
    answer = gate.call("traded.read", token)
    assert _refused(gate, answer, why) == "credential-unavailable"
    assert world.of("traded") == []
    refusal = gate.records(kind="decision.deny", target="traded")[-1]
    assert token not in json.dumps(refusal.leaf)
    assert "/idp/token" not in answer.text


def test_an_assertion_is_redeemed_where_it_is_meant_for(gate: Gateway, world: Outside) -> None:
    token = gate.token()
    assert "result" in gate.call("jagged.read", token).json()
    (exchange,), (redeemed,) = world.forms("/idp/token"), world.forms("/as/token")
    assert exchange["requested_token_type"] == f"{TOKEN_TYPE}id-jag"
    assert (exchange["audience"], exchange["resource"]) == (f"{world.base}/as", "urn:jagged")
    assert redeemed["grant_type"] == f"{GRANT}jwt-bearer"
    assert "subject_token" not in redeemed
    shown = world.of("jagged")[-1]["authorization"].removeprefix("Bearer ")
    assert world.given[shown] == "paul by assertion"


@pytest.mark.parametrize(
    ("header", "claims", "why"),
    [
        ({"typ": "JWT"}, {}, "not an oauth-id-jag+jwt"),
        ({}, {"aud": "https://elsewhere.example"}, "for somebody else"),
        ({}, {"aud": ["https://elsewhere.example", "{as}"]}, "for somebody else"),
        ({}, {"client_id": "somebody"}, "another client"),
        ({}, {"exp": 1_500_000_000}, "has ended"),
    ],
)
def test_an_assertion_that_is_meant_for_somebody_else_is_not_sent_on(
    gate: Gateway, world: Outside, header: dict[str, str], claims: dict[str, Any], why: str
) -> None:
    def bend(answer: dict[str, Any], form: dict[str, str]) -> dict[str, Any]:
        said = jwt.decode(answer["access_token"], options={"verify_signature": False}) | claims
        if isinstance(said["aud"], list):
            said["aud"] = [text.replace("{as}", f"{world.base}/as") for text in said["aud"]]
        text = jwt.encode(said, world.key, "ES256", {"typ": "oauth-id-jag+jwt", "kid": "idp"} | header)
        return answer | {"access_token": text}

    world.bend = bend
    answer = gate.call("jagged.read", gate.token())
    assert _refused(gate, answer, why) == "credential-unavailable"
    assert world.forms("/as/token") == []


def test_the_gateways_own_token_is_one_for_everybody(gate: Gateway, world: Outside) -> None:
    gate.call("hired.read", gate.token("paul"))
    gate.call("hired.read", gate.token("paul"))
    assert len(world.forms("/as/token")) <= 1
    assert len({headers["authorization"] for headers in world.of("hired")}) == 1
    assert set(_kinds(gate, "hired")) == {"client"}


def test_a_token_that_the_upstream_does_not_take_is_not_shown_again(gate: Gateway, world: Outside) -> None:
    token = gate.token()
    gate.call("traded.read", token)
    worn = world.of("traded")[-1]["authorization"]
    world.demands["traded"] = lambda headers, _: headers["authorization"] != worn
    refused = gate.call("traded.read", token)
    assert refused.status_code != 401
    assert "www-authenticate" not in refused.headers
    assert "who is it" not in refused.text
    assert "result" in gate.call("traded.read", token).json()
    assert len([headers for headers in world.of("traded") if headers["authorization"] == worn]) == 2  # a call is never made twice


def test_a_list_is_asked_for_again_with_a_fresh_token(gate: Gateway, world: Outside) -> None:
    token = gate.token()
    gate.call("traded.read", token)
    worn = world.of("traded")[-1]["authorization"]
    world.demands["traded"] = lambda headers, _: headers["authorization"] != worn
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": LEGACY}
    message = {"jsonrpc": "2.0", "id": 3, "method": "tools/list"}
    answer = gate.post("/mcp/traded", message, headers | {"Authorization": f"Bearer {token}"})
    assert [tool["name"] for tool in answer.json()["result"]["tools"]] == ["read"]


def test_a_mounted_secret_that_is_replaced_is_shown_without_a_restart(gate: Gateway, world: Outside) -> None:
    gate.call("fixed.read", gate.token())
    fresh = gate.folder / "fixed.new"
    fresh.write_text("second\n")
    fresh.chmod(0o600)
    fresh.replace(gate.folder / "fixed")
    gate.call("fixed.read", gate.token())
    assert [headers["x-api-key"] for headers in world.of("fixed")] == ["first", "second"]
    assert set(_kinds(gate, "fixed")) == {"shared"}
    fresh.write_text("")
    fresh.chmod(0o600)
    fresh.replace(gate.folder / "fixed")
    answer = gate.call("fixed.read", gate.token())
    assert _refused(gate, answer) == "credential-unavailable"
    assert len(world.of("fixed")) == 2
    (gate.folder / "fixed").write_text("third")  # in place: another way to change it
    gate.call("fixed.read", gate.token())
    assert world.of("fixed")[-1]["x-api-key"] == "third"


def test_a_command_prints_the_secret(gate: Gateway, world: Outside) -> None:
    gate.call("printed.read", gate.token())
    assert world.of("printed")[-1]["authorization"] == "Bearer printed-1"


def test_nothing_that_came_in_goes_out_and_nothing_of_the_upstreams_own_comes_back(gate: Gateway, world: Outside) -> None:
    token = gate.token()
    smuggled = {
        "Cookie": "session=mine", "Txn-Token": "mine.mine.mine", "X-Forwarded-User": "mallory", "X-Api-Key": "mine",
        "Forwarded": "for=mine", "X-Forwarded-For": "9.9.9.9",
        "Proxy-Authorization": "Basic mine", "Baggage": "user=mine", "X-Mine": "mine",
    }  # fmt: skip
    for server in ("bare", "told", "fixed", "traded"):
        answer = gate.call(f"{server}.read", token, **smuggled)
        for headers in world.of(server):
            for value in headers.values():
                assert token not in value
                assert "mine" not in value and "mallory" not in value and "9.9.9.9" not in value  # noqa: PT018  one promise
        came = {name.lower() for name in answer.headers}
        assert not came & {"set-cookie", "www-authenticate", "authorization", "txn-token"}
    assert "authorization" not in world.of("bare")[-1]
    assert gate.records(kind="call.start", target="bare")[-1].leaf.get("cred", "") == ""


def test_no_secret_or_token_reaches_the_log_of_the_process_or_the_ledger(gate: Gateway, world: Outside) -> None:
    gate.call("traded.read", gate.token())
    shown = world.of("traded")[-1]["authorization"].removeprefix("Bearer ")
    ledger = gate.ledger_file.read_bytes() + gate.ledger_file.with_name("ledger.db-wal").read_bytes()
    store = b"".join(path.read_bytes() for path in (gate.folder / "data").glob("state.db*"))
    for secret in (shown, SECRET):
        assert secret not in gate.log.read_text()
        assert secret.encode() not in ledger
    assert b"eyJ" not in store  # people's tokens are kept sealed


def test_headers_without_a_strategy_are_recorded_as_everybodys(gateway: Gateway) -> None:
    gateway.call("desk.read", gateway.token())
    gateway.call("vault.open", gateway.token())
    assert set(_kinds(gateway, "desk")) == {"shared"}
    assert set(_kinds(gateway, "vault")) == {""}


def test_an_agents_card_is_fetched_with_what_is_everybodys_and_with_nothing_personal(
    own_gateway: Callable[..., Gateway], world: Outside, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("everybodys")
    (tmp_path / "key").chmod(0o600)
    static = {"strategy": "static_secret", "secret": {"file": "key"}, "header": "X-Api-Key"}
    agents = {
        "clerk": {"url": f"{world.base}/agents/clerk", "credentials": {"strategy": "txn_token"}},
        "hermit": {"url": f"{world.base}/agents/hermit", "credentials": static},
    }
    gate = own_gateway(agents=agents)
    with (gate.folder / "policies" / "grants" / "people.csv").open("a") as grants:
        grants.write("p, role:buyer, acme, a2a:hermit, send, allow, -, -, OUT-H\n")
    gate.stop()
    gate.start()
    for agent in agents:
        headers = {"Authorization": f"Bearer {gate.token()}", "A2A-Version": "1.0"}
        gate.http.get(f"/a2a/{agent}/.well-known/agent-card.json", headers=headers)
    asked = {name: headers for name, headers, _ in world.heard}
    assert "txn-token" not in asked["clerk"]
    assert asked["hermit"]["x-api-key"] == "everybodys"


def test_an_agent_goes_on_from_the_persons_token_also_after_a_restart(gate: Gateway, world: Outside, peers: Peers) -> None:
    delegations: list[str] = []

    def remember(heard: Any) -> str:
        delegations.append(heard.headers["authorization"].removeprefix("Bearer "))
        return "later"

    peers.agents["clerk"] = remember
    token = gate.token()
    gate.send("clerk", token)
    gate.stop()
    gate.start()
    answer = gate.call("traded.read", gate.agent_secrets["clerk"], **{"Bailiwick-Delegation": delegations[0]})
    assert answer.json()["result"]["isError"] is False, answer.text
    assert world.forms("/idp/token")[-1]["subject_token"] == token


def test_a_workflow_that_began_at_the_token_endpoint_is_exchanged_for_too(gate: Gateway, world: Outside) -> None:
    issuer = DevIssuer(gate.folder / "data", f"{gate.url}/dev", gate.url)
    token = issuer.issue("paul", ["procurement-managers"], client_id="clerk-client")
    form = {
        "grant_type": f"{GRANT}token-exchange",
        "subject_token": token,
        "subject_token_type": f"{TOKEN_TYPE}access_token",
    }
    headers = {"Authorization": f"Bearer {gate.agent_secrets['clerk']}"}
    issued = gate.http.post("/oauth/token", data=form, headers=headers).raise_for_status().json()
    more = {"Bailiwick-Delegation": issued["access_token"]}
    answer = gate.call("traded.read", gate.agent_secrets["clerk"], **more)
    assert answer.json()["result"]["isError"] is False, answer.text
    assert world.forms("/idp/token")[-1]["subject_token"] == token


def test_an_agent_that_does_not_take_a_token_is_sent_nothing_twice_and_shown_another_with_the_next_call(
    gate: Gateway, own_gateway: Callable[..., Gateway], world: Outside
) -> None:
    server = {"url": f"{world.base}/as/token", "client": {"id": CLIENT, "key": {"file": str(gate.folder / "client.pem")}}}
    credentials = {"strategy": "client_credentials", "endpoint": server, "header": "X-Token"}
    own = own_gateway(agents={"clerk": {"url": f"{world.base}/agents/clerk", "credentials": credentials}})
    world.demands["/agents/clerk"] = lambda *_: False
    for _ in range(2):
        answer = own.send("clerk", own.token())
        assert answer.status_code != 401
        assert "www-authenticate" not in answer.headers
        assert "who is it" not in answer.text
    shown = [headers["x-token"] for headers in world.of("/agents/clerk")]
    assert len(shown) == len(set(shown)) == 2
