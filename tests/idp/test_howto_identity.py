"""The how-to pages for identity providers: their settings are read as they stand, and the vendors' tokens fit them.

Of the vendors only the form of a token is here, as each documents it; what a provider does is tried with a real one beside.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jwt.algorithms import RSAAlgorithm
from jwt.api_jws import PyJWS

from gateway.configuration import read as read_settings
from gateway.identity.access import Access, AccessTokens
from gateway.identity.token import read
from gateway.model import Refused
from gateway.settings import Settings
from tests.idp.provider import rsa_jwk
from tests.interaction.world import Gateway, Peers

SEEN_ELSEWHERE = {
    "invalid-credential", "refused.detail", '"groups":[]', "/procurement-managers", "Unknown tool", "Unknown server",
    "a development issuer only serves a loopback address", "the settings have no development issuer",
}  # fmt: skip
PAGES = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "identity"
NAMES = ("entra", "keycloak", "no-idp-yet", "okta-auth0")
BLOCK = re.compile(r"^( *)```yaml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TENANT, API, CLI, AGENT = (digit * 8 + f"-{digit * 4}" * 3 + "-" + digit * 12 for digit in "1234")
GATEWAY = "https://gateway.example.com"


def blocks(page: str) -> list[str]:
    """The page's settings, without the indentation of a list that they stand in."""
    text = (PAGES / f"{page}.md").read_text()
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in BLOCK.findall(text)]


def settings(page: str, folder: Path, number: int = 0) -> Settings:
    (folder / "bailiwick.yaml").write_text(blocks(page)[number])
    return read_settings(folder / "bailiwick.yaml", {}).settings


def test_every_page_of_this_folder_is_looked_at() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == list(NAMES)
    assert {page: len(blocks(page)) for page in NAMES} == {"entra": 1, "keycloak": 1, "no-idp-yet": 2, "okta-auth0": 2}


@pytest.mark.parametrize(("page", "number"), [(page, number) for page in NAMES for number in range(len(blocks(page)))])
def test_the_settings_of_a_page_are_accepted_as_they_stand(page: str, number: int, tmp_path: Path) -> None:
    (issuer,) = settings(page, tmp_path, number).issuers
    assert issuer.development == (page == "no-idp-yet" and number == 0)


@pytest.mark.parametrize("page", NAMES)
def test_a_page_says_how_to_see_it_work_what_goes_wrong_and_what_was_tried(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text()
    assert {"See it work", "What the usual mistakes look like", "What was tried"} <= set(
        re.findall(r"^## (.+)$", text, re.MULTILINE)
    )
    assert "/api/whoami" in text
    assert "bailiwick doctor" in text


@pytest.mark.parametrize("page", NAMES)
def test_the_refusals_that_a_page_explains_are_ones_that_the_gateway_gives(page: str) -> None:
    source = "".join(path.read_text() for path in Path(read.__code__.co_filename).parent.glob("*.py"))
    text = (PAGES / f"{page}.md").read_text()
    table = text[text.index("## What the usual mistakes") : text.index("## What was tried")]
    cells = [row.split("|")[1] for row in re.findall(r"^\|.*$", table, re.MULTILINE)[2:]]
    told = [detail.removesuffix(" …") for cell in cells for detail in re.findall("`([^`]+)`", cell)]
    assert [detail for detail in told if detail not in SEEN_ELSEWHERE and not any(part in source for part in split(detail))] == []


def split(detail: str) -> tuple[str, ...]:
    """The detail, and what stands of it in the source where a claim's name is put in."""
    return (detail, *(["is missing or not 1 to"] if detail.endswith(" is missing") else []))


# ------------------------------------------------------------------------------------------------------- vendors' tokens
class Vendor:
    """A key of somebody, its issuer's documents, and a page's settings for it."""

    def __init__(self, page: str, folder: Path, number: int = 0) -> None:
        self._jwk = rsa_jwk()
        self._key = RSAAlgorithm.from_jwk(json.dumps(self._jwk))
        found = settings(page, folder, number)
        (self.issuer,) = found.issuers
        self.tokens = AccessTokens(found.issuers, found.agents, self._fetch, tenant=found.tenant)

    async def _fetch(self, url: str) -> bytes:
        issuer = self.issuer.issuer
        if url == f"{issuer.removesuffix('/')}/.well-known/openid-configuration":
            return json.dumps({"issuer": issuer, "jwks_uri": f"{issuer.removesuffix('/')}/keys"}).encode()
        assert url == f"{issuer.removesuffix('/')}/keys"
        public = {name: self._jwk[name] for name in ("kty", "n", "e", "kid", "use")}  # Entra says no alg
        return json.dumps({"keys": [public]}).encode()

    def token(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        now = int(time.time())
        times = {"iss": self.issuer.issuer, "iat": now, "nbf": now, "exp": now + 300}
        said = {name: value for name, value in (times | dict(claims)).items() if value is not None}
        head = {"alg": "RS256", "kid": self._jwk["kid"]} | dict(header)
        text = PyJWS().encode(json.dumps(said).encode(), self._key, "RS256", headers={"typ": None} | head)
        assert ("typ" in json.loads(base64.urlsafe_b64decode(text.split(".")[0] + "=="))) == ("typ" in header)
        return text

    async def access(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> Access:
        try:
            return await self.tokens.verify(read(self.token(header, claims)), int(time.time()))
        finally:
            await self.tokens.close()

    async def refusal(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        with pytest.raises(Refused) as caught:
            await self.access(header, claims)
        return caught.value.detail


PLAIN = {"typ": "JWT"}
KEYCLOAK: Mapping[str, Any] = {
    "jti": f"onrtac:{uuid.uuid4()}", "aud": [GATEWAY, "account"], "sub": str(uuid.uuid4()), "typ": "Bearer",
    "azp": "bailiwick-cli",
    "sid": str(uuid.uuid4()), "acr": "1", "allowed-origins": ["http://127.0.0.1"], "scope": "openid bailiwick profile email",
    "realm_access": {"roles": ["default-roles-acme", "buyers"]}, "resource_access": {"account": {"roles": ["view-profile"]}},
    "groups": ["procurement-managers"], "email_verified": True, "preferred_username": "paul",
}  # fmt: skip
ENTRA: Mapping[str, Any] = {
    "aud": API, "aio": "E2…", "azp": CLI, "azpacr": "0", "name": "Paul", "oid": str(uuid.uuid4()), "preferred_username": "p@x",
    "rh": "0.A…", "roles": ["procurement-managers"], "scp": "tools.call", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
    "tid": TENANT, "uti": "zzz", "ver": "2.0",
}  # fmt: skip
OKTA: Mapping[str, Any] = {
    "ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE", "aud": GATEWAY, "cid": "0oacli", "uid": "00upaul",
    "scp": ["openid", "tools"], "auth_time": 1700000000, "sub": "00upaul", "groups": ["bw-procurement-managers"], "nbf": None,
}  # fmt: skip
AUTH0: Mapping[str, Any] = {
    "sub": "auth0|123456", "aud": [GATEWAY, "https://acme.eu.auth0.com/userinfo"], "client_id": "cliClientId", "nbf": None,
    "jti": "73WakrfVbNJBaAmhQtEeDv", "scope": "openid profile tools", f"{GATEWAY}/groups": ["bw-procurement-managers"],
}  # fmt: skip


async def test_a_token_of_keycloak_says_who_it_is(tmp_path: Path) -> None:
    access = await Vendor("keycloak", tmp_path).access(PLAIN, KEYCLOAK)
    assert (access.subject, access.actors) == (f"user:keycloak/{KEYCLOAK['sub']}", ())
    assert access.groups == {"procurement-managers"}
    agents = await Vendor("keycloak", tmp_path).access(PLAIN, {**KEYCLOAK, "azp": "clerk-app"})
    assert agents.actors == ("agent:clerk",)


async def test_realm_roles_of_keycloak_can_be_the_groups(tmp_path: Path) -> None:
    vendor = Vendor("keycloak", tmp_path)
    changed = vendor.issuer.model_copy(update={"groups_claim": "realm_access.roles"})
    vendor.tokens = AccessTokens([changed], {}, vendor._fetch)
    assert (await vendor.access(PLAIN, KEYCLOAK)).groups == {"default-roles-acme", "buyers"}


@pytest.mark.parametrize(
    ("header", "claims", "detail"),
    [
        (PLAIN, {"aud": "account"}, "aud names somebody else"),
        ({"typ": "at+jwt"}, {}, "typ is not the one of this use"),
        (PLAIN, {"azp": "somebody"}, "token was issued to a client that nobody registered"),
        (PLAIN, {"scope": "openid profile"}, "token lacks a scope that this gateway wants"),
        (PLAIN, {"sub": None}, "sub is missing"),
        (PLAIN, {"typ": "ID", "aud": "bailiwick-cli", "at_hash": "h", "nonce": "n"}, "aud names somebody else"),
    ],
)
async def test_keycloak_told_wrongly_is_refused_for_the_reason_in_the_page(
    header: Mapping[str, Any], claims: Mapping[str, Any], detail: str, tmp_path: Path
) -> None:
    assert detail in await Vendor("keycloak", tmp_path).refusal(header, {**KEYCLOAK, **claims})


async def test_a_token_of_entra_says_who_it_is(tmp_path: Path) -> None:
    access = await Vendor("entra", tmp_path).access({**PLAIN, "x5t": "abc"}, ENTRA)
    assert (access.subject, access.actors, access.groups) == (f"user:entra/{ENTRA['sub']}", (), {"procurement-managers"})
    agents = await Vendor("entra", tmp_path).access(PLAIN, {**ENTRA, "azp": AGENT})
    assert agents.actors == ("agent:clerk",)


OVERAGE = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.example/…"}}}


@pytest.mark.parametrize(
    ("header", "claims", "detail"),
    [
        (PLAIN, {"iss": f"https://sts.windows.net/{TENANT}/", "ver": "1.0"}, "iss is not a configured issuer"),
        (PLAIN, {"aud": f"api://{API}"}, "aud names somebody else"),
        ({**PLAIN, "nonce": "n"}, {"aud": "00000003-0000-0000-c000-000000000000"}, "header member is not allowed"),
        (PLAIN, {"scp": None, "idtyp": "app"}, "token lacks a scope that this gateway wants"),
        (PLAIN, {"roles": None, **OVERAGE}, "the person has more groups than the token holds"),
        (PLAIN, {"azp": None, "nonce": "n"}, "an ID token is no access token"),
        (PLAIN, {"azp": None}, "client_id is missing"),
        (PLAIN, {"azp": "5" * 8}, "token was issued to a client that nobody registered"),
    ],
)
async def test_entra_told_wrongly_is_refused_for_the_reason_in_the_page(
    header: Mapping[str, Any], claims: Mapping[str, Any], detail: str, tmp_path: Path
) -> None:
    assert detail in await Vendor("entra", tmp_path).refusal(header, {**ENTRA, **claims})


async def test_a_token_of_okta_says_who_it_is(tmp_path: Path) -> None:
    access = await Vendor("okta-auth0", tmp_path).access({}, OKTA)
    assert (access.subject, access.actors, access.groups) == ("user:okta/00upaul", (), {"bw-procurement-managers"})
    agents = await Vendor("okta-auth0", tmp_path).access({}, {**OKTA, "cid": "0oaclerk"})
    assert agents.actors == ("agent:clerk",)


async def test_a_token_of_oktas_own_server_is_refused(tmp_path: Path) -> None:
    own = {**OKTA, "iss": "https://acme.okta.com"}
    assert await Vendor("okta-auth0", tmp_path).refusal({}, own) == "iss is not a configured issuer"
    internal = {"typ": "application/okta-internal-at+jwt"}
    assert await Vendor("okta-auth0", tmp_path).refusal(internal, OKTA) == "typ is not the one of this use"


async def test_a_token_of_auth0_says_who_it_is(tmp_path: Path) -> None:
    access = await Vendor("okta-auth0", tmp_path, 1).access({"typ": "at+jwt"}, AUTH0)
    assert (access.subject, access.actors, access.groups) == ("user:auth0/auth0|123456", (), {"bw-procurement-managers"})
    wrong = await Vendor("okta-auth0", tmp_path, 1).refusal(PLAIN, AUTH0)
    assert wrong == "typ is not the one of this use"


async def test_auth0s_other_profile_needs_the_type_that_the_page_names(tmp_path: Path) -> None:
    vendor = Vendor("okta-auth0", tmp_path, 1)
    changed = vendor.issuer.model_copy(update={"token_types": ("JWT",)})
    vendor.tokens = AccessTokens([changed], {}, vendor._fetch)
    assert (await vendor.access(PLAIN, {**AUTH0, "client_id": None, "azp": "cliClientId"})).subject == "user:auth0/auth0|123456"


# ------------------------------------------------------------------------------------------------- no identity provider yet
def test_the_development_issuer_of_the_page_lets_somebody_call(upstreams: Peers, tmp_path: Path) -> None:
    """The page's issuer, at the port that is free here."""
    gateway = Gateway(tmp_path, upstreams)
    text = blocks("no-idp-yet")[0].replace("8080", str(gateway.port)).replace("port: 8080", f"port: {gateway.port}")
    rest = {name: value for name, value in gateway.settings.items() if name not in {"server", "issuers"}}
    gateway.config.write_text(text + "\n".join(f"{name}: {json.dumps(value)}" for name, value in rest.items()) + "\n")
    gateway.start()
    try:
        token = gateway.token("paul")
        me = gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).json()
        assert (me["subject"], me["groups"]) == ("user:dev/paul", ["procurement-managers"])
        assert "result" in gateway.call("desk.read", token).json()
    finally:
        gateway.stop()
