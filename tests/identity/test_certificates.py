"""Client certificates from a trusted terminator (RFC 9440): believed from it alone, matched by thumbprint or SAN, never by CN."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gateway.configuration import load
from gateway.identity.agents import AgentCredentials, new_secret
from gateway.identity.authenticate import Authenticator
from gateway.model import Arrival, Principal, Refused, Trace, new_id
from gateway.problem import ProblemError
from gateway.reasons import Code
from gateway.settings import Agent, AgentAuth, Terminator
from gateway.settings_base import Secret
from tests.identity.proving import certificate, client_cert, dpop, new_key, thumbprint_of

NOW = 1_800_000_000
URL = "http://127.0.0.1:8080"
PROXY = "10.0.0.7"
SPIFFE = "spiffe://acme.example/agents/clerk"
CLERK = certificate(uris=(SPIFFE,), now=NOW)
PINNED = certificate(now=NOW)
SECRET, DIGEST = new_secret("clerk")
AGENTS = {
    "clerk": Agent(auth=AgentAuth(certificates=(SPIFFE, "dns:clerk.acme.example"), secret_sha256=(DIGEST,))),
    "pinned": Agent(auth=AgentAuth(certificates=(f"sha256:{hashlib.sha256(PINNED).hexdigest()}",)), client_ids=("pinned-app",)),
}


class Gate:
    def __init__(self, world, terminator: Terminator, secret: str | None = None) -> None:
        credentials = AgentCredentials(AGENTS, URL, None, world.clock.monotonic, terminator=terminator, terminator_secret=secret)
        self.world = world
        self.credentials = credentials
        self.authenticator = Authenticator(
            tenant="acme", public_url=URL, issuers=(world.issuer.settings(),), agents=AGENTS, delegations=world.delegations,
            credentials=credentials, clock=world.clock, monotonic=world.clock.monotonic,
        )  # fmt: skip

    async def ask(self, *headers: tuple[str, str], peer: str = PROXY) -> Principal:
        at = self.world.clock()
        trace = Trace("0" * 31 + "1", "0" * 15 + "1")
        return await self.authenticator(Arrival(new_id(at), "mcp", "erp", headers, b"", at, trace, peer=peer))

    async def shown(self, *ders: bytes, peer: str = PROXY, more: tuple[tuple[str, str], ...] = ()) -> Principal:
        return await self.ask(*(("client-cert", client_cert(der)) for der in ders), *more, peer=peer)


@pytest.fixture
def gate(world) -> Gate:
    return Gate(world, Terminator(peers=("10.0.0.0/29", "fd00::/8")))


async def refused(awaitable, code: Code = Code.INVALID_CREDENTIAL) -> str:
    with pytest.raises(Refused) as caught:
        await awaitable
    assert caught.value.code is code
    return caught.value.detail


async def test_a_certificate_proves_the_agent_whose_settings_name_it(gate) -> None:
    for der, agent in ((CLERK, "clerk"), (PINNED, "pinned"), (certificate(dns=("CLERK.acme.example",), now=NOW), "clerk")):
        principal = await gate.shown(der)
        assert (principal.subject, principal.method, principal.assurance) == (f"svc:{agent}", "certificate", "pop")
        assert principal.credential == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("peer", ["10.0.0.8", "127.0.0.1", "", "testclient", "fe80::1", "::ffff:10.0.0.8", "10.0.0.7, 10.0.0.7"])
async def test_the_header_from_anybody_but_the_terminator_is_refused_whatever_stands_beside_it(gate, peer: str) -> None:
    assert "not the terminator" in await refused(gate.shown(CLERK, peer=peer))
    token = gate.world.issuer.issue("paul", [])
    assert "not the terminator" in await refused(gate.shown(CLERK, peer=peer, more=(("authorization", f"Bearer {token}"),)))
    assert "not the terminator" in await refused(gate.ask(("client-cert", "junk"), peer=peer))
    assert "not the terminator" in await refused(gate.ask(("bailiwick-terminator", "x"), peer=peer))
    await gate.ask(("authorization", f"Bearer {token}"), peer=peer)  # nobody claims anything


@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7", "fd00::17"])
async def test_the_terminators_address_counts_in_each_of_its_spellings(gate, peer: str) -> None:
    assert (await gate.shown(CLERK, peer=peer)).subject == "svc:clerk"


async def test_a_certificate_that_stands_twice_is_refused_even_where_both_are_equal(gate) -> None:
    assert "twice" in await refused(gate.shown(CLERK, CLERK))
    assert "twice" in await refused(gate.shown(CLERK, PINNED))
    joined = f"{client_cert(CLERK)}, {client_cert(PINNED)}"
    assert "no byte sequence" in await refused(gate.ask(("client-cert", joined)))


@pytest.mark.parametrize(
    ("secret", "good"),
    [
        (("s3cret-of-the-proxy",), True),
        ((), False),
        (("wrong",), False),
        (("",), False),
        (("s3cret-of-the-proxy", "s3cret-of-the-proxy"), False),
    ],
)
async def test_where_the_terminator_has_a_secret_its_address_is_not_enough(world, secret: tuple[str, ...], good: bool) -> None:
    gate = Gate(world, Terminator(peers=(PROXY,), secret=Secret(env="T")), "s3cret-of-the-proxy")
    asked = gate.shown(CLERK, more=tuple(("bailiwick-terminator", value) for value in secret))
    if good:
        assert (await asked).subject == "svc:clerk"
    else:
        detail = await refused(asked)
        assert "terminator's secret" in detail
        assert "s3cret" not in detail


async def test_a_common_name_names_nobody(gate) -> None:
    der = certificate(common_name="clerk.acme.example", now=NOW)
    assert await refused(gate.shown(der), Code.NO_CREDENTIAL) == ""


async def test_a_wildcard_names_nobody(gate) -> None:
    await refused(gate.shown(certificate(dns=("*.acme.example",), now=NOW)), Code.NO_CREDENTIAL)


async def test_a_certificate_of_two_agents_is_refused(world) -> None:
    agents = {
        "a": Agent(auth=AgentAuth(certificates=("dns:a.example",))),
        "b": Agent(auth=AgentAuth(certificates=("dns:b.example",))),
    }
    credentials = AgentCredentials(agents, URL, terminator=Terminator(peers=(PROXY,)))
    header = ("client-cert", client_cert(certificate(dns=("a.example", "b.example"), now=NOW)))
    arrival = Arrival("i", "mcp", "erp", (header,), b"", 0, Trace("0" * 31 + "1", "0" * 15 + "1"), peer=PROXY)
    assert "two agents" in await refused(credentials.proven(arrival, NOW))


@pytest.mark.parametrize(
    ("begins", "seconds", "good"), [(-60, 60, True), (0, 60, True), (1, 60, False), (-60, -1, False), (-60, 0, True)]
)
async def test_a_certificate_counts_within_its_time_alone(gate, begins: int, seconds: int, good: bool) -> None:
    der = certificate(uris=(SPIFFE,), now=NOW, begins=begins, seconds=seconds)
    if good:
        await gate.shown(der)
    else:
        assert "not valid now" in await refused(gate.shown(der))


@pytest.mark.parametrize(
    "value",
    [
        "", ":", "::", "x", ":AAAA:", ":AAAA", client_cert(CLERK)[1:-1], f" {client_cert(CLERK)}", f"{client_cert(CLERK)};a=b",
        f'"{client_cert(CLERK)}"', client_cert(CLERK + b"\0"), client_cert(CLERK[:-1]), f":{'A' * 30_000}:",
        client_cert(CLERK).replace("+", "-").replace("/", "_") + "-", "-----BEGIN CERTIFICATE-----",
    ],
    ids=range(15),
)  # fmt: skip
async def test_what_is_no_certificate_is_refused(gate, value: str) -> None:
    detail = await refused(gate.ask(("client-cert", value)))
    assert "client certificate" in detail
    assert value[:20] not in detail or not value.strip(":")


async def test_a_certificate_beside_a_delegation_acts_for_the_person(gate) -> None:
    token = gate.world.delegations.mint(await gate.world.paul(), "clerk", "c")
    for header in (("bailiwick-delegation", token), ("authorization", f"Bearer {token}")):
        principal = await gate.shown(CLERK, more=(header,))
        assert (principal.subject, principal.actors, principal.method) == (
            "user:dev/paul",
            ("agent:clerk",),
            "delegation+certificate",
        )
        assert "another agent" in await refused(gate.shown(PINNED, more=(header,)))


async def test_a_certificate_and_another_credential_must_be_one_agents(gate) -> None:
    more = (("authorization", f"Bearer {SECRET}"),)
    principal = await gate.shown(CLERK, more=more)
    assert (principal.method, principal.assurance) == ("certificate", "pop")  # the better of the two
    assert "two agents" in await refused(gate.shown(PINNED, more=more))
    stranger = certificate(dns=("stranger.example",), now=NOW)  # whose certificate is nobody's here, as in a mesh
    assert (await gate.shown(stranger, more=more)).method == "secret"


async def test_an_agents_certificate_beside_a_token_that_was_not_issued_to_it_is_refused(gate) -> None:
    issue = gate.world.issuer.issue
    own, theirs = issue("paul", []), issue("paul", [], client_id="pinned-app")
    for token in (own, theirs):
        assert "not issued to it" in await refused(gate.shown(CLERK, more=(("authorization", f"Bearer {token}"),)))
    again = (("authorization", f"Bearer {theirs}"),)
    for _ in range(2):  # also where the token is known
        assert (await gate.shown(PINNED, more=again)).actors == ("agent:pinned",)
    assert "not issued to it" in await refused(gate.shown(CLERK, more=again))


async def test_without_a_terminator_nobody_reads_the_header(world) -> None:
    trace = Trace("0" * 31 + "1", "0" * 15 + "1")
    headers = (("client-cert", client_cert(CLERK)),)
    arrival = Arrival("i", "mcp", "erp", headers, b"", world.clock(), trace, peer=PROXY)
    assert await refused(world.authenticator(arrival), Code.NO_CREDENTIAL) == ""


async def test_the_header_may_have_another_name(world) -> None:
    gate = Gate(world, Terminator(peers=(PROXY,), header="X-Client-Cert"))
    assert (await gate.ask(("x-client-cert", client_cert(CLERK)))).subject == "svc:clerk"
    assert await refused(gate.shown(CLERK), Code.NO_CREDENTIAL) == ""


@pytest.mark.parametrize(
    "name",
    [
        "clerk", "CN=clerk", "sha256:ABC", f"sha256:{'A' * 64}", "dns:*.acme.example", "dns:Clerk.example", "dns:", "dns:a..b",
        "clerk.example", "spiffe://",
    ],
)  # fmt: skip
def test_a_name_that_could_match_nobody_or_too_many_is_told_at_start(name: str) -> None:
    agents = {"a": Agent(auth=AgentAuth(certificates=(name,)))}
    with pytest.raises(ProblemError, match="no name of a certificate"):
        AgentCredentials(agents, URL, terminator=Terminator(peers=(PROXY,)))


def test_contradictions_are_told_at_start(tmp_path: Path) -> None:
    one = Agent(auth=AgentAuth(certificates=(SPIFFE,)))
    with pytest.raises(ProblemError, match="two agents"):
        AgentCredentials({"a": one, "b": one}, URL, terminator=Terminator(peers=(PROXY,)))
    with pytest.raises(ProblemError, match="nobody hands any on"):
        AgentCredentials({"a": one}, URL)
    with pytest.raises(ProblemError, match="no network"):
        AgentCredentials({}, URL, terminator=Terminator(peers=("proxy.local",)))
    with pytest.raises(ProblemError, match="secret is not there"):
        AgentCredentials({}, URL, terminator=Terminator(peers=(PROXY,), secret=Secret(file=tmp_path / "x")))


CERTIFIED = "agents: {clerk: {auth: {certificates: ['dns:clerk.example']}}}"
SETTINGS = [
    ("agents: {a: {auth: {certificates: ['CN=a']}}}\nterminator: {peers: [10.0.0.7]}", "bad-certificate-name", 1),
    (CERTIFIED, "no-terminator", 1),
    (f"{CERTIFIED}\nterminator: {{peers: [proxy.example]}}", "bad-address", 2),
    (
        "agents: {a: {auth: {certificates: ['dns:x']}}, b: {auth: {certificates: ['dns:x']}}}\nterminator: {peers: [10.0.0.7]}",
        "ambiguous-certificate",
        1,
    ),
    ("agents: {a: {auth: {spiffe_id: clerk}}}", "bad-spiffe-id", 1),
    ("agents: {a: {auth: {spiffe_id: 'spiffe://x.example/a'}}}", "unknown-trust-domain", 1),
    ("trust_domains: [{name: 'spiffe://x.example', jwks: {file: k}}]", "bad-trust-domain", 1),
    ("trust_domains: [{name: x.example, jwks: {url: 'http://x.example/k'}}]", "insecure-jwks-url", 1),
    (f"agents: {{a: {{auth: {{trace_ok: true, secret_sha256: [{'a' * 64}]}}}}}}", "unfollowed-agent", 1),
    ("agents: {a: {url: 'http://127.0.0.1:1', auth: {trace_ok: true, bearer_ok: true}}}", "unfollowed-agent", 1),
]


@pytest.mark.parametrize(("text", "code", "line"), SETTINGS)
def test_settings_of_proofs_that_could_not_be_kept_are_told_with_their_line(
    text: str, code: str, line: int, tmp_path: Path
) -> None:
    file = tmp_path / "bailiwick.yaml"
    file.write_text(f"{text}\n")
    with pytest.raises(ProblemError) as caught:
        load(file, {})
    found = {problem.code: problem.location for problem in caught.value.problems}
    assert found == {code: found[code]}
    if code != "no-terminator":  # there is no line for what is not there
        assert found[code].startswith(f"{file}:{line}:")


def test_good_settings_of_proofs_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "bailiwick.yaml"
    file.write_text(
        f"{CERTIFIED}\nterminator: {{peers: ['10.0.0.0/8', '::1'], secret: {{env: T}}}}\n"
        "trust_domains: [{name: x.example, jwks: {url: 'https://x.example/k'}}]\n"
    )
    assert load(file, {"T": "s"}).agents["clerk"].auth.certificates == ("dns:clerk.example",)


async def test_a_delegation_that_another_agents_key_proves_is_refused_beside_a_certificate(gate) -> None:
    holder = new_key()
    token = gate.world.delegations.mint(await gate.world.paul(), "pinned", "c", jkt=thumbprint_of(holder))
    for der, good in ((PINNED, True), (CLERK, False)):
        at, trace = gate.world.clock(), Trace("0" * 31 + "1", "0" * 15 + "1")
        headers = (
            ("authorization", f"DPoP {token}"), ("dpop", dpop(holder, token, NOW)), ("client-cert", client_cert(der)),
        )  # fmt: skip
        asked = gate.authenticator(Arrival(new_id(at), "mcp", "erp", headers, b"", at, trace, peer=PROXY, url_path="/mcp/erp"))
        if good:
            assert (await asked).method == "delegation+dpop"
        else:
            assert "another agent" in await refused(asked)
