"""Proofs of possession (RFC 9449): for one request, one token and one key, once."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.identity.agents import Remembered
from gateway.identity.authenticate import Authenticator
from gateway.identity.dpop import MAX_CHARS, WINDOW_SECONDS, Proofs, thumbprint
from gateway.identity.keys import es256_jwk
from gateway.model import Arrival, Principal, Refused, Trace, new_id
from gateway.reasons import Code
from gateway.settings import Issuer, Keys
from tests.identity.proving import ath_of, dpop, new_key, public_jwk, thumbprint_of

NOW = 1_800_000_000
URL = "http://127.0.0.1:8080"
KEY = new_key()
CHALLENGE = 'DPoP error="invalid_dpop_proof", algs="ES256 ES384 EdDSA PS256 RS256"'


def arrival(*headers: tuple[str, str], path: str = "/mcp/erp", method: str = "POST", at: int = NOW) -> Arrival:
    trace = Trace("0" * 31 + "1", "0" * 15 + "1")
    return Arrival(new_id(at * 1_000_000), "mcp", "erp", headers, b"", at * 1_000_000, trace, http_method=method, url_path=path)


def proofs(url: str = URL) -> Proofs:
    return Proofs(url, Remembered().use)


async def refused(awaitable) -> Refused:
    with pytest.raises(Refused) as caught:
        await awaitable
    assert caught.value.code is Code.INVALID_CREDENTIAL
    return caught.value


async def check(*values: str, token: str = "t", now: int = NOW, url: str = URL, path: str = "/mcp/erp") -> str:
    return await proofs(url).check(arrival(*(("dpop", value) for value in values), path=path), token, now)


# --- one proof


async def test_a_proof_tells_the_thumbprint_of_its_key() -> None:
    assert await check(dpop(KEY, "t", NOW)) == thumbprint_of(KEY)


async def test_a_proof_for_another_listener_names_the_address_of_that_listener() -> None:
    path = "/lf.a2a.v1.A2AService/SendMessage"
    for url, works in ((f"https://clerk.example{path}", True), (f"https://clerk.example:443{path}", True), (URL + path, False)):
        here = replace(arrival(("dpop", dpop(KEY, "t", NOW, url=url)), path=path), origin="https://clerk.example")
        if works:
            assert await proofs().check(here, "t", NOW) == thumbprint_of(KEY)
        else:
            await refused(proofs().check(here, "t", NOW))


async def test_a_proof_is_good_once_and_another_of_the_same_key_is_another() -> None:
    checker, proof = proofs(), dpop(KEY, "t", NOW)
    await checker.check(arrival(("dpop", proof)), "t", NOW)
    assert "used before" in (await refused(checker.check(arrival(("dpop", proof)), "t", NOW))).detail
    await checker.check(arrival(("dpop", dpop(KEY, "t", NOW))), "t", NOW)


async def test_a_proofs_twin_signature_does_not_make_it_good_twice() -> None:
    checker, proof = proofs(), dpop(KEY, "t", NOW)
    await checker.check(arrival(("dpop", proof)), "t", NOW)
    signed, _, signature = proof.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    twin = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    other = f"{signed}.{base64.urlsafe_b64encode(twin).rstrip(b'=').decode()}"
    assert "used before" in (await refused(checker.check(arrival(("dpop", other)), "t", NOW))).detail


async def test_the_jti_of_one_key_does_not_use_up_that_of_another() -> None:
    checker = proofs()
    await checker.check(arrival(("dpop", dpop(KEY, "t", NOW, jti="same"))), "t", NOW)
    await checker.check(arrival(("dpop", dpop(new_key(), "t", NOW, jti="same"))), "t", NOW)


async def test_a_refused_proof_tells_the_caller_that_it_is_about_the_proof_and_not_why() -> None:
    refusal = await refused(check(dpop(KEY, "t", NOW, htm="GET")))
    assert refusal.challenge == (("WWW-Authenticate", CHALLENGE),)
    assert "htm" in refusal.detail
    assert "htm" not in refusal.challenge[0][1]


async def test_a_token_endpoint_wants_no_hash_of_a_token() -> None:
    assert await check(dpop(KEY, "", NOW, ath=None), token="") == thumbprint_of(KEY)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        (f"{URL}/mcp/erp", True),
        (f"{URL}/mcp/erp?a=b#c", True),
        ("HTTP://127.0.0.1:8080/mcp/erp", True),
        (f"{URL}/mcp/%65rp", True),
        (f"{URL}/mcp/erp/", False),
        (f"{URL}/mcp/ERP", False),
        (f"{URL}/mcp/../mcp/erp", False),
        (f"{URL}/mcp/crm", False),
        (f"{URL}", False),
        ("https://127.0.0.1:8080/mcp/erp", False),
        ("http://127.0.0.1/mcp/erp", False),
        ("http://localhost:8080/mcp/erp", False),
        ("http://127.0.0.1:8080@evil.example/mcp/erp", False),
        ("http://paul@127.0.0.1:8080/mcp/erp", False),
        ("http://127.0.0.1:8080:1/mcp/erp", False),
        ("http://127.0.0.1:99999/mcp/erp", False),
        ("//127.0.0.1:8080/mcp/erp", False),
        ("/mcp/erp", False),
        ("", False),
        (" http://127.0.0.1:8080/mcp/erp", False),
        ("http://127.0.0.1:8080/mcp/erp\n", False),
        ("http://[::1/mcp/erp", False),
        ("http://127.0.0.1:8080/mcp/érp", False),
        (None, False),
        (["http://127.0.0.1:8080/mcp/erp"], False),
    ],
)
async def test_htu_is_this_address_normalised_and_no_other(url: object, good: bool) -> None:
    proof = dpop(KEY, "t", NOW, htu=url)
    if good:
        await check(proof)
    else:
        assert "htu" in (await refused(check(proof))).detail


@pytest.mark.parametrize(
    ("public", "htu"),
    [
        ("https://gw.example", "https://gw.example:443/mcp/erp"),
        ("https://gw.example:443", "https://GW.example/mcp/erp"),
        ("https://gw.example/tools", "https://gw.example/tools/mcp/erp"),
        ("http://[::1]:8080", "http://[::1]:8080/mcp/erp"),
    ],
)
async def test_the_address_is_the_public_one_whatever_its_spelling(public: str, htu: str) -> None:
    await check(dpop(KEY, "t", NOW, htu=htu), url=public)
    assert "htu" in (await refused(check(dpop(KEY, "t", NOW, htu=htu), url="https://other.example"))).detail


@pytest.mark.parametrize(("seconds", "good"), [(-60, True), (60, True), (-61, False), (61, False), (-86400, False)])
async def test_a_proof_is_of_this_minute(seconds: int, good: bool) -> None:
    proof = dpop(KEY, "t", NOW, iat=NOW + seconds)
    if good:
        await check(proof)
    else:
        assert "iat" in (await refused(check(proof))).detail


async def test_what_is_remembered_outlives_the_proofs_own_minute() -> None:
    """A proof from a clock that is ahead could be shown again for two minutes."""
    asked: list[tuple[str, str, int, int]] = []

    async def once(scope: str, jti: str, until: int, now: int) -> bool:
        asked.append((scope, jti, until, now))
        return True

    await Proofs(URL, once).check(arrival(("dpop", dpop(KEY, "t", NOW, iat=NOW + 60, jti="j"))), "t", NOW)
    assert asked == [(f"dpop:{thumbprint_of(KEY)}", "j", NOW + 60 + WINDOW_SECONDS + 1, NOW)]


@pytest.mark.parametrize(
    ("bent", "why"),
    [
        ({"htm": "GET"}, "htm"),
        ({"htm": "post"}, "htm"),
        ({"htm": None}, "htm"),
        ({"ath": None}, "ath"),
        ({"ath": ath_of("another")}, "ath"),
        ({"ath": ath_of("t") + "="}, "ath"),
        ({"ath": 7}, "ath"),
        ({"jti": None}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": "x" * 129}, "jti"),
        ({"jti": 7}, "jti"),
        ({"iat": None}, "iat"),
        ({"iat": str(NOW)}, "iat"),
        ({"iat": float(NOW)}, "iat"),
        ({"iat": True}, "iat"),
    ],
)
async def test_a_proof_with_a_bent_claim_is_refused(bent: Mapping[str, object], why: str) -> None:
    assert why in (await refused(check(dpop(KEY, "t", NOW, **bent)))).detail


SECRET_JWK = public_jwk(KEY) | {"d": base64.urlsafe_b64encode(KEY.private_numbers().private_value.to_bytes(32)).decode()}


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"typ": None},
        {"jwk": None},
        {"jwk": "x"},
        {"jwk": []},
        {"jwk": {}},
        {"jwk": SECRET_JWK},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"jwk": public_jwk(KEY) | {"x5c": ["MIIB"]}},
        {"jwk": public_jwk(KEY) | {"crv": "P-384"}},
        {"jwk": public_jwk(KEY) | {"use": "enc"}},
        {"jwk": public_jwk(KEY) | {"key_ops": ["sign"]}},
        {"jwk": public_jwk(KEY) | {"x": 2**70}},
        {"jwk": public_jwk(KEY) | {"alg": "ES384"}},
        {"kid": "k"},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/cert"},
        {"crit": ["b64"], "b64": False},
        {"nonce": "x"},
    ],
    ids=lambda header: json.dumps(header)[:40],
)
async def test_a_proof_with_a_bent_header_is_refused(header: Mapping[str, object]) -> None:
    await refused(check(dpop(KEY, "t", NOW, header=header)))


async def test_a_proof_signed_with_another_key_than_it_shows_is_refused() -> None:
    assert "signature" in (await refused(check(dpop(KEY, "t", NOW, signer=new_key())))).detail


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
async def test_a_proof_that_nobody_signed_or_everybody_could_is_refused(algorithm: str) -> None:
    signer = None if algorithm == "none" else "x" * 32
    head = {"typ": "dpop+jwt", "jwk": public_jwk(KEY)}
    claims = {"jti": "j", "htm": "POST", "htu": f"{URL}/mcp/erp", "iat": NOW, "ath": ath_of("t")}
    proof = jwt.encode(claims, signer, algorithm=algorithm, headers=head)
    for text in (proof, f"{proof.rpartition('.')[0]}.AAAA"):
        await refused(check(text))


async def test_a_proof_is_one_header_of_bounded_length() -> None:
    await refused(check())
    proof = dpop(KEY, "t", NOW)
    assert "exactly one" in (await refused(check(proof, proof))).detail
    assert "exactly one" in (await refused(check(proof, "x"))).detail
    assert "too long" in (await refused(check(dpop(KEY, "t", NOW, pad="x" * MAX_CHARS)))).detail
    for text in ("", "x", "a.b", "a.b.c.d", f"{proof} ", f"{proof}, {proof}", proof + "="):
        await refused(check(text))


@pytest.mark.parametrize(
    ("key", "algorithm", "kty"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "ES384", "EC"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA", "OKP"),
        (rsa.generate_private_key(65537, 2048), "PS256", "RSA"),
        (rsa.generate_private_key(65537, 2048), "RS256", "RSA"),
    ],
    ids=["ES384", "EdDSA", "PS256", "RS256"],
)
async def test_every_algorithm_of_the_list_proves(key, algorithm: str, kty: str) -> None:
    jwk = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
    proof = dpop(KEY, "t", NOW, header={"jwk": jwk}, signer=key, algorithm=algorithm)
    assert jwk["kty"] == kty
    assert await check(proof) == thumbprint(key.public_key())


def test_the_thumbprint_is_that_of_the_standard() -> None:
    """RFC 7638 §3.1."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
        "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn"
        "1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    number = int.from_bytes(base64.urlsafe_b64decode(n + "=="))
    assert thumbprint(rsa.RSAPublicNumbers(65537, number).public_key()) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert thumbprint(KEY.public_key()) == thumbprint_of(KEY)


PARTS = st.sampled_from(["header", "payload", "signature"])


@given(part=PARTS, at=st.integers(0, 10_000), flip=st.integers(1, 63))
async def test_no_changed_character_of_a_proof_leaves_it_good(part: str, at: int, flip: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    proof = dpop(KEY, "t", NOW).split(".")
    which = ["header", "payload", "signature"].index(part)
    text = proof[which]
    at %= len(text)
    proof[which] = text[:at] + alphabet[(alphabet.index(text[at]) + flip) % 64] + text[at + 1 :]
    await refused(check(".".join(proof)))


# --- on the way in


def bound_issuer(world, folder: Path, **changes: object) -> ec.EllipticCurvePrivateKey:
    """The world's authenticator, trusting an issuer that binds its tokens."""
    key = new_key()
    (folder / "binding.json").write_text(json.dumps({"keys": [es256_jwk(key.public_key())]}))
    issuer = Issuer(
        alias="idp", issuer="https://idp.example", audience="api", jwks=Keys(file=folder / "binding.json"),
        direct_clients=("cli",), **changes,
    )  # fmt: skip
    world.authenticator = Authenticator(
        tenant="acme", public_url=URL, issuers=[issuer], agents=world.agents, delegations=world.delegations,
        clock=world.clock, monotonic=world.clock.monotonic, instances=lambda shown: hashlib.sha256(shown.encode()).hexdigest(),
    )  # fmt: skip
    return key


def token_of(world, issuer_key: ec.EllipticCurvePrivateKey, holder: ec.EllipticCurvePrivateKey | None) -> str:
    now = int(world.clock.seconds)
    claims: dict[str, object] = {
        "iss": "https://idp.example", "aud": "api", "sub": "paul", "client_id": "cli", "jti": new_id(now * 1_000_000),
        "iat": now, "exp": now + 600,
    }  # fmt: skip
    if holder is not None:
        claims["cnf"] = {"jkt": thumbprint_of(holder)}
    headers = {"typ": "at+jwt", "kid": es256_jwk(issuer_key.public_key())["kid"]}
    return jwt.encode(claims, issuer_key, algorithm="ES256", headers=headers)


async def show(world, token: str, *proof: str, scheme: str = "DPoP", more: tuple[tuple[str, str], ...] = ()) -> Principal:
    headers = (("authorization", f"{scheme} {token}"), *(("dpop", value) for value in proof), *more)
    return await world.authenticator(arrival(*headers, at=int(world.clock.seconds)))


async def test_a_bound_token_with_its_keys_proof_is_a_person_of_proven_possession(world, tmp_path: Path) -> None:
    issuer, holder = bound_issuer(world, tmp_path), new_key()
    token = token_of(world, issuer, holder)
    for scheme in ("DPoP", "dpop"):
        principal = await show(world, token, dpop(holder, token, NOW), scheme=scheme)
        assert (principal.subject, principal.method, principal.assurance) == ("user:idp/paul", "dpop", "pop")


async def test_each_key_that_a_caller_shows_to_hold_is_an_instance_of_its_own_told_by_a_digest_alone(
    world, tmp_path: Path
) -> None:
    issuer, holder, other = bound_issuer(world, tmp_path), new_key(), new_key()
    tokens = [token_of(world, issuer, key) for key in (holder, holder, other)]
    keys = (holder, holder, other)
    found = [(await show(world, token, dpop(key, token, NOW))).instance for token, key in zip(tokens, keys, strict=True)]
    assert found[0] == found[1] != found[2]
    assert all(thumbprint_of(key) not in instance for key, instance in zip(keys, found, strict=True))
    unbound = token_of(world, issuer, None)
    assert (await show(world, unbound, scheme="Bearer")).instance == ""


async def test_a_stolen_bound_token_is_worth_nothing(world, tmp_path: Path) -> None:
    issuer, holder, thief = bound_issuer(world, tmp_path), new_key(), new_key()
    token = token_of(world, issuer, holder)
    seen = dpop(holder, token, NOW)
    await show(world, token, seen)
    assert (await refused(show(world, token, scheme="Bearer"))).challenge  # as it is known by now, and as a stranger's
    assert "another key" in (await refused(show(world, token, dpop(thief, token, NOW)))).detail
    assert "used before" in (await refused(show(world, token, seen))).detail
    assert "exactly one" in (await refused(show(world, token))).detail
    assert "ath" in (await refused(show(world, token, dpop(holder, "another", NOW)))).detail
    fresh = token_of(world, issuer, holder)
    assert (await refused(show(world, fresh, scheme="Bearer"))).challenge


async def test_an_unbound_token_is_no_bound_one_because_somebody_shows_a_proof(world, tmp_path: Path) -> None:
    issuer, anybody = bound_issuer(world, tmp_path), new_key()
    token = token_of(world, issuer, None)
    assert "or to none" in (await refused(show(world, token, dpop(anybody, token, NOW)))).detail
    assert (await show(world, token, scheme="Bearer")).assurance == "bearer"
    assert "another scheme" in (await refused(show(world, token, dpop(anybody, token, NOW), scheme="Bearer"))).detail
    alone = world.authenticator(arrival(("dpop", dpop(anybody, token, NOW))))
    assert "without a token" in (await refused(alone)).detail


async def test_an_issuer_that_must_bind_its_tokens_gives_no_others(world, tmp_path: Path) -> None:
    issuer, holder = bound_issuer(world, tmp_path, dpop="require"), new_key()
    await refused(show(world, token_of(world, issuer, None), scheme="Bearer"))
    token = token_of(world, issuer, holder)
    assert (await show(world, token, dpop(holder, token, NOW))).assurance == "pop"


async def test_a_proof_does_not_make_a_wrong_token_good(world, tmp_path: Path) -> None:
    bound_issuer(world, tmp_path)
    holder, stranger = new_key(), new_key()
    token = token_of(world, stranger, holder)
    await refused(show(world, token, dpop(holder, token, NOW)))
    for text in (world.secrets["erp"], world.assertion(), "opaque"):
        await refused(show(world, text, dpop(holder, text, NOW)))


async def test_an_agents_key_makes_its_delegation_proven_without_another_credential(world) -> None:
    token = world.delegations.mint(await world.paul(), "keyed", "c")
    principal = await show(world, token, dpop(world.key, token, NOW))
    assert (principal.subject, principal.actors, principal.method) == ("user:dev/paul", ("agent:keyed",), "delegation+dpop")
    assert principal.assurance == "bearer"  # as paul's own token was: a later hop never raises it
    strong = world.delegations.mint(replace(await world.paul(), assurance="pop"), "keyed", "c")
    assert (await show(world, strong, dpop(world.key, strong, NOW))).assurance == "pop"


async def test_a_key_that_the_agent_did_not_register_shows_no_delegation(world) -> None:
    token = world.delegations.mint(await world.paul(), "keyed", "c")
    assert "registered" in (await refused(show(world, token, dpop(new_key(), token, NOW)))).detail
    other = world.delegations.mint(await world.paul(), "erp", "c")  # an agent without any key
    assert "registered" in (await refused(show(world, other, dpop(world.key, other, NOW)))).detail


async def test_a_bound_delegation_wants_its_key_and_no_other_proof_will_do(world) -> None:
    paul, holder = await world.paul(), new_key()
    token = world.delegations.mint(paul, "erp", "c", jkt=thumbprint_of(holder))
    assert (await show(world, token, dpop(holder, token, NOW))).method == "delegation+dpop"
    assert "another key" in (await refused(show(world, token, dpop(new_key(), token, NOW)))).detail
    assert "bound to a key" in (await refused(world.bearer(world.secrets["erp"], token))).detail
    registered = world.delegations.mint(paul, "keyed", "c", jkt=thumbprint_of(holder))
    assert "another key" in (await refused(show(world, registered, dpop(world.key, registered, NOW)))).detail
    alone = world.delegations.mint(paul, "reader", "c", jkt=thumbprint_of(holder))
    assert "bound to a key" in (await refused(world.bearer(alone))).detail


async def test_a_delegation_beside_a_dpop_credential_is_refused(world) -> None:
    token = world.delegations.mint(await world.paul(), "keyed", "c")
    twice = show(world, token, dpop(world.key, token, NOW), more=(("bailiwick-delegation", token),))
    assert "beside" in (await refused(twice)).detail


async def test_the_proof_beside_a_delegation_is_good_once(world) -> None:
    token = world.delegations.mint(await world.paul(), "keyed", "c")
    proof = dpop(world.key, token, NOW)
    await show(world, token, proof)
    assert "used before" in (await refused(show(world, token, proof))).detail
