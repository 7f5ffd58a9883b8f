"""Every way in, and what each is worth."""

from __future__ import annotations

import base64
import json
from itertools import product
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations
from gateway.identity.keys import es256_jwk
from gateway.model import Refused
from gateway.problem import ProblemError
from gateway.reasons import Code
from gateway.settings import Agent, Issuer, Keys

START = 1_800_000_000


async def refused(awaitable) -> Refused:
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value


async def test_a_person_with_an_access_token_acts_with_their_own_hands(world) -> None:
    principal = await world.paul()
    assert (principal.subject, principal.actors, principal.acting) == ("user:dev/paul", (), "user:dev/paul")
    assert principal.groups == {"procurement-managers"}
    assert (principal.tenant, principal.method, principal.path, principal.caused_by) == ("acme", "bearer", (), "")
    assert principal.ends == int(world.clock.seconds) + 3600


async def test_a_token_issued_to_a_registered_agents_client_makes_that_agent_the_actor(world) -> None:
    principal = await world.bearer(world.issuer.issue("mia", [], client_id="analyst-app"))
    assert (principal.subject, principal.actors) == ("user:dev/mia", ("agent:analyst",))


async def test_a_token_issued_to_an_unregistered_client_is_refused(world) -> None:
    refusal = await refused(world.bearer(world.issuer.issue("mia", [], client_id="somebody-else")))
    assert refusal.code is Code.INVALID_CREDENTIAL


async def test_one_access_token_is_one_workflow_and_another_token_is_another(world) -> None:
    token = world.issuer.issue("paul", [])
    first, again = await world.bearer(token), await world.bearer(token)
    other = await world.bearer(world.issuer.issue("paul", []))
    assert first == again
    assert first.workflow != other.workflow
    assert first.workflow.startswith("wf-")
    assert len(first.workflow) == 29


async def test_no_credential_is_told_apart_from_a_bad_one(world) -> None:
    assert (await refused(world.ask())).code is Code.NO_CREDENTIAL
    assert (await refused(world.ask(("authorization", "")))).code is Code.INVALID_CREDENTIAL
    assert (await refused(world.bearer("x"))).code is Code.INVALID_CREDENTIAL


async def test_identity_headers_of_the_client_are_ignored(world) -> None:
    token = world.issuer.issue("mia", [])
    plain = await world.bearer(token)
    claimed = await world.ask(
        ("authorization", f"Bearer {token}"),
        ("x-forwarded-user", "paul"),
        ("x-forwarded-groups", "procurement-managers"),
        ("x-bailiwick-subject", "user:dev/paul"),
    )
    assert claimed == plain
    assert (await refused(world.ask(("x-forwarded-user", "paul")))).code is Code.NO_CREDENTIAL


async def test_an_agents_secret_alone_is_a_service_of_its_own_and_nobodys_person(world) -> None:
    first, second = await world.bearer(world.secrets["erp"]), await world.bearer(world.secrets["erp"])
    assert (first.subject, first.actors, first.groups, first.method) == ("svc:erp", ("agent:erp",), frozenset(), "secret")
    assert first.workflow != second.workflow


async def test_an_agents_key_alone_is_a_service_of_its_own(world) -> None:
    principal = await world.bearer(world.assertion())
    assert (principal.subject, principal.actors, principal.method) == ("svc:keyed", ("agent:keyed",), "key")


async def test_a_secret_with_a_delegation_acts_for_the_person(world) -> None:
    paul = await world.paul()
    principal = await world.bearer(world.secrets["erp"], world.delegations.mint(paul, "erp", "call-1"))
    assert (principal.subject, principal.actors, principal.groups) == (paul.subject, ("agent:erp",), paul.groups)
    assert (principal.workflow, principal.ends, principal.tenant) == (paul.workflow, paul.ends, paul.tenant)
    assert (principal.method, principal.caused_by) == ("delegation+secret", "call-1")
    assert principal.path == (principal.jti,)


async def test_a_key_with_a_delegation_acts_for_the_person(world) -> None:
    paul = await world.paul()
    principal = await world.bearer(world.assertion(), world.delegations.mint(paul, "keyed", "call-1"))
    assert (principal.subject, principal.actors, principal.method) == (paul.subject, ("agent:keyed",), "delegation+key")


@pytest.mark.parametrize("header", ["authorization", "bailiwick-delegation"])
async def test_a_delegation_alone_is_enough_only_where_the_agents_settings_say_so(world, header: str) -> None:
    paul = await world.paul()
    prefix = "Bearer " if header == "authorization" else ""
    principal = await world.ask((header, prefix + world.delegations.mint(paul, "reader", "c")))
    assert (principal.subject, principal.actors, principal.method) == (paul.subject, ("agent:reader",), "delegation")
    refusal = await refused(world.ask((header, prefix + world.delegations.mint(paul, "erp", "c"))))
    assert refusal.code is Code.INVALID_CREDENTIAL


async def test_a_second_hop_keeps_the_person_and_lengthens_the_chain(world) -> None:
    paul = await world.paul()
    first = await world.bearer(world.secrets["analyst"], world.delegations.mint(paul, "analyst", "c1"))
    second = await world.bearer(world.secrets["erp"], world.delegations.mint(first, "erp", "c2"))
    assert second.actors == ("agent:analyst", "agent:erp")
    assert second.path == (first.jti, second.jti)
    assert (second.subject, second.groups, second.workflow) == (paul.subject, paul.groups, paul.workflow)
    assert second.caused_by == "c2"


async def test_an_agent_that_is_no_longer_registered_ends_every_chain_it_stands_in(world) -> None:
    paul = await world.paul()
    first = await world.bearer(world.secrets["analyst"], world.delegations.mint(paul, "analyst", "c1"))
    token = world.delegations.mint(first, "erp", "c2")
    await world.bearer(world.secrets["erp"], token)
    del world.agents["analyst"]
    assert (await refused(world.bearer(world.secrets["erp"], token))).code is Code.INVALID_CREDENTIAL


async def test_a_verified_token_dies_at_its_end_although_it_was_seen_before(world) -> None:
    token = world.issuer.issue("paul", [], lifetime=40)
    await world.bearer(token)
    world.clock.advance(39)
    await world.bearer(token)
    world.clock.advance(31 + 1)  # thirty seconds of leeway for the provider's clock, not one more
    assert (await refused(world.bearer(token))).code is Code.INVALID_CREDENTIAL


async def test_a_verified_token_dies_with_its_key(world) -> None:
    token = world.issuer.issue("paul", [])
    await world.bearer(token)
    other = es256_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
    world.issuer.jwks.write_text(json.dumps({"keys": [other]}) + " ")
    world.clock.advance(1)  # a file of keys is looked at once a second
    assert (await refused(world.bearer(token))).code is Code.INVALID_CREDENTIAL


async def test_an_assertion_is_good_once(world) -> None:
    assertion = world.assertion()
    await world.bearer(assertion)
    assert "used before" in (await refused(world.bearer(assertion))).detail


async def test_an_assertions_twin_signature_does_not_make_it_good_twice(world) -> None:
    assertion = world.assertion()
    await world.bearer(assertion)
    signed, _, signature = assertion.rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    twin = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    assert "used before" in (await refused(world.bearer(f"{signed}.{jwt.utils.base64url_encode(twin).decode()}"))).detail


async def test_a_refusal_never_repeats_the_credential(world) -> None:
    secret = world.secrets["erp"][:-1] + "_"
    token = world.issuer.issue("paul", []) + "A"
    for credential in (secret, token, "hush-hush"):
        refusal = await refused(world.bearer(credential))
        assert credential not in str(refusal)
        assert credential[-12:] not in str(refusal)


async def test_a_retired_secret_is_refused_and_each_current_one_is_good(world) -> None:
    await world.bearer(world.secrets["analyst"])  # the second of two digests
    assert (await refused(world.bearer("bws_analyst_" + "A" * 43))).code is Code.INVALID_CREDENTIAL
    assert (await refused(world.bearer(world.secrets["erp"].replace("bws_erp", "bws_analyst")))).code is Code.INVALID_CREDENTIAL
    assert (await refused(world.bearer("bws_nobody_" + "A" * 43))).code is Code.INVALID_CREDENTIAL
    assert (await refused(world.bearer("bws_callee_" + "A" * 43))).code is Code.INVALID_CREDENTIAL


def build(world, issuers: list[Issuer], agents: dict[str, Agent], url: str = "http://127.0.0.1:8080") -> Authenticator:
    return Authenticator(
        tenant="acme", public_url=url, issuers=issuers, agents=agents, delegations=world.delegations, clock=world.clock
    )


def test_the_development_issuer_is_refused_on_an_address_that_is_not_loopback(world) -> None:
    with pytest.raises(ProblemError, match="development issuer"):
        build(world, [world.issuer.settings()], {}, "https://gateway.example")


def test_a_client_id_that_could_mean_two_things_is_refused(world) -> None:
    settings = world.issuer.settings()
    with pytest.raises(ProblemError, match="two agents"):
        build(world, [settings], {"a": Agent(client_ids=("x",)), "b": Agent(client_ids=("x",))})
    with pytest.raises(ProblemError, match="own hands and an agent"):
        build(world, [settings], {"a": Agent(client_ids=("bailiwick-cli",))})


def test_two_issuers_of_one_name_are_refused(world) -> None:
    settings = world.issuer.settings()
    with pytest.raises(ProblemError, match="same name or alias"):
        build(world, [settings, settings.model_copy(update={"alias": "other"})], {})
    with pytest.raises(ProblemError, match="same name or alias"):
        build(world, [settings, settings.model_copy(update={"issuer": "https://other.example"})], {})


def plain_jwt(world, tmp_path: Path, **claims: object) -> str:
    now = int(world.clock.seconds)
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = es256_jwk(key.public_key())
    (tmp_path / "plain.json").write_text(json.dumps({"keys": [jwk]}))
    base: dict[str, object] = {"iss": "https://idp.example", "aud": "api", "sub": "u", "iat": now, "exp": now + 60} | claims
    return jwt.encode(base, key, algorithm="ES256", headers={"typ": "JWT", "kid": jwk["kid"]})


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"azp": "cli"}, True),
        ({"client_id": "cli"}, True),
        ({"azp": "cli", "client_id": "cli"}, True),
        ({"azp": "cli", "client_id": "other"}, False),
        ({"cid": "cli"}, True),
        ({"azp": "cli", "cid": "other"}, False),
        ({}, False),
        ({"azp": "cli", "nonce": "n"}, False),
        ({"azp": "cli", "at_hash": "h"}, False),
    ],
)
async def test_where_a_provider_says_plain_jwt_an_id_token_is_still_refused(world, tmp_path: Path, claims, good: bool) -> None:
    token = plain_jwt(world, tmp_path, **claims)
    issuer = Issuer(
        alias="idp",
        issuer="https://idp.example",
        audience="api",
        jwks=Keys(file=tmp_path / "plain.json"),
        direct_clients=("cli",),
        token_types=("JWT",),
    )
    world.authenticator = Authenticator(
        tenant="acme", public_url="https://gw", issuers=[issuer], agents={}, delegations=world.delegations, clock=world.clock
    )
    if good:
        assert (await world.bearer(token)).subject == "user:idp/u"
    else:
        assert (await refused(world.bearer(token))).code is Code.INVALID_CREDENTIAL


@pytest.mark.parametrize(("accepted", "good"), [(("",), True), (("JWT", "at+jwt"), False)])
async def test_a_token_that_says_no_typ_counts_only_where_the_settings_say_so(
    world, tmp_path: Path, accepted, good: bool
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = es256_jwk(key.public_key())
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk]}))
    now = int(world.clock.seconds)
    claims = {"iss": "https://idp.example", "aud": "api", "sub": "u", "iat": now, "exp": now + 60, "cid": "cli"}
    token = jwt.encode(claims, key, algorithm="ES256", headers={"typ": None, "kid": jwk["kid"]})
    assert b'"typ"' not in base64.urlsafe_b64decode(token.split(".")[0] + "==")
    issuer = Issuer(
        alias="idp", issuer="https://idp.example", audience="api", jwks=Keys(file=tmp_path / "keys.json"),
        direct_clients=("cli",), token_types=accepted,
    )  # fmt: skip
    world.authenticator = Authenticator(
        tenant="acme", public_url="https://gw", issuers=[issuer], agents={}, delegations=world.delegations, clock=world.clock
    )
    if good:
        assert (await world.bearer(token)).subject == "user:idp/u"
    else:
        assert (await refused(world.bearer(token))).code is Code.INVALID_CREDENTIAL


async def test_a_delegation_of_another_tenant_is_refused(world) -> None:
    paul = await world.paul()
    token = world.delegations.mint(paul, "reader", "c")
    elsewhere = Authenticator(
        tenant="other",
        public_url="http://127.0.0.1:8080",
        issuers=[],
        agents=world.agents,
        delegations=world.delegations,
        clock=world.clock,
    )
    world.authenticator = elsewhere
    assert "another tenant" in (await refused(world.bearer(token))).detail


async def test_replicas_with_one_key_accept_each_others_delegations(world) -> None:
    paul = await world.paul()
    other = Delegations(world.delegations.ring, "http://127.0.0.1:8080", clock=world.clock)
    assert (await world.bearer(other.mint(paul, "reader", "c"))).subject == paul.subject


async def test_every_proof_says_how_strong_it_is_and_a_later_hop_never_makes_the_chain_stronger(world) -> None:
    paul = await world.paul()
    assert paul.assurance == "bearer"
    assert (await world.bearer(world.secrets["erp"])).assurance == "bearer"
    assert (await world.bearer(world.assertion())).assurance == "pop"
    for so_far, proven in product(("correlated", "bearer", "pop"), ("bearer", "pop", "alone")):
        agent = {"bearer": "erp", "pop": "keyed", "alone": "reader"}[proven]
        token = world.delegations.mint(replace(paul, assurance=so_far), agent, "c")
        credential = {"bearer": world.secrets["erp"], "pop": world.assertion(), "alone": None}[proven]
        principal = await (world.bearer(token) if credential is None else world.bearer(credential, token))
        strength = ("correlated", "bearer", "pop")
        hop = "bearer" if proven == "alone" else proven
        assert principal.assurance == strength[min(strength.index(so_far), strength.index(hop))]


async def test_what_a_delegation_says_goes_on_as_it_is(world) -> None:
    paul = replace(await world.paul(), scope=("erp.read", "erp.write"), acr="gold", issued=START - 7)
    principal = await world.bearer(world.secrets["erp"], world.delegations.mint(paul, "erp", "c"))
    assert (principal.scope, principal.acr, principal.issued) == (("erp.read", "erp.write"), "gold", START - 7)
    service = await world.bearer(world.secrets["erp"])
    assert (service.scope, service.acr, service.issued, service.grant) == (None, "", START, "")


async def test_a_service_acts_in_its_own_tenant_and_its_delegations_are_taken(world) -> None:
    world.agents["erp"] = world.agents["erp"].model_copy(update={"tenant": "subsidiary"})
    rebuilt = build(world, [world.issuer.settings()], world.agents)
    principal = await rebuilt(world.arrival(("authorization", f"Bearer {world.secrets['erp']}")))
    assert principal.tenant == "subsidiary"
    token = world.delegations.mint(principal, "reader", "c")
    assert (await rebuilt(world.arrival(("bailiwick-delegation", token)))).tenant == "subsidiary"


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"tenant": "north"}, {"acme", "north"}),
        ({"tenant_claim": "org", "tenants": {"o-1": "north", "o-2": "south"}}, {"acme", "north", "south"}),
        ({}, {"acme"}),
    ],
)
async def test_a_delegation_is_taken_in_every_tenant_that_an_issuer_can_name_and_in_no_other(world, settings, known) -> None:
    rebuilt = build(world, [world.issuer.settings().model_copy(update=settings)], world.agents)
    paul = await world.paul()
    for tenant in ("acme", "north", "south", "east"):
        token = world.delegations.mint(replace(paul, tenant=tenant), "reader", "c")
        asked = rebuilt(world.arrival(("bailiwick-delegation", token)))
        if tenant in known:
            assert (await asked).tenant == tenant
        else:
            assert "another tenant" in (await refused(asked)).detail


async def test_a_token_that_was_verified_afresh_is_handed_to_whoever_keeps_it_and_no_other_credential_is(world) -> None:
    kept: list[tuple[str, str]] = []

    async def keep(access, token: str) -> None:
        kept.append((access.subject, token))

    authenticator = Authenticator(
        tenant="acme", public_url="http://127.0.0.1:8080", issuers=(world.issuer.settings(),), agents=world.agents,
        delegations=world.delegations, keep=keep, clock=world.clock, monotonic=world.clock.monotonic,
    )  # fmt: skip
    world.authenticator = authenticator
    token = world.issuer.issue("paul", [])
    paul = await world.bearer(token)
    await world.bearer(token)
    await world.bearer(world.secrets["erp"], world.delegations.mint(paul, "erp", "c"))
    await world.bearer(world.assertion())
    await refused(world.bearer(token[:-4] + "AAAA"))
    assert kept == [("user:dev/paul", token)]


async def test_what_is_used_once_is_asked_of_the_store_that_all_replicas_share(world) -> None:
    asked: list[tuple[str, str, int, int]] = []

    async def once(scope: str, jti: str, until: int, now: int) -> bool:
        asked.append((scope, jti, until, now))
        return len(asked) == 1

    world.authenticator = Authenticator(
        tenant="acme", public_url="http://127.0.0.1:8080", issuers=(), agents=world.agents, delegations=world.delegations,
        once=once, clock=world.clock, monotonic=world.clock.monotonic,
    )  # fmt: skip
    await world.bearer(world.assertion(jti="one"))
    assert "used before" in (await refused(world.bearer(world.assertion(jti="two")))).detail
    assert asked == [("assertion:keyed", jti, START + 60 + 30, START) for jti in ("one", "two")]


async def test_a_kill_is_asked_for_every_principal_however_it_proved_itself(world) -> None:
    asked: list[str] = []

    def alive(principal) -> None:
        asked.append(principal.method)
        raise Refused(Code.REVOKED)

    paul = await world.paul()
    world.authenticator = Authenticator(
        tenant="acme", public_url="http://127.0.0.1:8080", issuers=(world.issuer.settings(),), agents=world.agents,
        delegations=world.delegations, alive=alive, clock=world.clock, monotonic=world.clock.monotonic,
    )  # fmt: skip
    token = world.issuer.issue("paul", [])
    for credential, delegation in (
        (token, None), (token, None), (world.secrets["erp"], None), (world.assertion(), None),
        (world.secrets["erp"], world.delegations.mint(paul, "erp", "c")), (world.delegations.mint(paul, "reader", "c"), None),
    ):  # fmt: skip
        assert (await refused(world.bearer(credential, delegation))).code is Code.REVOKED
    assert asked == ["bearer", "bearer", "secret", "key", "delegation+secret", "delegation"]


async def test_the_same_header_twice_is_refused_whichever_it_is(world) -> None:
    token, paul = world.issuer.issue("paul", []), await world.paul()
    delegation = world.delegations.mint(paul, "erp", "c")
    secret = ("authorization", f"Bearer {world.secrets['erp']}")
    for headers in (
        (("authorization", f"Bearer {token}"),) * 2,
        (secret, secret),
        (secret, ("bailiwick-delegation", delegation), ("bailiwick-delegation", delegation)),
        (("bailiwick-delegation", delegation),) * 2,
    ):
        assert "twice" in (await refused(world.ask(*headers))).detail


@pytest.mark.parametrize(
    "scheme", ["bearer", "BEARER", "Bearer  ", "Basic", "Token", "Digest", "Negotiate", "DPoPs", "", "Bearer,"]
)
async def test_a_scheme_that_is_none_of_ours_is_refused(world, scheme: str) -> None:
    token = world.issuer.issue("paul", [])
    asked = world.ask(("authorization", f"{scheme} {token}"))
    if scheme.lower() == "bearer":
        assert (await asked).subject == "user:dev/paul"
    else:
        assert (await refused(asked)).code is Code.INVALID_CREDENTIAL
