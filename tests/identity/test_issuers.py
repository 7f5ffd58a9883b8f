"""Any number of issuers, each with its own people, tenants, groups, scopes and clients: nothing of one counts at another."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration import load
from gateway.identity import claims as said
from gateway.identity.access import Access, AccessTokens
from gateway.identity.asking import asking
from gateway.identity.issuers import Ways
from gateway.identity.token import read
from gateway.model import Refused
from gateway.problem import ProblemError
from gateway.settings import Agent, Issuer
from gateway.upstream.client import Upstreams
from tests.identity.provider import Provider, provider

NOW = 1_800_000_000
THUMBPRINT = "A" * 43


@pytest.fixture
async def idp() -> AsyncIterator[Provider]:
    async with provider() as it:
        it.publish()
        yield it


@pytest.fixture
async def other() -> AsyncIterator[Provider]:
    async with provider() as it:
        it.publish()
        yield it


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    it = Upstreams()
    yield it
    await it.aclose()


def issuer(at: Provider, alias: str = "idp", **changes: object) -> Issuer:
    return Issuer.model_validate({"alias": alias, "issuer": at.url, "audience": "api", "direct_clients": ("cli",)} | changes)


def accepted(upstreams: Upstreams, *issuers: Issuer, agents: Mapping[str, Agent] | None = None) -> AccessTokens:
    ways = Ways(partial(upstreams.fetch, allow_private=True), asking(upstreams, private=True), environ={"SCIM": "s"})
    return AccessTokens(issuers, agents or {}, tenant="acme", ways=ways)


def token(at: Provider, header: Mapping[str, object] | None = None, **claims: object) -> str:
    good: dict[str, object] = {
        "iss": at.url, "aud": "api", "sub": "paul", "client_id": "cli", "jti": "j-1", "iat": NOW - 10, "exp": NOW + 600,
        "groups": ["buyers"],
    }  # fmt: skip
    return at.sign(good | claims, **(header or {}))


async def verified(access: AccessTokens, text: str) -> Access:
    return await access.verify(read(text), NOW)


async def refused(access: AccessTokens, text: str) -> str:
    with pytest.raises(Refused) as caught:
        await verified(access, text)
    return caught.value.detail


async def test_each_issuers_people_are_its_own(idp: Provider, other: Provider, upstreams: Upstreams) -> None:
    access = accepted(upstreams, issuer(idp), issuer(other, "partner", tenant="partner-inc"))
    paul, namesake = await verified(access, token(idp)), await verified(access, token(other))
    assert (paul.subject, paul.tenant, paul.issuer) == ("user:idp/paul", "acme", "idp")
    assert (namesake.subject, namesake.tenant, namesake.issuer) == ("user:partner/paul", "partner-inc", "partner")
    assert paul.workflow != namesake.workflow
    assert access.tenants == {"acme", "partner-inc"}


async def test_one_issuers_keys_sign_nothing_of_anothers(idp: Provider, other: Provider, upstreams: Upstreams) -> None:
    access = accepted(upstreams, issuer(idp), issuer(other, "partner"))
    assert "kid" in await refused(access, token(other, iss=idp.url))
    assert "signature" in await refused(access, token(other, {"kid": idp.jwk["kid"]}, iss=idp.url))
    other.routes["/jwks"] = lambda _: (200, {"keys": [idp.jwk]})  # even where a partner publishes our issuer's key as its own
    access = accepted(upstreams, issuer(idp), issuer(other, "partner"))
    assert (
        await verified(access, token(idp, iss=other.url))
    ).subject == "user:partner/paul"  # it says so of its own people alone


async def test_a_client_id_at_one_issuer_means_nothing_at_another(idp: Provider, other: Provider, upstreams: Upstreams) -> None:
    agents = {"clerk": Agent(client_ids={"idp": ("app",)}), "scribe": Agent(client_ids={"partner": ("app",), "idp": ("other",)})}
    access = accepted(upstreams, issuer(idp), issuer(other, "partner", direct_clients=("desk",)), agents=agents)
    assert (await verified(access, token(idp, client_id="app"))).actors == ("agent:clerk",)
    assert (await verified(access, token(other, client_id="app"))).actors == ("agent:scribe",)
    assert (await verified(access, token(idp, client_id="other"))).actors == ("agent:scribe",)
    assert "nobody registered" in await refused(access, token(other, client_id="other"))
    assert "nobody registered" in await refused(access, token(other, client_id="cli"))
    assert (await verified(access, token(other, client_id="desk"))).actors == ()


def test_with_several_issuers_a_bare_list_of_clients_is_refused() -> None:
    issuers = [
        Issuer.model_validate({"alias": a, "issuer": f"https://{a}", "audience": "x", "jwks": {"file": "k"}}) for a in "ab"
    ]
    with pytest.raises(ProblemError, match=r"write client_ids: \{a: \[app\]\}"):
        AccessTokens(issuers, {"clerk": Agent(client_ids=("app",))})
    with pytest.raises(ProblemError, match="no issuer has the alias 'c'"):
        AccessTokens(issuers, {"clerk": Agent(client_ids={"c": ("app",)})})
    with pytest.raises(ProblemError, match="two agents"):
        AccessTokens(issuers, {n: Agent(client_ids={"a": ("app",)}) for n in ("one", "two")})
    AccessTokens(issuers, {"one": Agent(client_ids={"a": ("app",)}), "two": Agent(client_ids={"b": ("app",)}), "three": Agent()})
    AccessTokens(issuers[:1], {"clerk": Agent(client_ids=("app",))})


async def test_the_tenant_follows_from_a_verified_claim_and_without_one_nobody_is_ours(
    idp: Provider, upstreams: Upstreams
) -> None:
    access = accepted(upstreams, issuer(idp, tenant_claim="org.id", tenants={"o-1": "north", "o-2": "south"}))
    assert (await verified(access, token(idp, org={"id": "o-1"}))).tenant == "north"
    assert (await verified(access, token(idp, org={"id": "o-2"}))).tenant == "south"
    for wrong in ({"id": "o-3"}, {"id": ["o-1"]}, {"id": None}, {"id": {}}, {}, "o-1", None, {"id": "north"}):
        assert "no tenant" in await refused(access, token(idp, org=wrong))
    assert "no tenant" in await refused(access, token(idp, tenant="north"))
    assert access.tenants == {"north", "south"}


async def test_a_token_lacking_a_required_scope_is_refused(idp: Provider, upstreams: Upstreams) -> None:
    access = accepted(upstreams, issuer(idp, required_scope=("gate.use", "b")))
    assert (await verified(access, token(idp, scope="b gate.use more"))).scope == ("b", "gate.use", "more")
    assert (await verified(access, token(idp, scp=["gate.use", "b"]))).scope == ("b", "gate.use")
    assert (await verified(access, token(idp, scp="gate.use b"))).scope == ("b", "gate.use")
    for wrong in ("gate.use", "b", "", "gate.useb", "GATE.USE b", "gate.use\tb", None):
        assert "scope" in await refused(access, token(idp, scope=wrong))
    assert "scope" in await refused(access, token(idp, scope="b", scp=["gate.use", "b"]))
    for shape in (7, {"b": 1}, ["b", 1], ['"'], [["b"]], ["b"] * 257):
        assert "scope" in await refused(access, token(idp, scope=shape))


async def test_a_bound_token_says_to_which_key_and_any_other_bond_is_refused(idp: Provider, upstreams: Upstreams) -> None:
    access, strict = accepted(upstreams, issuer(idp)), accepted(upstreams, issuer(idp, dpop="require"))
    bound = token(idp, cnf={"jkt": THUMBPRINT})
    assert (await verified(access, bound)).jkt == (await verified(strict, bound)).jkt == THUMBPRINT
    assert (await verified(access, token(idp))).jkt == ""
    assert "bound to no key" in await refused(strict, token(idp))
    for wrong in (
        {}, {"jkt": ""}, {"jkt": "A" * 42}, {"jkt": "A" * 43 + "="}, {"jkt": [THUMBPRINT]}, {"jkt": None}, [THUMBPRINT], "x", 1,
        False, {"jwk": {}}, {"kid": "x"}, {"jkt": THUMBPRINT, "a": 1},
        {"x5t#S256": THUMBPRINT}, {"jkt": THUMBPRINT, "x5t#S256": THUMBPRINT},
    ):  # fmt: skip
        assert "bound" in await refused(access, token(idp, cnf=wrong))


async def test_what_the_person_is_to_the_issuer_goes_on_as_it_is_said(idp: Provider, upstreams: Upstreams) -> None:
    access = accepted(upstreams, issuer(idp))
    known = await verified(access, token(idp, acr="urn:mfa"))
    assert (known.acr, known.issued, known.ends) == ("urn:mfa", NOW - 10, NOW + 600)
    for odd in (2, ["urn:mfa"], "", " urn:mfa", "a\nb", None):
        assert (await verified(access, token(idp, acr=odd))).acr == ""


@pytest.mark.parametrize(
    ("name", "claims", "found"),
    [
        ("groups", {"groups": ["a"]}, {"a"}),
        ("realm_access.roles", {"realm_access": {"roles": ["a", "b"]}}, {"a", "b"}),
        ("https://x.example/groups", {"https://x.example/groups": ["a"]}, {"a"}),
        ("a.b", {"a.b": ["exact"], "a": {"b": ["path"]}}, {"exact"}),
        ("a.b", {"a": {"b.c": ["x"]}}, set()),
        ("a.b", {"a": {}}, set()),
        ("a.b", {"a": ["b"]}, set()),
        ("groups", {}, set()),
        ("groups", {"groups": []}, set()),
    ],
)
def test_groups_are_found_under_their_exact_name_first_then_by_their_path(
    name: str, claims: dict[str, object], found: set[str]
) -> None:
    assert said.groups(claims, name) == found


@pytest.mark.parametrize("value", [None, "a", {"a": 1}, [1], [["a"]], [""], [" a"], ["a\n"], ["g"] * 501, True, 1])
def test_groups_of_another_form_are_refused(value: object) -> None:
    for name, claims in (("groups", {"groups": value}), ("a.b", {"a": {"b": value}}), ("a.b", {"a.b": value})):
        with pytest.raises(Refused):
            said.groups(claims, name)


@pytest.mark.parametrize(
    "claims",
    [
        {"_claim_names": {"groups": "src1"}},
        {"_claim_names": {"groups": "src1"}, "groups": ["a"]},
        {"hasgroups": True},
        {"hasgroups": "true", "groups": ["a"]},
        {"_claim_names": "groups"},
        {"_claim_names": None},
    ],
)
async def test_who_has_more_groups_than_a_token_holds_is_looked_up_or_refused(
    claims: dict[str, object], idp: Provider, upstreams: Upstreams, tmp_path: Path
) -> None:
    text = token(idp, **({"groups": None} | claims)) if claims != {"_claim_names": None} else token(idp, _claim_names=7)
    assert "more groups" in await refused(accepted(upstreams, issuer(idp)), text)
    people = tmp_path / "people.yaml"
    people.write_text("paul: {groups: [buyers, staff], active: true}\n")
    access = accepted(upstreams, issuer(idp, directory={"file": people}))
    assert (await verified(access, text)).groups == {"buyers", "staff"}
    for gone in (
        "paul: {groups: [buyers], active: false}\n",
        "paul: {groups: [], active: true}\n",
        "mia: {groups: [a], active: true}\n",
    ):
        people.write_text(gone)
        access = accepted(upstreams, issuer(idp, directory={"file": people}))
        assert "no such account" in await refused(access, text)
    assert (await verified(access, token(idp))).groups == {"buyers"}  # who fits is not looked up


async def test_a_directory_by_scim_answers_for_the_groups_that_do_not_fit(idp: Provider, upstreams: Upstreams) -> None:
    user = {"id": "1", "externalId": "paul", "active": True, "groups": [{"display": "buyers", "value": "g1"}]}
    idp.tell("/scim/Users", {"totalResults": 1, "Resources": [user]})
    directory = {"url": f"{idp.url}/scim", "token": {"env": "SCIM"}}
    access = accepted(upstreams, issuer(idp, directory=directory))
    assert (await verified(access, token(idp, hasgroups=True))).groups == {"buyers"}
    assert list(access.directories) == ["idp"]
    idp.tell("/scim/Users", {}, 500)
    assert "directory cannot be asked" in await refused(
        accepted(upstreams, issuer(idp, directory=directory)), token(idp, hasgroups=True)
    )


async def test_a_token_seen_a_moment_ago_is_known_until_its_key_goes(idp: Provider, upstreams: Upstreams, tmp_path: Path) -> None:
    access, text = accepted(upstreams, issuer(idp)), token(idp)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert await access.known(digest, NOW) is None
    first = await verified(access, text)
    assert await access.known(digest, NOW + 59) is first
    assert await access.known(digest, NOW + 60) is None


def test_an_issuer_without_keys_or_metadata_is_refused_at_start() -> None:
    nowhere = Issuer(alias="a", issuer="corp", audience="x")
    with pytest.raises(ProblemError, match="https URL"):
        AccessTokens([nowhere], {})
    with pytest.raises(ProblemError, match="HTTP client"):
        AccessTokens([nowhere.model_copy(update={"issuer": "https://idp.example"})], {})


ASKED = "introspection: {client: {id: g, secret: {env: S}}}"
SETTINGS: list[tuple[str, str]] = [
    ("[{alias: a, issuer: 'http://idp.example', audience: x}]", "no-metadata"),
    ("[{alias: a, issuer: 'https://idp.example?x=1', audience: x}]", "no-metadata"),
    ("[{alias: a, issuer: i, audience: x, jwks: {url: 'http://idp.example/k'}}]", "insecure-url"),
    ("[{alias: a, issuer: 'https://i', audience: x, tenant: t, tenant_claim: c, tenants: {v: t}}]", "two-tenants"),
    ("[{alias: a, issuer: 'https://i', audience: x, tenant_claim: c}]", "half-a-tenant"),
    ("[{alias: a, issuer: 'https://i', audience: x, tenants: {v: t}}]", "half-a-tenant"),
    ("[{alias: a, issuer: 'https://i', audience: x, introspection: {client: {id: g}}}]", "no-client"),
    (
        "[{alias: a, issuer: 'https://i', audience: x, introspection: {url: 'http://i/x', client: {id: g, secret: {env: S}}}}]",
        "insecure-url",
    ),
    (
        f"[{{alias: a, issuer: 'https://i', audience: x, {ASKED}}}, {{alias: b, issuer: 'https://j', audience: x, {ASKED}}}]",
        "two-introspections",
    ),
    ("[{alias: a, issuer: i, audience: x, jwks: {file: k}, introspection: {client: {id: g, secret: {env: S}}}}]", "no-metadata"),
    ("[{alias: a, issuer: 'https://i', audience: x, directory: {}}]", "no-directory"),
    ("[{alias: a, issuer: 'https://i', audience: x, directory: {url: 'https://s', file: f}}]", "no-directory"),
    ("[{alias: a, issuer: 'https://i', audience: x, directory: {file: f, token: {env: T}}}]", "no-directory"),
    ("[{alias: a, issuer: 'https://i', audience: x, directory: {url: 'http://s.example'}}]", "insecure-url"),
]


@pytest.mark.parametrize(("issuers", "code"), SETTINGS)
def test_settings_of_issuers_that_could_not_be_kept_are_told_with_their_line(issuers: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / "bailiwick.yaml"
    file.write_text(f"tenant: acme\nissuers: {issuers}\n")
    with pytest.raises(ProblemError) as caught:
        load(file, {})
    found = {problem.code: problem.location for problem in caught.value.problems}
    assert found[code].startswith(f"{file}:2:")


TWO = (
    "issuers: [{alias: a, issuer: 'https://i', audience: x}, "
    "{alias: b, issuer: 'https://j', audience: x, direct_clients: [desk]}]\n"
)


@pytest.mark.parametrize(
    ("clients", "code"),
    [
        ("{one: {client_ids: [app]}}", "ambiguous-client"),
        ("{one: {client_ids: {c: [app]}}}", "unknown-issuer"),
        ("{one: {client_ids: {a: [app]}}, two: {client_ids: {a: [app]}}}", "duplicate-client"),
        ("{one: {client_ids: {b: [desk]}}}", "duplicate-client"),
        ("{one: {client_ids: {a: [app, desk]}}, two: {client_ids: {b: [app]}}}", ""),
    ],
)
def test_whose_a_client_id_is_must_be_said_where_there_are_several_issuers(clients: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / "bailiwick.yaml"
    file.write_text(TWO + f"agents: {clients}\n")
    if not code:
        assert load(file, {}).agents["one"].client_ids == {"a": ("app", "desk")}
        return
    with pytest.raises(ProblemError) as caught:
        load(file, {})
    assert {problem.code: problem.location for problem in caught.value.problems}[code].startswith(f"{file}:2:")


@pytest.mark.parametrize("name", ["client_id", "azp", "appid", "cid"])
async def test_where_a_provider_says_another_type_its_name_for_the_client_is_read(
    name: str, idp: Provider, upstreams: Upstreams
) -> None:
    access = accepted(upstreams, issuer(idp, token_types=("JWT",)), agents={"clerk": Agent(client_ids={"idp": ("app",)})})
    typ = {"typ": "JWT"}
    assert (await verified(access, token(idp, typ, **({"client_id": None} | {name: "app"})))).actors == ("agent:clerk",)
    for other in {"client_id", "azp", "appid", "cid"} - {name}:
        assert "two different clients" in await refused(
            access, token(idp, typ, **({"client_id": None} | {name: "app", other: "cli"}))
        )
        assert (await verified(access, token(idp, typ, **({"client_id": None} | {name: "cli", other: "cli"})))).actors == ()
    strict = accepted(upstreams, issuer(idp))
    if name != "client_id":
        assert "client_id" in await refused(strict, token(idp, **({"client_id": None} | {name: "cli"})))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "jkt", "groups", "a.b"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    claims=st.dictionaries(
        st.sampled_from(["a", "a.b", "groups", "scope", "scp", "cnf", "_claim_names", "hasgroups", "acr"]), JSON
    )
)
def test_whatever_a_claim_is_it_is_read_or_refused_and_nothing_else(claims: dict[str, object]) -> None:
    for reader in (
        lambda: said.groups(claims, "a.b"),
        lambda: said.groups(claims, "groups"),
        lambda: said.scopes(claims),
        lambda: said.bound_to(claims),
        lambda: said.authentication_context(claims),
        lambda: said.tenant(claims, "a.b", {"x": "t"}),
    ):
        try:
            reader()
        except Refused:
            continue
