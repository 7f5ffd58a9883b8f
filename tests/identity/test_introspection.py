"""Opaque tokens: what the issuer must say of one, how often it is asked, and what is never shown to it.  Real sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote_plus

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.identity.access import Access, AccessTokens
from gateway.identity.asking import asking
from gateway.identity.client import OAuthClient
from gateway.identity.introspection import MAX_STRANGERS
from gateway.identity.issuers import Ways
from gateway.model import Refused
from gateway.problem import ProblemError
from gateway.reasons import Code
from gateway.settings import Agent, Client, Issuer, Secret
from gateway.upstream.client import Upstreams
from tests.identity.provider import Asked, Provider, provider

NOW = 1_800_000_000
TOKEN = "opaque-token-of-paul-0123456789"
THUMBPRINT = "A" * 43
SECRET = "p%ss: wörd+&="


def pem(key: object) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
async def idp() -> AsyncIterator[Provider]:
    async with provider() as it:
        it.publish(introspection_endpoint=f"{it.url}/introspect")
        yield it


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    it = Upstreams()
    yield it
    await it.aclose()


def said(idp: Provider, **changes: object) -> dict[str, object]:
    good: dict[str, object] = {
        "active": True, "iss": idp.url, "aud": "api", "sub": "paul", "client_id": "cli", "token_type": "Bearer",
        "iat": NOW - 10, "exp": NOW + 600, "jti": "j-1", "groups": ["buyers"], "scope": "read write",
    }  # fmt: skip
    return {k: v for k, v in (good | changes).items() if v is not None}


def tokens(idp: Provider, upstreams: Upstreams, **changes: object) -> AccessTokens:
    settings: dict[str, object] = {
        "alias": "idp", "issuer": idp.url, "audience": "api", "direct_clients": ("cli",),
        "introspection": {"client": {"id": "gate way", "secret": {"env": "SECRET"}}, "cache_seconds": 30},
    }  # fmt: skip
    issuer = Issuer.model_validate(settings | changes)
    ways = Ways(
        fetch=partial(upstreams.fetch, allow_private=True),
        ask=asking(upstreams, private=True),
        environ={"SECRET": SECRET},
    )
    agents = {"clerk": Agent(client_ids={"idp": ("clerk-app",)})}
    return AccessTokens([issuer], agents, tenant="acme", ways=ways)


async def refusal(access: AccessTokens, token: str = TOKEN, now: int = NOW) -> Refused:
    with pytest.raises(Refused) as caught:
        await access.opaque(token, now)
    assert token not in str(caught.value)
    return caught.value


async def test_an_opaque_token_is_what_its_issuer_says_and_is_asked_by_a_client_that_proves_itself(
    idp: Provider, upstreams: Upstreams
) -> None:
    idp.tell("/introspect", said(idp, client_id="clerk-app", acr="mfa"))
    access = await tokens(idp, upstreams).opaque(TOKEN, NOW)
    assert (access.subject, access.actors, access.groups) == ("user:idp/paul", ("agent:clerk",), frozenset({"buyers"}))
    assert (access.tenant, access.issued, access.ends, access.jti) == ("acme", NOW - 10, NOW + 600, "j-1")
    assert (access.issuer, access.acr, access.scope) == ("idp", "mfa", ("read", "write"))
    asked = idp.asked[-1]
    assert (asked.method, asked.path) == ("POST", "/introspect")
    assert asked.form == {"token": TOKEN, "token_type_hint": "access_token"}
    scheme, _, pair = asked.headers["authorization"].partition(" ")
    assert scheme == "Basic"
    assert [unquote_plus(part) for part in base64.b64decode(pair).decode().split(":")] == ["gate way", SECRET]


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [(ec.generate_private_key(ec.SECP256R1()), "ES256"), (rsa.generate_private_key(65537, 2048), "RS256")],
    ids=["EC", "RSA"],
)
async def test_a_client_with_a_key_proves_it_with_an_assertion_of_its_own_for_each_question(
    idp: Provider, upstreams: Upstreams, private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: str, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text(pem(private))
    (tmp_path / "key.pem").chmod(0o600)
    client = {"id": "gateway", "key": {"file": str(tmp_path / "key.pem")}}
    access = tokens(idp, upstreams, introspection={"client": client, "cache_seconds": 0})
    idp.tell("/introspect", said(idp))
    seen = set()
    for _ in range(2):
        await access.opaque(TOKEN, NOW)
        form = idp.asked[-1].form
        assert "authorization" not in idp.asked[-1].headers
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        options = {"verify_exp": False, "verify_iat": False}
        claims = jwt.decode(form["client_assertion"], private.public_key(), [algorithm], audience=idp.url, options=options)  # type: ignore[arg-type]
        assert (claims["iss"], claims["sub"], claims["exp"] - claims["iat"]) == ("gateway", "gateway", 60)
        seen.add(claims["jti"])
    assert len(seen) == 2


@pytest.mark.parametrize(
    "key",
    [
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 1024)),
        "junk",
    ],
    ids=["Ed25519", "P-384", "RSA-1024", "junk"],
)
def test_a_clients_key_of_another_kind_is_refused_at_start_without_being_shown(key: str) -> None:
    with pytest.raises(ProblemError, match="P-256 key, or an RSA key") as caught:
        OAuthClient(Client(id="g", key=Secret(env="KEY")), {"KEY": key})
    assert key not in str(caught.value)


BAD_ANSWERS: dict[str, object] = {
    "not active": {"active": False},
    "not active, and all the rest": lambda idp: said(idp, active=False),
    "active as text": lambda idp: said(idp, active="true"),
    "active as a number": lambda idp: said(idp, active=1),
    "active missing": lambda idp: said(idp, active=None),
    "a list": [],
    "no JSON": b"active",
    "active twice": lambda idp: json.dumps(said(idp)).encode()[:-1] + b', "active": true}',
    "too deep": b'{"active": true, "a": ' + b"[" * 50 + b"]" * 50 + b"}",
    "another issuer": lambda idp: said(idp, iss="https://evil.example"),
    "no issuer": lambda idp: said(idp, iss=None),
    "another audience": lambda idp: said(idp, aud=["other"]),
    "no audience": lambda idp: said(idp, aud=None),
    "no subject": lambda idp: said(idp, sub=None),
    "no client": lambda idp: said(idp, client_id=None),
    "a client that nobody registered": lambda idp: said(idp, client_id="stranger"),
    "ended": lambda idp: said(idp, exp=NOW - 31, iat=NOW - 100),
    "no end": lambda idp: said(idp, exp=None),
    "exp as text": lambda idp: said(idp, exp=str(NOW + 600)),
    "exp in ten years": lambda idp: said(idp, exp=NOW + 10 * 365 * 86400),
    "iat ahead": lambda idp: said(idp, iat=NOW + 60),
    "no iat": lambda idp: said(idp, iat=None),
    "nbf ahead": lambda idp: said(idp, nbf=NOW + 60),
    "a refresh token": lambda idp: said(idp, token_type="refresh_token"),
    "an id token": lambda idp: said(idp, token_type="ID"),
    "token_type a list": lambda idp: said(idp, token_type=["Bearer"]),
    "bound by mTLS": lambda idp: said(idp, cnf={"x5t#S256": THUMBPRINT}),
    "bound twice": lambda idp: said(idp, token_type="DPoP", cnf={"jkt": THUMBPRINT, "x5t#S256": THUMBPRINT}),
    "DPoP without its key": lambda idp: said(idp, token_type="DPoP"),
    "bound, and called Bearer": lambda idp: said(idp, cnf={"jkt": THUMBPRINT}),
    "cnf of nothing": lambda idp: said(idp, cnf={}),
    "delegated elsewhere": lambda idp: said(idp, act={"sub": "x"}),
    "groups as text": lambda idp: said(idp, groups="buyers"),
    "more groups than fit": lambda idp: said(idp, hasgroups=True),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_answer_that_is_not_a_yes_to_exactly_this_is_a_no(idp: Provider, upstreams: Upstreams, answer: object) -> None:
    idp.tell("/introspect", answer(idp) if callable(answer) else answer)
    assert (await refusal(tokens(idp, upstreams))).code is Code.INVALID_CREDENTIAL


async def test_a_bound_opaque_token_says_to_which_key(idp: Provider, upstreams: Upstreams) -> None:
    idp.tell("/introspect", said(idp, token_type="DPoP", cnf={"jkt": THUMBPRINT}))
    assert (await tokens(idp, upstreams, dpop="require").opaque(TOKEN, NOW)).jkt == THUMBPRINT
    idp.tell("/introspect", said(idp))
    assert "bound to no key" in (await refusal(tokens(idp, upstreams, dpop="require"))).detail


@pytest.mark.parametrize("status", [201, 204, 302, 400, 401, 403, 500, 503])
async def test_an_issuer_that_answers_otherwise_has_not_said_yes(idp: Provider, upstreams: Upstreams, status: int) -> None:
    idp.tell("/introspect", said(idp) if status != 204 else b"", status)
    idp.tell("/elsewhere", said(idp))
    access = tokens(idp, upstreams)
    assert str(status) in (await refusal(access)).detail
    assert idp.count("/elsewhere") == 0
    idp.tell("/introspect", said(idp))
    assert (await access.opaque(TOKEN, NOW)).subject == "user:idp/paul"  # and that was not kept as a no


async def test_an_issuer_that_cannot_be_reached_is_a_refusal(idp: Provider, upstreams: Upstreams) -> None:
    access = tokens(
        idp, upstreams, introspection={"url": "http://127.0.0.1:1/i", "client": {"id": "g", "secret": {"env": "SECRET"}}}
    )
    assert "cannot be asked" in (await refusal(access)).detail
    idp.publish(introspection_endpoint=None)
    assert "names no place to ask" in (await refusal(tokens(idp, upstreams))).detail
    idp.tell("/.well-known/openid-configuration", {}, 503)
    assert "names no place to ask" in (await refusal(tokens(idp, upstreams))).detail


async def test_an_endpoint_that_metadata_names_on_another_private_host_never_sees_a_token(
    idp: Provider, upstreams: Upstreams
) -> None:
    idp.publish(introspection_endpoint=f"http://localhost:{idp.port}/introspect")
    idp.tell("/introspect", said(idp))
    settings = tokens(idp, upstreams).issuer("idp")
    assert settings is not None
    ways = Ways(
        partial(upstreams.fetch, allow_private=True), asking(upstreams, private=True), upstreams.fetch,
        asking(upstreams, private=False), {"SECRET": SECRET},
    )  # fmt: skip
    access = AccessTokens([settings.settings], {}, ways=ways)
    assert "loopback" in (await refusal(access)).detail
    assert idp.count("/introspect") == 0


async def test_however_many_show_a_token_the_issuer_is_asked_once_and_again_when_the_answer_is_old(
    idp: Provider, upstreams: Upstreams
) -> None:
    idp.tell("/introspect", said(idp))
    access = tokens(idp, upstreams)
    await asyncio.gather(*(access.opaque(TOKEN, NOW) for _ in range(50)))
    assert idp.count("/introspect") == 1
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    known = await access.known(digest, NOW + 29)
    assert isinstance(known, Access)
    assert await access.known(digest, NOW + 30) is None
    idp.tell("/introspect", {"active": False})
    assert "not active" in (await refusal(access, now=NOW + 30)).detail


async def test_an_answer_counts_no_longer_than_the_token(idp: Provider, upstreams: Upstreams) -> None:
    idp.tell("/introspect", said(idp, exp=NOW + 5))
    access = tokens(idp, upstreams)
    await access.opaque(TOKEN, NOW)
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    assert await access.known(digest, NOW + 4) is not None
    assert await access.known(digest, NOW + 5) is None


async def test_with_no_time_to_keep_it_an_answer_is_kept_for_nobody(idp: Provider, upstreams: Upstreams) -> None:
    idp.tell("/introspect", said(idp))
    client = {"id": "g", "secret": {"env": "SECRET"}}
    access = tokens(idp, upstreams, introspection={"client": client, "cache_seconds": 0})
    for _ in range(3):
        await access.opaque(TOKEN, NOW)
    assert idp.count("/introspect") == 3


async def test_a_no_is_kept_for_five_seconds(idp: Provider, upstreams: Upstreams) -> None:
    idp.tell("/introspect", {"active": False})
    access = tokens(idp, upstreams)
    for second in (0, 1, 4):
        await refusal(access, now=NOW + second)
    assert idp.count("/introspect") == 1
    await refusal(access, now=NOW + 5)
    assert idp.count("/introspect") == 2


async def test_invented_tokens_do_not_make_more_than_so_many_questions_at_a_time(idp: Provider, upstreams: Upstreams) -> None:
    idp.gate = asyncio.Event()
    access = tokens(idp, upstreams)
    asked = [asyncio.create_task(access.opaque(f"invented-token-{n:08}", NOW)) for n in range(MAX_STRANGERS + 1)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert [task.exception().code for task in done] == [Code.OVERLOADED]  # type: ignore[union-attr]
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await access.close()
    idp.gate.set()


async def test_whoever_invents_tokens_leaves_room_for_those_who_had_a_good_one(idp: Provider, upstreams: Upstreams) -> None:
    idp.tell("/introspect", said(idp))
    access = tokens(idp, upstreams)
    await access.opaque(TOKEN, NOW)
    idp.gate = asyncio.Event()
    invented = [asyncio.create_task(access.opaque(f"invented-token-{n:08}", NOW)) for n in range(3 * MAX_STRANGERS)]
    await asyncio.wait(invented, return_when=asyncio.FIRST_COMPLETED)
    again = asyncio.create_task(access.opaque(TOKEN, NOW + 31))
    newcomer = asyncio.create_task(access.opaque("opaque-token-of-eve-0123456789", NOW))
    with pytest.raises(Refused) as caught:
        await newcomer
    assert caught.value.code is Code.OVERLOADED
    assert not again.done()
    idp.gate.set()
    assert (await again).subject == "user:idp/paul"
    ends = await asyncio.gather(*invented, return_exceptions=True)
    assert sum(isinstance(end, Refused) and end.code is Code.OVERLOADED for end in ends) == 2 * MAX_STRANGERS
    assert isinstance(await access.opaque("opaque-token-of-eve-0123456789", NOW), Access)
    await access.close()


JOSE = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b'{"alg":"ES256"}', b"{}", b"signature"))
NOT_TO_BE_SHOWN = {
    "an agent's secret": "bws_clerk_" + "A" * 43,
    "a JWS": JOSE,
    "a JWS with a fourth part": JOSE + ".",
    "a JWS padded": JOSE + "=",
    "a JWS cut short": JOSE.rpartition(".")[0],
    "a JWE": JOSE + ".a.b",
    "a header alone": JOSE.partition(".")[0] + ".",
    "a header with spaces": base64.urlsafe_b64encode(b' { "alg": "none"}').decode() + ".a.b",
    "two credentials": TOKEN + ", " + TOKEN,
    "a newline": TOKEN + "\n",
    "too short": "short",
    "too long": "a" * 4097,
    "nothing": "",
    "not ASCII": "ö" * 20,
}


@pytest.mark.parametrize("text", NOT_TO_BE_SHOWN.values(), ids=NOT_TO_BE_SHOWN)
async def test_what_another_could_read_or_nobody_issued_is_never_shown_to_the_issuer(
    idp: Provider, upstreams: Upstreams, text: str
) -> None:
    idp.tell("/introspect", said(idp))
    with pytest.raises(Refused) as caught:
        await tokens(idp, upstreams).opaque(text, NOW)
    assert caught.value.code is Code.INVALID_CREDENTIAL
    assert idp.asked == []


@pytest.mark.parametrize("text", ["ory_at_abcdefghijklmno.pqrstuvwxyz", "eyJhbGciOiJ9eyJhbGciOiJ9", "ya29.a0AfB_by-0123456789"])
async def test_opaque_tokens_as_providers_make_them_are_asked_about(idp: Provider, upstreams: Upstreams, text: str) -> None:
    idp.tell("/introspect", said(idp))
    assert (await tokens(idp, upstreams).opaque(text, NOW)).subject == "user:idp/paul"


async def test_without_an_issuer_to_ask_an_opaque_token_is_refused(idp: Provider, upstreams: Upstreams) -> None:
    assert "no issuer is asked" in (await refusal(tokens(idp, upstreams, introspection=None))).detail
    assert idp.asked == []


def test_two_issuers_with_introspection_are_refused(idp: Provider, upstreams: Upstreams) -> None:
    one = {
        "alias": "a",
        "issuer": "https://a.example",
        "audience": "x",
        "introspection": {"client": {"id": "g", "secret": {"env": "S"}}},
    }
    two = one | {"alias": "b", "issuer": "https://b.example"}
    ways = Ways(fetch=upstreams.fetch, ask=asking(upstreams, private=True), environ={"S": "s"})
    with pytest.raises(ProblemError, match="no issuer but its own"):
        AccessTokens([Issuer.model_validate(one), Issuer.model_validate(two)], {}, ways=ways)


async def test_the_same_opaque_token_is_one_workflow_and_another_is_another(idp: Provider, upstreams: Upstreams) -> None:
    def answer(asked: Asked) -> tuple[int, object]:
        return 200, said(idp, jti=None, sub=asked.form["token"][:4])

    idp.routes["/introspect"] = answer
    access = tokens(idp, upstreams)
    one, again = await access.opaque(TOKEN, NOW), await access.opaque(TOKEN, NOW + 40)
    other = await access.opaque(TOKEN + "x", NOW)
    assert one.workflow == again.workflow != other.workflow
