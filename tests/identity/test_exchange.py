"""The token endpoint: an agent trades what it holds for a delegation that says no more, and everything else is refused."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace as remade
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from gateway.identity.access import workflow_id
from gateway.identity.delegation import Delegated
from gateway.identity.directory import Person
from gateway.identity.exchange import Exchange
from gateway.oauth import token as endpoint
from tests.identity.exchange_world import ACCESS, ASSERTION, IDP, JWT, NOW, URL, World, make_world, person, thumbprint

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make_world(tmp_path)
    yield made
    await made.state.close()


def refused(answer: httpx.Response, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "access_token" not in answer.json()


# --- a workflow begins


async def test_a_persons_token_begins_a_workflow_for_the_agent_that_it_was_issued_to(world: World) -> None:
    answer = await world.start()
    said = world.said(answer)
    assert (said.subject, said.chain, said.tenant, said.groups) == ("user:corp/paul", ("agent:analyst",), "acme", {"buyers"})
    assert (said.ends, said.expires, said.issued) == (NOW + 1800, NOW + 300, NOW - 10)
    assert (said.scope, said.assurance, said.jkt, said.grant) == (None, "bearer", "", "")
    body = answer.json()
    assert (body["token_type"], body["expires_in"], body["scope"], body["issued_token_type"]) == ("Bearer", 300, "*", JWT)
    assert answer.headers["cache-control"] == "no-store"
    (entry,) = world.entries
    assert (entry.kind, entry.id, entry.subject) == ("identity.delegate", answer.headers["bailiwick-decision"], "user:corp/paul")
    assert entry.fields["token"]["jti"] == said.jti
    assert body["access_token"] not in repr(entry)


async def test_each_exchange_begins_a_workflow_of_its_own_and_the_persons_token_is_kept_for_it(world: World) -> None:
    token = world.idp.token()
    first, second = world.said(await world.start(token)), world.said(await world.start(token))
    assert first.workflow != second.workflow
    assert [(access.workflow, text) for access, text in world.kept] == [(first.workflow, token), (second.workflow, token)]


@pytest.mark.parametrize("client", ["cli", "narrow-app", "stranger"])
async def test_a_token_that_was_issued_to_somebody_else_begins_nothing(world: World, client: str) -> None:
    refused(await world.start(world.idp.token(client)), "invalid_request")
    assert world.kinds() == ["auth.refused"]
    assert world.kept == []


@pytest.mark.parametrize(
    "named", [{"sub": "agent:analyst"}, {"client_id": "analyst-app"}, {"sub": "agent:analyst", "client_id": "analyst-app"}]
)
async def test_may_act_lets_the_agent_that_it_names_act_with_a_token_of_the_persons_own_hands(
    world: World, named: object
) -> None:
    assert world.said(await world.start(world.idp.token("cli", may_act=named))).chain == ("agent:analyst",)


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"sub": "agent:erp"},
        {"sub": "analyst"},
        {"client_id": "narrow-app"},
        {"sub": "agent:analyst", "client_id": "narrow-app"},
        {"sub": "agent:erp", "client_id": "analyst-app"},
        {"sub": "agent:analyst", "iss": "https://elsewhere.example"},
        ["agent:analyst"],
        "agent:analyst",
        None,
    ],
)
async def test_may_act_that_names_another_or_says_more_than_is_understood_lets_nobody_act(world: World, named: object) -> None:
    refused(await world.start(world.idp.token("cli", may_act=named)), "invalid_request")


async def test_may_act_does_not_open_a_token_that_another_agent_holds(world: World) -> None:
    refused(await world.start(world.idp.token("narrow-app", may_act={"sub": "agent:analyst"})), "invalid_request")


@pytest.mark.parametrize(
    "change",
    [
        {"exp": NOW - 31},
        {"aud": "https://other.example"},
        {"aud": f"{URL}/mcp/erp"},
        {"aud": f"{URL}/a2a/analyst"},
        {"iss": "https://evil.example"},
        {"act": {"sub": "x"}},
    ],
)
async def test_a_token_that_is_not_good_here_is_refused_without_saying_why(world: World, change: dict[str, object]) -> None:
    answer = await world.start(world.idp.token(**change))
    refused(answer, "invalid_request")
    assert answer.json()["error_description"] == "subject_token is not good here"


async def test_a_bound_token_begins_a_workflow_only_beside_a_proof_of_its_key(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    token = world.idp.token(cnf={"jkt": thumbprint(key)})
    refused(await world.start(token), "invalid_request")
    refused(await world.start(token, headers=world.proof(ec.generate_private_key(ec.SECP256R1()))), "invalid_request")
    answer = await world.start(token, headers=world.proof(key))
    assert (world.said(answer).jkt, answer.json()["token_type"]) == (thumbprint(key), "DPoP")


async def test_a_workflow_is_only_as_strong_as_its_weakest_proof(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    bound = world.idp.token(cnf={"jkt": thumbprint(key)})
    form = {"grant_type": EXCHANGE, "subject_token": bound, "subject_token_type": ACCESS, "client_assertion_type": ASSERTION}
    strong = await world.post(form | {"client_assertion": world.assertion("analyst")}, world.proof(key))
    assert world.said(strong).assurance == "pop"
    assert world.said(await world.start(bound, headers=world.proof(key))).assurance == "bearer"  # by a secret
    plain = form | {"subject_token": world.idp.token(), "client_assertion": world.assertion("analyst")}
    assert world.said(await world.post(plain)).assurance == "bearer"


async def test_a_proof_is_good_once_and_for_this_address_alone(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    proof = world.proof(key)
    assert (await world.start(headers=proof)).status_code == 200
    refused(await world.start(headers=proof), "invalid_dpop_proof")
    refused(await world.start(headers=world.proof(key, htu=f"{URL}/mcp/erp")), "invalid_dpop_proof")
    refused(await world.start(headers=world.proof(key, htm="GET")), "invalid_dpop_proof")


# --- who asks


async def test_an_agent_shows_itself_by_header_by_form_or_by_basic(world: World) -> None:
    form = {"grant_type": EXCHANGE, "subject_token": world.idp.token(), "subject_token_type": ACCESS}
    ways = [
        (form, world.basic("analyst")),
        (form, {"Authorization": f"Bearer {world.secrets['analyst']}"}),
        (form, {"Authorization": f"Bearer {world.assertion('analyst')}"}),
        (form | {"client_assertion": world.assertion("analyst"), "client_assertion_type": ASSERTION}, {}),
        (form | {"client_id": "analyst"}, world.basic("analyst")),
    ]
    for fields, headers in ways:
        assert world.said(await world.post(fields, headers)).chain == ("agent:analyst",)


async def test_two_proofs_are_refused_even_of_one_agent(world: World) -> None:
    form = {"grant_type": EXCHANGE, "subject_token": world.idp.token(), "subject_token_type": ACCESS}
    by_form = form | {"client_assertion": world.assertion("analyst"), "client_assertion_type": ASSERTION}
    refused(await world.post(by_form, world.basic("analyst")), "invalid_request")
    refused(await world.post(by_form, {"Authorization": f"Bearer {world.secrets['analyst']}"}), "invalid_request")
    refused(await world.post(form | {"client_secret": world.secrets["analyst"]}, world.basic("analyst")), "invalid_request")


async def test_a_client_that_proves_nothing_is_challenged(world: World) -> None:
    form = {"grant_type": EXCHANGE, "subject_token": world.idp.token(), "subject_token_type": ACCESS}
    wrong = base64.b64encode(f"erp:{world.secrets['analyst']}".encode()).decode()
    cases: list[tuple[dict[str, str], dict[str, str]]] = [
        (form, {}),
        (form, {"Authorization": f"Basic {wrong}"}),
        (form, {"Authorization": "Basic !"}),
        (form, {"Authorization": f"Bearer {world.idp.token()}"}),
        (form, {"Authorization": "Bearer bws_analyst_" + "A" * 43}),
        (form | {"client_id": "erp"}, world.basic("analyst")),
        (form | {"client_assertion": world.assertion("analyst")}, {}),
        (form | {"client_assertion": world.assertion("analyst", aud=f"{URL}/other"), "client_assertion_type": ASSERTION}, {}),
        (form | {"client_assertion": world.idp.token(), "client_assertion_type": ASSERTION}, {}),
    ]
    for fields, headers in cases:
        answer = await world.post(fields, headers)
        refused(answer, "invalid_client", 401)
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert answer.json()["error_description"] == "the client's proof is not good here"


def by_form(world: World, assertion: str) -> dict[str, str]:
    form = {"grant_type": EXCHANGE, "subject_token": world.idp.token(), "subject_token_type": ACCESS}
    return form | {"client_assertion": assertion, "client_assertion_type": ASSERTION}


@pytest.mark.parametrize("typ", ["client-authentication+jwt", "JWT", None])
async def test_an_assertion_counts_as_oauth_libraries_write_it(world: World, typ: str | None) -> None:
    """The form says what it is; what the agent's key signed for another use says so in its header."""
    assert world.said(await world.post(by_form(world, world.assertion("analyst", typ)))).holder == "analyst"


@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "wf-dt+jwt", "secevent+jwt", "jwt", "JWT "])
async def test_a_token_that_says_of_itself_that_it_is_another_is_no_assertion(world: World, typ: str) -> None:
    refused(await world.post(by_form(world, world.assertion("analyst", typ))), "invalid_client", 401)


async def test_an_assertion_outside_its_form_says_what_it_is(world: World) -> None:
    form = {"grant_type": EXCHANGE, "subject_token": world.idp.token(), "subject_token_type": ACCESS}
    for typ in ("JWT", None):
        shown = {"Authorization": f"Bearer {world.assertion('analyst', typ)}"}
        refused(await world.post(form, shown), "invalid_client", 401)
        handed = await world.child(await world.begun(), "erp", actor_token=world.assertion("erp", typ))
        refused(handed, "invalid_request")


async def test_an_agent_whose_clock_is_a_little_ahead_is_let_in_and_lives_no_longer_for_it(world: World) -> None:
    now = world.clock.seconds
    ahead = world.assertion("analyst", iat=now + 20, exp=now + 80)
    assert (await world.post(by_form(world, ahead))).status_code == 200
    for times in ({"iat": now + 20, "exp": now + 81}, {"iat": now - 1, "exp": now + 60}, {"iat": now + 31, "exp": now + 60}):
        refused(await world.post(by_form(world, world.assertion("analyst", **times))), "invalid_client", 401)
    world.clock.seconds += 40
    refused(await world.post(by_form(world, ahead)), "invalid_client", 401)  # used, and remembered while it could be used


async def test_an_assertion_is_good_once(world: World) -> None:
    form = {"grant_type": EXCHANGE, "subject_token": world.idp.token(), "subject_token_type": ACCESS}
    form |= {"client_assertion": world.assertion("analyst"), "client_assertion_type": ASSERTION}
    assert (await world.post(form)).status_code == 200
    refused(await world.post(form), "invalid_client", 401)


# --- the form


async def test_only_one_plain_form_is_read(world: World) -> None:
    secret = world.basic("analyst")
    refused(await world.post(b"grant_type=a&grant_type=b", secret), "invalid_request")
    refused(await world.post(b"grant_type", secret), "invalid_request")
    refused(await world.post(b"grant_type=%ff", secret), "invalid_request")
    refused(await world.post("grant_type=ü".encode(), secret), "invalid_request")
    refused(await world.post(b"a=1&" * 40 + b"a=1", secret), "invalid_request")
    refused(await world.post(b"a=" + b"x" * 65_536, secret), "invalid_request")
    refused(await world.post(b"", secret), "invalid_request")
    refused(await world.post(b"grant_type=", secret), "invalid_request")
    refused(await world.post(b"{}", secret | {"Content-Type": "application/json"}), "invalid_request")
    refused(await world.post(b"grant_type=password", secret), "unsupported_grant_type")


async def test_parameters_in_the_address_are_refused(world: World) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.api), base_url=URL) as http:
        headers = world.basic("analyst") | {"Content-Type": "application/x-www-form-urlencoded"}
        refused(await http.post("/oauth/token?grant_type=x", content=b"grant_type=x", headers=headers), "invalid_request")


async def test_unknown_parameters_are_ignored_and_other_types_and_targets_refused(world: World) -> None:
    assert (await world.start(color="green")).status_code == 200
    refused(await world.start(subject_token_type="urn:ietf:params:oauth:token-type:id_token"), "invalid_request")
    refused(await world.start(requested_token_type="urn:ietf:params:oauth:token-type:saml2"), "invalid_request")
    refused(await world.start(actor_token=world.assertion("erp"), actor_token_type=JWT), "invalid_request")
    refused(await world.start(audience="https://other.example"), "invalid_target")
    refused(await world.start(resource=f"{URL}.evil.example/mcp"), "invalid_target")
    assert (await world.start(audience=URL, resource=f"{URL}/mcp/erp")).status_code == 200
    answer = await world.start(requested_token_type=ACCESS)
    assert answer.json()["issued_token_type"] == ACCESS


# --- scope


async def test_the_scope_is_what_is_asked_for_and_the_agents_own_both(world: World) -> None:
    answer = await world.start(scope="erp.* a2a:erp")
    assert (answer.json()["scope"], world.said(answer).scope) == ("a2a:erp erp.*", ("a2a:erp", "erp.*"))
    answer = await world.start(world.idp.token("narrow-app"), agent="narrow", scope="erp.* crm.read")
    assert answer.json()["scope"] == "erp.read"
    answer = await world.start(world.idp.token("narrow-app"), agent="narrow")
    assert answer.json()["scope"] == "erp.read mail.*"


@pytest.mark.parametrize("scope", ["crm.read", "no such", "set:all", "erp.*x", " erp.read", "erp", '"'])
async def test_a_scope_of_which_nothing_may_be_had_is_invalid(world: World, scope: str) -> None:
    refused(await world.start(world.idp.token("narrow-app"), agent="narrow", scope=scope), "invalid_scope")


async def test_an_agent_that_shows_its_token_alone_gets_short_ones(world: World) -> None:
    assert world.said(await world.start(world.idp.token("reader-app"), agent="reader")).expires == NOW + 60


# --- renewal


async def test_a_renewed_delegation_is_the_same_branch_with_a_fresh_end(world: World) -> None:
    first = await world.start(scope="erp.* mail.send")
    world.clock.seconds += 200
    second = await world.renew(first.json()["access_token"])
    before, after = world.said(first), world.said(second)
    same = set(Delegated.__slots__) - {"expires", "call"}
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert after.expires == NOW + 500
    world.clock.seconds = NOW + 1700
    for _ in range(2):
        later = await world.renew(await world.begun(scope="erp.*"))
    assert world.said(later).expires <= world.said(later).ends


async def test_a_renewal_narrows_and_never_widens(world: World) -> None:
    token = await world.begun(scope="erp.* mail.send")
    narrower = await world.renew(token, scope="erp.read crm.read")
    assert world.said(narrower).scope == ("erp.read",)
    again = await world.renew(narrower.json()["access_token"], scope="erp.*")
    assert world.said(again).scope == ("erp.read",)
    refused(await world.renew(narrower.json()["access_token"], scope="mail.send"), "invalid_scope")


async def test_nobody_else_renews_a_delegation_and_nobody_an_ended_one(world: World) -> None:
    token = await world.begun()
    refused(await world.renew(token, agent="erp"), "invalid_request")
    world.clock.seconds += 303
    refused(await world.renew(token), "invalid_request")


async def test_nothing_is_renewed_past_the_persons_end(world: World) -> None:
    answer = await world.start(world.idp.token(exp=NOW + 100))
    assert (world.said(answer).expires, world.said(answer).ends) == (NOW + 100, NOW + 100)
    world.clock.seconds += 99
    assert world.said(await world.renew(answer.json()["access_token"])).expires == NOW + 100
    world.clock.seconds += 1
    refused(await world.renew(answer.json()["access_token"]), "invalid_request")


async def test_a_bound_delegation_is_renewed_with_its_key_alone(world: World) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    first = (await world.start(headers=world.proof(key))).json()["access_token"]
    refused(await world.renew(first), "invalid_request")
    refused(await world.renew(first, headers=world.proof(other)), "invalid_request")
    assert world.said(await world.renew(first, headers=world.proof(key))).jkt == thumbprint(key)
    refused(await world.child(first, "erp"), "invalid_request")


async def test_groups_are_those_of_now_where_the_issuer_has_a_directory(world: World) -> None:
    world.directory.people["paul"] = Person(frozenset({"buyers", "leads"}), active=True)
    token = await world.begun()
    assert world.said(await world.renew(token)).groups == {"buyers", "leads"}
    world.directory.people["paul"] = Person(frozenset(), active=True)
    assert world.said(await world.renew(token)).groups == frozenset()
    world.directory.people["paul"] = Person(frozenset({"buyers"}), active=False)
    refused(await world.renew(token), "invalid_request")
    del world.directory.people["paul"]
    refused(await world.renew(token), "invalid_request")
    world.directory.down = True
    refused(await world.renew(token), "invalid_request")


async def test_nobody_of_an_issuer_or_an_agent_that_is_gone_is_renewed(world: World) -> None:
    known = world.delegations.mint(person(), "analyst", "call")
    assert (await world.renew(known)).status_code == 200
    gone = replace(person(), subject="user:gone/paul")
    refused(await world.renew(world.delegations.mint(gone, "analyst", "call")), "invalid_request")
    through = replace(person(), actors=("agent:former",))
    refused(await world.renew(world.delegations.mint(through, "analyst", "call")), "invalid_request")


@pytest.mark.parametrize("kind", ["user", "agent", "workflow", "branch", "token", "begun", "tenant"])
async def test_what_is_killed_is_not_renewed_and_begins_nothing(world: World, kind: str) -> None:
    """Also by what it began with: the person's token, and the workflow that this would be by itself."""
    person = world.idp.token(jti="the-persons-own")
    token = (await world.start(person)).json()["access_token"]
    child = (await world.child(token, "erp")).json()["access_token"]
    said = world.delegations.verify(token)
    targets = {"user": said.subject, "agent": "agent:analyst", "workflow": said.workflow, "branch": said.jti, "tenant": "acme"}
    targets |= {"token": "the-persons-own", "begun": workflow_id(IDP, "the-persons-own")}
    await world.kill(kind.replace("begun", "workflow"), targets[kind])
    refused(await world.renew(token), "invalid_request")
    refused(await world.renew(child, agent="erp"), "invalid_request")
    assert (await world.start(person)).status_code == (200 if kind in ("workflow", "branch") else 400)


# --- children


async def test_a_parent_hands_on_to_an_agent_that_shows_that_it_is_there(world: World) -> None:
    token = await world.begun()
    parent, answer = world.delegations.verify(token), await world.child(token, "erp", scope="erp.*")
    child = world.said(answer)
    assert child.chain == ("agent:analyst", "agent:erp")
    assert (child.subject, child.workflow, child.ends, child.issued) == (
        parent.subject,
        parent.workflow,
        parent.ends,
        parent.issued,
    )
    assert (child.left, child.path, child.scope) == (parent.left - 1, (*parent.path, child.jti), ("erp.*",))
    entry = world.entries[-1]
    assert (entry.kind, entry.fields["resource"], entry.fields["action"]) == ("identity.delegate", "a2a:erp", "send")
    assert [asked["who"] for asked in entry.fields["decision"]["asked"]] == ["@subject", "agent:analyst"]


async def test_a_child_whose_scope_is_narrower_gets_the_narrower_one(world: World) -> None:
    assert world.said(await world.child(await world.begun(), "narrow")).scope == ("erp.read", "mail.*")


async def test_policy_is_asked_what_an_a2a_call_would_ask_and_its_no_is_recorded(world: World) -> None:
    token = await world.begun()
    answer = await world.child(token, "plain")
    refused(answer, "invalid_request")
    assert world.entries[-1].kind == "decision.deny"
    assert world.entries[-1].id == answer.headers["bailiwick-decision"]
    loud, hidden = answer.json()["error_description"], await world.child(token, "scout")
    assert hidden.json()["error_description"] == loud  # a condition that does not hold is told as no rule is
    world.directory.people["paul"] = Person(frozenset(), active=True)
    refused(await world.child(token, "erp"), "invalid_request")  # the person of now may not


async def test_a_duty_that_cannot_be_fulfilled_hands_nothing_on(world: World) -> None:
    refused(await world.child(await world.begun(), "reader"), "invalid_request")
    assert world.entries[-1].fields["refused"]["code"] == "duty-failed"


async def test_a_workflow_hands_on_within_its_scope_alone(world: World) -> None:
    refused(await world.child(await world.begun(scope="erp.read"), "erp"), "invalid_scope")
    assert (await world.child(await world.begun(scope="erp.read a2a:erp"), "erp")).status_code == 200


async def test_a_chain_neither_loops_nor_grows_too_long(world: World) -> None:
    token = await world.begun()
    erp = (await world.child(token, "erp")).json()["access_token"]
    by_erp = {"headers": world.basic("erp")}
    refused(await world.child(erp, "analyst", **by_erp), "invalid_request")
    assert world.entries[-1].fields["refused"]["code"] == "delegation-loop"
    third = await world.child(erp, "narrow", **by_erp)
    assert world.said(third).left == 0


async def test_a_child_shows_its_own_assertion_once_and_the_parent_its_own_delegation(world: World) -> None:
    token = await world.begun()
    actor = world.assertion("erp")
    form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": JWT, "actor_token": actor}
    refused(await world.post(form, world.basic("analyst")), "invalid_request")  # no type
    form |= {"actor_token_type": JWT}
    assert (await world.post(form, world.basic("analyst"))).status_code == 200
    refused(await world.post(form, world.basic("analyst")), "invalid_request")
    form["actor_token"] = world.assertion("erp")
    refused(await world.post(form, world.basic("erp")), "invalid_request")  # the child shows its parent's
    form["actor_token"] = world.secrets["erp"]
    refused(await world.post(form, world.basic("analyst")), "invalid_request")


async def test_a_killed_child_gets_nothing(world: World) -> None:
    token = await world.begun()
    await world.kill("agent", "agent:erp")
    refused(await world.child(token, "erp"), "invalid_request")


# --- the ledger, the metadata


async def test_what_cannot_be_recorded_is_not_issued(world: World) -> None:
    token = await world.begun()
    world.down = True
    for answer in (await world.start(), await world.renew(token), await world.child(token, "erp")):
        refused(answer, "temporarily_unavailable", 503)


async def test_no_answer_and_no_record_shows_what_was_presented(world: World) -> None:
    token, person = await world.begun(), world.idp.token("cli")
    answers = [await world.start(person), await world.renew(token, agent="erp"), await world.child(token, "plain")]
    for secret in (token, person, *world.secrets.values()):
        assert all(secret not in answer.text for answer in answers)
        assert secret not in repr(world.entries)


async def test_the_metadata_names_the_endpoint_and_nothing_that_is_not_there(world: World) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.api), base_url=URL) as http:
        said = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert (said["issuer"], said["token_endpoint"], said["response_types_supported"]) == (URL, f"{URL}/oauth/token", [])
    assert EXCHANGE in said["grant_types_supported"]
    assert "authorization_endpoint" not in said
    methods = ["client_secret_basic", "private_key_jwt"]
    assert said["token_endpoint_auth_methods_supported"] == methods  # nobody hands certificates on
    terminated = Exchange(remade(world.exchange._parts, mutual_tls=True))
    assert terminated.methods == (*methods, "tls_client_auth")


# --- bounds


async def test_only_so_many_are_served_at_once_and_none_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(endpoint, "SECONDS", 0.5)
    world = await make_world(tmp_path)
    try:
        token, asked, never = await world.begun(), asyncio.Event(), asyncio.Event()

        async def silent(_sub: str) -> Person:
            asked.set()
            await never.wait()
            raise AssertionError

        monkeypatch.setattr(world.directory, "look", silent)
        waiting = asyncio.create_task(world.renew(token))
        await asked.wait()
        refused(await world.start(), "temporarily_unavailable", 503)
        refused(await waiting, "temporarily_unavailable", 503)  # a directory that is silent holds nobody's place
        assert (await world.start()).status_code == 200
    finally:
        await world.state.close()
