"""Good tokens pass: five forms at every kind of issuer.  A gate that refuses everything would pass every list of attacks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from gateway.identity.access import Access, AccessTokens
from gateway.identity.asking import asking
from gateway.identity.issuers import Ways
from gateway.identity.token import read
from gateway.settings import Agent, Issuer
from gateway.upstream.client import Upstreams
from tests.identity.provider import Provider, provider

NOW = 1_800_000_000
KINDS = ("file", "url", "discovery", "introspection")
FORMS: dict[str, dict[str, object]] = {
    "plain": {},
    "several audiences": {"aud": ["https://other.example", "api"]},
    "an agent's client": {"client_id": "clerk-app"},
    "no groups, no jti": {"groups": None, "jti": None},
    "with everything besides": {
        "nbf": NOW - 60,
        "acr": "mfa",
        "scope": "read write",
        "auth_time": NOW - 90,
        "given_name": "Påul",
    },
}


@pytest.fixture
async def idp() -> AsyncIterator[Provider]:
    async with provider() as it:
        it.publish(introspection_endpoint=f"{it.url}/introspect")
        yield it


async def accepted(kind: str, idp: Provider, claims: dict[str, object], folder: Path) -> Access:
    settings: dict[str, object] = {"alias": "idp", "issuer": idp.url, "audience": "api", "direct_clients": ("cli",)}
    if kind == "file":
        (folder / "jwks.json").write_text(json.dumps({"keys": [idp.jwk]}))
        settings["jwks"] = {"file": folder / "jwks.json"}
    elif kind == "url":
        settings["jwks"] = {"url": f"{idp.url}/jwks"}
    elif kind == "introspection":
        settings["introspection"] = {"client": {"id": "gateway", "secret": {"env": "SECRET"}}}
    upstreams = Upstreams()
    ways = Ways(partial(upstreams.fetch, allow_private=True), asking(upstreams, private=True), environ={"SECRET": "s"})
    agents = {"clerk": Agent(client_ids={"idp": ("clerk-app",)})}
    access = AccessTokens([Issuer.model_validate(settings)], agents, tenant="acme", ways=ways)
    try:
        if kind == "introspection":
            idp.tell("/introspect", {"active": True, "token_type": "Bearer"} | claims)
            return await access.opaque("opaque-token-of-paul-0123456789", NOW)
        return await access.verify(read(idp.sign(claims)), NOW)
    finally:
        await access.close()
        await upstreams.aclose()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_good_token_of_every_form_passes_at_every_kind_of_issuer(
    idp: Provider, kind: str, form: dict[str, object], tmp_path: Path
) -> None:
    claims: dict[str, object] = {
        "iss": idp.url, "aud": "api", "sub": "paul", "client_id": "cli", "jti": "j-1", "iat": NOW - 10, "exp": NOW + 600,
        "groups": ["buyers"],
    }  # fmt: skip
    access = await accepted(kind, idp, {k: v for k, v in (claims | form).items() if v is not None}, tmp_path)
    assert (access.subject, access.tenant, access.ends) == ("user:idp/paul", "acme", NOW + 600)
    assert access.actors == (("agent:clerk",) if form.get("client_id") == "clerk-app" else ())
    assert access.groups == (frozenset() if "groups" in form else {"buyers"})
