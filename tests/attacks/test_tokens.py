"""Attacks on tokens, by name: every one is refused, and the good ones beside them pass.

Sources: RFC 8725, jwt_tool's exploit switches, the published CVEs of JWT libraries, and this gateway's own delegation tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from gateway.identity.agents import new_secret
from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations
from gateway.identity.keys import b64url, es256_jwk
from gateway.model import Arrival, Principal, Refused, Trace
from gateway.reasons import Code
from gateway.settings import Agent, AgentAuth, Issuer, Keys

NOW = 1_800_000_000
URL = "https://gateway.example"
ISSUER = "https://idp.example"
KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
STRANGER = ec.generate_private_key(ec.SECP256R1())
AGENT_KEY = ec.generate_private_key(ec.SECP256R1())
DELEGATION_KEY = ec.generate_private_key(ec.SECP256R1())
KID = es256_jwk(KEY.public_key())["kid"]
AGENT_KID = es256_jwk(AGENT_KEY.public_key())["kid"]
DELEGATIONS = Delegations(DELEGATION_KEY, URL, clock=lambda: NOW * 1_000_000)
SECRETS = {name: new_secret(name) for name in ("erp", "analyst")}
PAUL = Principal("user:idp/paul", (), "acme", "wf-" + "0" * 26, NOW + 900, "bearer", "0" * 64, frozenset({"buyers"}))
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

HEADER: dict[str, object] = {"typ": "at+jwt", "alg": "ES256", "kid": KID}
CLAIMS: dict[str, object] = {
    "iss": ISSUER,
    "aud": "api",
    "sub": "paul",
    "client_id": "cli",
    "jti": "j-1",
    "iat": NOW,
    "exp": NOW + 600,
    "groups": ["buyers"],
}


def raw_sign(key: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def compact(header: bytes, payload: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    signed = f"{b64url(header)}.{b64url(payload)}"
    return f"{signed}.{b64url(raw_sign(key, signed.encode()))}"


def dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def token(header: dict[str, object] | None = None, key: ec.EllipticCurvePrivateKey = KEY, **claims: object) -> str:
    """A token signed by a key, with some members changed; a claim that is None is left out."""
    merged = {k: v for k, v in (CLAIMS | claims).items() if v is not None}
    return compact(dumps(HEADER | (header or {})), dumps(merged), key)


def raw_payload(text: str) -> str:
    return compact(dumps(HEADER), text.encode())


def raw_claims(extra: str) -> str:
    return raw_payload(dumps(CLAIMS).decode()[:-1] + extra + "}")


def raw_header(text: str) -> str:
    return compact(text.encode(), dumps(CLAIMS))


def unsigned(alg: str, signature: str = "") -> str:
    return f"{b64url(dumps(HEADER | {'alg': alg}))}.{b64url(dumps(CLAIMS))}.{signature}"


def mac(secret: bytes, alg: str = "HS256") -> str:
    signed = f"{b64url(dumps(HEADER | {'alg': alg}))}.{b64url(dumps(CLAIMS))}"
    return f"{signed}.{b64url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def signed_with(signature: bytes) -> str:
    return token().rpartition(".")[0] + "." + b64url(signature)


def rsa_token(alg: str, kid: str = "rsa") -> str:
    signed = f"{b64url(dumps(HEADER | {'alg': alg, 'kid': kid}))}.{b64url(dumps(CLAIMS))}"
    return f"{signed}.{b64url(RSA_KEY.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def noncanonical(text: str) -> str:
    """The same bytes by another last character: its unused bits are not zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) | 1]


def rsa_jwk() -> dict[str, str]:
    n = RSA_KEY.public_key().public_numbers().n
    return {"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": b64url(n.to_bytes(256, "big")), "e": "AQAB"}


PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PUBLIC_DER = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
JWK = es256_jwk(KEY.public_key())
STRANGER_JWK = es256_jwk(STRANGER.public_key())
GOOD = token()
HEAD, BODY, SIGNATURE = GOOD.split(".")

ALGORITHMS = {
    **{f"alg {alg!r} unsigned": unsigned(alg) for alg in ("none", "None", "NONE", "nOnE", "", " none")},
    "alg none with a signature": unsigned("none", SIGNATURE),
    "alg none and kept signature": unsigned("none", b64url(b"x")),
    "HS256 with the public key as PEM": mac(PUBLIC_PEM),
    "HS256 with the PEM without its newline": mac(PUBLIC_PEM.strip()),
    "HS256 with the public key as DER": mac(PUBLIC_DER),
    "HS256 with the JWK's text": mac(dumps(JWK)),
    "HS256 with x": mac(JWK["x"].encode()),
    "HS256 with x and y": mac(base64.urlsafe_b64decode(JWK["x"] + "=") + base64.urlsafe_b64decode(JWK["y"] + "=")),
    "HS256 with the kid": mac(KID.encode()),
    "HS256 with nothing": mac(b""),
    "alg ES256 over an HMAC": mac(PUBLIC_PEM, "ES256"),
    "alg RS256 with an EC key": token({"alg": "RS256"}),
    "alg ES384 with a P-256 key": token({"alg": "ES384"}),
    "alg es256 in lower case": token({"alg": "es256"}),
    "alg as a list": token({"alg": ["ES256"]}),
    "alg missing": raw_header(json.dumps({"typ": "at+jwt", "kid": KID})),
    "PS256 with a key pinned to RS256": rsa_token("PS256"),
    "RSA kid in an ES256 token": token({"kid": "rsa"}),
}
SIGNATURES = {
    "signature of zeros (CVE-2022-21449)": signed_with(bytes(64)),
    "signature r=0": signed_with(bytes(32) + b"\x01" * 32),
    "signature r=n s=n": signed_with(ORDER.to_bytes(32, "big") * 2),
    "empty signature": GOOD.rpartition(".")[0] + ".",
    "signature in DER": signed_with(KEY.sign(GOOD.rpartition(".")[0].encode(), ec.ECDSA(hashes.SHA256()))),
    "signature too long": signed_with(base64.urlsafe_b64decode(SIGNATURE + "==") + b"\0"),
    "signature cut short": signed_with(base64.urlsafe_b64decode(SIGNATURE + "==")[:-1]),
    "signature of another token": token(jti="j-2").rpartition(".")[0] + "." + SIGNATURE,
    "payload swapped": f"{HEAD}.{b64url(dumps(CLAIMS | {'sub': 'root'}))}.{SIGNATURE}",
    "header swapped": f"{b64url(dumps(HEADER | {'x5t': 'a'}))}.{BODY}.{SIGNATURE}",
    "signed by a stranger": token(key=STRANGER),
    "signed by a stranger under the stranger's kid": token({"kid": STRANGER_JWK["kid"]}, STRANGER),
}
HEADERS = {
    "jwk of a stranger inline (CVE-2018-0114)": token({"jwk": STRANGER_JWK}, STRANGER),
    "jwk of the issuer inline": token({"jwk": JWK}),
    "jku": token({"jku": "https://evil.example/jwks"}),
    "x5u": token({"x5u": "https://evil.example/x.pem"}),
    "x5c": token({"x5c": ["MIIB"]}),
    "crit of something unknown (CVE-2026-32597)": token({"crit": ["x"], "x": 1}),
    "crit empty": token({"crit": []}),
    "b64 false": token({"b64": False, "crit": ["b64"]}),
    "zip": token({"zip": "DEF"}),
    "enc": token({"enc": "A128GCM"}),
    "cty nested": token({"cty": "JWT"}),
    "kid missing": raw_header(json.dumps({"typ": "at+jwt", "alg": "ES256"})),
    "kid a number": token({"kid": 1}),
    "kid null": token({"kid": None}),
    "kid a list": token({"kid": [KID]}),
    "kid empty": token({"kid": ""}),
    "kid a path": token({"kid": "../../../../dev/null"}),
    "kid SQL": token({"kid": "x' UNION SELECT 'k'--"}),
    "kid a command": token({"kid": "|id"}),
    "kid with a null byte": token({"kid": KID + "\0"}),
    "kid of 5 kB": token({"kid": "k" * 5000}),
    "header a list": raw_header("[]"),
    "header with alg twice": raw_header(f'{{"typ":"at+jwt","alg":"none","alg":"ES256","kid":"{KID}"}}'),
    "header with alg twice, one escaped": raw_header(f'{{"typ":"at+jwt","alg":"ES256","\\u0061lg":"none","kid":"{KID}"}}'),
}
TYPES = {
    **{
        f"typ {typ}": token({"typ": typ})
        for typ in (
            "JWT", "jwt", "AT+JWT", "id_token+jwt", "dpop+jwt", "logout+jwt", "secevent+jwt", "txntoken+jwt", "oauth-id-jag+jwt",
            "token-introspection+jwt", "wf-dt+jwt", "client-authentication+jwt", "at+jwt ", "",
        )
    },
    "typ missing": raw_header(json.dumps({"alg": "ES256", "kid": KID})),
    "typ null": token({"typ": None}),
    "typ a list": token({"typ": ["at+jwt"]}),
}  # fmt: skip
TIMES = {
    **{
        f"{name} {value!r}": token(**{name: value})
        for name in ("exp", "iat", "nbf")
        for value in (str(NOW + 60), True, float(NOW + 60), [NOW + 60], -1, 10**18)
    },
    "exp missing": token(exp=None),
    "exp null": raw_payload(json.dumps(CLAIMS | {"exp": None})),
    "exp past": token(iat=NOW - 600, exp=NOW - 31),
    "exp in ten years": token(exp=NOW + 10 * 365 * 86400),
    "exp before iat": token(iat=NOW + 20, exp=NOW + 10),
    "exp NaN": raw_payload(json.dumps(CLAIMS | {"exp": float("nan")})),
    "iat missing": token(iat=None),
    "iat in an hour": token(iat=NOW + 3600, exp=NOW + 7200),
    "nbf in an hour": token(nbf=NOW + 3600),
    "exp infinite": raw_payload(json.dumps({k: v for k, v in CLAIMS.items() if k != "exp"})[:-1] + ',"exp":1e400}'),
    "exp of 5000 digits": raw_payload(
        json.dumps({k: v for k, v in CLAIMS.items() if k != "exp"})[:-1] + ',"exp":' + "9" * 5000 + "}"
    ),
}
CLAIM_SHAPES = {
    "iss of another": token(iss="https://evil.example"),
    "iss with a slash more": token(iss=ISSUER + "/"),
    "iss in another case": token(iss=ISSUER.upper()),
    "iss a list": token(iss=[ISSUER]),
    "iss missing": token(iss=None),
    "aud of another": token(aud="other-api"),
    "aud a prefix": token(aud="ap"),
    "aud with a suffix": token(aud="api.evil.example"),
    "aud empty list": token(aud=[]),
    "aud nested": token(aud=[["api"]]),
    "aud with a number": token(aud=["api", 1]),
    "aud an object": token(aud={"api": 1}),
    "aud of a hundred": token(aud=["api"] * 100),
    "aud missing": token(aud=None),
    "sub missing": token(sub=None),
    "sub empty": token(sub=""),
    "sub a number": token(sub=1),
    "sub a list": token(sub=["paul"]),
    "sub of 256": token(sub="s" * 256),
    "sub with a newline": token(sub="paul\n"),
    "sub with a null byte": token(sub="paul\0root"),
    "sub with a space before": token(sub=" paul"),
    "sub with a text direction mark": token(sub="paul\u202e"),
    "sub half a character": raw_payload(json.dumps(CLAIMS).replace('"paul"', '"\\ud800"')),
    "client_id missing": token(client_id=None),
    "client_id of nobody": token(client_id="evil"),
    "client_id a list": token(client_id=["cli"]),
    "azp in place of client_id": token(client_id=None, azp="cli"),
    "groups a text": token(groups="buyers"),
    "groups an object": token(groups={"buyers": True}),
    "groups with a number": token(groups=["buyers", 1]),
    "groups null": raw_payload(json.dumps(CLAIMS | {"groups": None})),
    "groups of a thousand": token(groups=[str(n) for n in range(1000)]),
    "groups kept elsewhere": token(groups=None, _claim_names={"groups": "src1"}),
    "groups overflow mark": token(groups=None, hasgroups=True),
    "jti a number": token(jti=1),
    "jti of 10 kB": token(jti="j" * 10_000),
    "bound to a key (DPoP)": token(cnf={"jkt": "x"}),
    "bound to a key, shown as if it were not": token(cnf={"jkt": "A" * 43}),
    "bound to a certificate": token(cnf={"x5t#S256": "A" * 43}),
    "bound to two": token(cnf={"jkt": "A" * 43, "x5t#S256": "A" * 43}),
    "bound to a key inside": token(cnf={"jwk": {"kty": "EC"}}),
    "bound to nothing": token(cnf={}),
    "cnf null": raw_payload(json.dumps(CLAIMS | {"cnf": None})),
    "cid in place of client_id": token(client_id=None, cid="cli"),
    "appid in place of client_id": token(client_id=None, appid="cli"),
    "scope of lists": token(scope=[["a"]]),
    "scope an object": token(scope={"a": 1}),
    "scope with a control character": token(scope="a\u0001"),
    "scopes of a thousand": token(scope=" ".join(str(n) for n in range(1000))),
    "claim names a text": token(_claim_names="groups"),
    "delegated elsewhere": token(act={"sub": "evil"}),
    "a security event": token(events={}),
    "sub twice": raw_claims(',"sub":"root"'),
    "sub twice, one escaped": raw_claims(',"s\\u0075b":"root"'),
    "aud twice": raw_claims(',"aud":"api"'),
    "a nested member twice": raw_claims(',"x":{"a":1,"a":2}'),
    "payload a list": raw_payload("[]"),
    "payload empty": raw_payload(""),
    "payload a text": raw_payload('"x"'),
    "payload UTF-16": compact(dumps(HEADER), json.dumps(CLAIMS).encode("utf-16")),
    "payload with a byte order mark": compact(dumps(HEADER), b"\xef\xbb\xbf" + dumps(CLAIMS)),
    "payload not UTF-8": compact(dumps(HEADER), dumps(CLAIMS) + b"\xff"),
}
FORMS = {
    "trailing newline": GOOD + "\n",
    "leading space": " " + GOOD,
    "padding": GOOD + "==",
    "padding on the header": f"{HEAD}=.{BODY}.{SIGNATURE}",
    "newline inside": GOOD[:20] + "\n" + GOOD[20:],
    "not canonical": noncanonical(GOOD),
    "standard base64": GOOD.replace("-", "+").replace("_", "/") if "-" in GOOD or "_" in GOOD else GOOD + "+",
    "two parts": f"{HEAD}.{BODY}",
    "four parts": GOOD + ".AA",
    "five parts (JWE)": f"{HEAD}.AA.AA.AA.AA",
    "empty parts": "..",
    "JSON serialisation": json.dumps({"protected": HEAD, "payload": BODY, "signature": SIGNATURE}),
    "detached payload": f"{HEAD}..{SIGNATURE}",
    "quoted": f'"{GOOD}"',
    "two tokens": f"{GOOD},{GOOD}",
    "Unicode dots": GOOD.replace(".", "\uff0e"),
    "a payload of 1 MB": token(x="y" * 1_000_000),
    "depth 3000": raw_claims(',"x":' + "[" * 3000 + "]" * 3000),
    "a token in a token": compact(dumps(HEADER), GOOD.encode()),
}
ATTACKS = ALGORITHMS | SIGNATURES | HEADERS | TYPES | TIMES | CLAIM_SHAPES | FORMS

GOOD_ONES = {
    "as it should be": GOOD,
    "typ with application/": token({"typ": "application/at+jwt"}),
    "aud a list": token(aud=["other", "api"]),
    "a certificate thumbprint": token({"x5t": "abc"}),
    "RS256 with its key": rsa_token("RS256"),
    "no groups": token(groups=None),
    "thirty seconds of another clock": token(iat=NOW + 30, nbf=NOW + 30),
    "an agent's client": token(client_id="analyst-app"),
    "the other ES256 signature": signed_with(
        base64.urlsafe_b64decode(SIGNATURE + "==")[:32]
        + (ORDER - int.from_bytes(base64.urlsafe_b64decode(SIGNATURE + "==")[32:], "big")).to_bytes(32, "big")
    ),
}


@pytest.fixture(scope="module")
def authenticator(tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    folder: Path = tmp_path_factory.mktemp("keys")
    (folder / "idp.json").write_text(json.dumps({"keys": [JWK, rsa_jwk()]}))
    (folder / "agent.json").write_text(json.dumps({"keys": [es256_jwk(AGENT_KEY.public_key())]}))
    issuer = Issuer(
        alias="idp", issuer=ISSUER, audience="api", jwks=Keys(file=folder / "idp.json"), direct_clients=("cli",),
        algorithms=("ES256", "ES384", "RS256", "PS256"),
    )  # fmt: skip
    agents = {
        "erp": Agent(auth=AgentAuth(secret_sha256=(SECRETS["erp"][1],))),
        "analyst": Agent(auth=AgentAuth(secret_sha256=(SECRETS["analyst"][1],)), client_ids=("analyst-app",)),
        "keyed": Agent(auth=AgentAuth(jwks=Keys(file=folder / "agent.json"))),
        "open": Agent(auth=AgentAuth(bearer_ok=True)),
    }
    return Authenticator(
        tenant="acme", public_url=URL, issuers=[issuer], agents=agents, delegations=DELEGATIONS, clock=lambda: NOW * 1_000_000
    )


async def ask(authenticator: Authenticator, *headers: tuple[str, str]) -> Principal:
    return await authenticator(Arrival("id", "mcp", "erp", headers, b"", NOW * 1_000_000, Trace("1", "1")))


async def assert_refused(authenticator: Authenticator, *headers: tuple[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        await ask(authenticator, *headers)
    assert caught.value.code is Code.INVALID_CREDENTIAL


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
async def test_an_attack_with_an_access_token_is_refused(authenticator: Authenticator, text: str) -> None:
    await assert_refused(authenticator, ("authorization", f"Bearer {text}"))
    await assert_refused(authenticator, ("bailiwick-delegation", text))
    await assert_refused(authenticator, ("authorization", f"Bearer {SECRETS['erp'][0]}"), ("bailiwick-delegation", text))


@pytest.mark.parametrize("text", GOOD_ONES.values(), ids=GOOD_ONES)
async def test_a_good_token_beside_the_attacks_passes(authenticator: Authenticator, text: str) -> None:
    assert (await ask(authenticator, ("authorization", f"Bearer {text}"))).subject == "user:idp/paul"


def test_the_corpus_is_large_and_every_attack_is_another_text() -> None:
    assert len(set(ATTACKS.values())) == len(ATTACKS) >= 150
    assert not set(ATTACKS.values()) & set(GOOD_ONES.values())


HEADER_ATTACKS: dict[str, list[tuple[str, str]]] = {
    "two Authorization headers": [("authorization", f"Bearer {GOOD}"), ("authorization", f"Bearer {GOOD}")],
    "two credentials in one header": [("authorization", f"Bearer {GOOD}, Bearer {GOOD}")],
    "Basic": [("authorization", "Basic " + base64.b64encode(b"paul:x").decode())],
    "DPoP": [("authorization", f"DPoP {GOOD}")],
    "no scheme": [("authorization", GOOD)],
    "scheme alone": [("authorization", "Bearer")],
    "scheme and spaces": [("authorization", "Bearer   ")],
    "two spaces": [("authorization", f"Bearer  {GOOD}")],
    "tab": [("authorization", f"Bearer\t{GOOD}")],
    "empty delegation": [("bailiwick-delegation", "")],
    "access token beside a delegation": [
        ("authorization", f"Bearer {GOOD}"),
        ("bailiwick-delegation", DELEGATIONS.mint(PAUL, "open", "c")),
    ],
    "agent's secret as a delegation": [("bailiwick-delegation", SECRETS["erp"][0])],
    "agent's secret cut short": [("authorization", f"Bearer {SECRETS['erp'][0][:-1]}")],
    "agent's secret made longer": [("authorization", f"Bearer {SECRETS['erp'][0]}A")],
    "agent's secret under another name": [("authorization", f"Bearer {SECRETS['erp'][0].replace('erp', 'analyst', 1)}")],
    "secret's digest as the secret": [("authorization", f"Bearer bws_erp_{SECRETS['erp'][1][:43]}")],
    "bearer in the delegation header": [("bailiwick-delegation", "Bearer x")],
}  # fmt: skip


@pytest.mark.parametrize("headers", HEADER_ATTACKS.values(), ids=HEADER_ATTACKS)
async def test_an_attack_with_headers_is_refused(authenticator: Authenticator, headers: list[tuple[str, str]]) -> None:
    await assert_refused(authenticator, *headers)


ANALYST = replace(PAUL, actors=("agent:analyst",), path=("p-1",))
MINTED = DELEGATIONS.mint(ANALYST, "erp", "call")


def parts(text: str) -> tuple[dict[str, object], dict[str, object]]:
    header, payload = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in text.split(".")[:2])
    return header, payload


def remade(key: ec.EllipticCurvePrivateKey = DELEGATION_KEY, header: dict[str, object] | None = None, **claims: object) -> str:
    """The delegation token with members changed and signed again: by us (an old release, a bug) or by somebody else."""
    head, body = parts(MINTED)
    return compact(dumps(head | (header or {})), dumps({k: v for k, v in (body | claims).items() if v is not None}), key)


def swapped(**claims: object) -> str:
    """The delegation token with members changed under its old signature."""
    header, _, signature = MINTED.split(".")
    return f"{header}.{b64url(dumps(parts(MINTED)[1] | claims))}.{signature}"


def elsewhere(url: str, at: int) -> str:
    """A token of a gateway with the same key but another address or time."""
    return Delegations(DELEGATION_KEY, url, clock=lambda: at * 1_000_000).mint(ANALYST, "erp", "call")


DELEGATION_ATTACKS: dict[str, str] = {
    "the parent's token in the child's hands": DELEGATIONS.mint(PAUL, "analyst", "call"),
    "another agent's token": DELEGATIONS.mint(PAUL, "keyed", "call"),
    "a token for an agent that may bear it": DELEGATIONS.mint(PAUL, "open", "call"),
    "ended": elsewhere(URL, NOW - 400),
    "of tomorrow": remade(iat=NOW + 60, exp=NOW + 200),
    "signed by the agent's own key": remade(AGENT_KEY),
    "signed by the agent under the agent's kid": remade(AGENT_KEY, {"kid": AGENT_KID}),
    "signed by the identity provider": remade(KEY, {"kid": KID}),
    "an access token": GOOD,
    "an access token with the delegation's typ": token({"typ": "wf-dt+jwt"}),
    "a delegation with the access token's typ": remade(header={"typ": "at+jwt"}),
    "a delegation called JWT": remade(header={"typ": "JWT"}),
    "another gateway's": elsewhere("https://other.example", NOW),
    "of another issuer": remade(iss="https://other.example"),
    "for another audience": remade(aud="https://other.example"),
    "another tenant's": DELEGATIONS.mint(replace(ANALYST, tenant="other"), "erp", "call"),
    "person changed, signature kept": swapped(sub="user:idp/root"),
    "groups added, signature kept": swapped(groups=["root"]),
    "chain shortened": remade(chain=["agent:erp"], path=["p-1", parts(MINTED)[1]["jti"]]),
    "chain with the agent twice": remade(chain=["agent:erp", "agent:analyst", "agent:erp"]),
    "chain empty": remade(chain=[], path=[]),
    "chain of a person": remade(chain=["user:idp/x", "agent:erp"]),
    "chain with an agent nobody registered": remade(chain=["agent:ghost", "agent:erp"]),
    "chain of seventeen": remade(chain=[f"agent:a{n}" for n in range(16)] + ["agent:erp"]),
    "cnf of another agent": remade(cnf={"agent": "analyst"}),
    "cnf of a key": remade(cnf={"jkt": "x"}),
    "cnf missing": remade(cnf=None),
    "a claim more": remade(root=True),
    "a scope that is no text": remade(scope=["*"]),
    "ends missing": remade(ends=None),
    "ends before exp": remade(ends=NOW + 10),
    "the person's time is over": remade(ends=NOW - 1, exp=NOW - 1, iat=NOW - 100),
    "exp in an hour": remade(exp=NOW + 3600, ends=NOW + 7200),
    "left negative": remade(left=-1),
    "left a hundred": remade(left=100),
    "left true": remade(left=True),
    "subject without a kind": remade(sub="paul"),
    "subject an agent": remade(sub="agent:erp"),
    "subject with a newline": remade(sub="user:idp/paul\n"),
    "workflow of another form": remade(wf="wf-x"),
    "path that does not end here": remade(path=["p-1", "p-2"]),
    "path empty": remade(path=[]),
    "jti missing": remade(jti=None),
    "padded": MINTED + "=",
    "trailing newline": MINTED + "\n",
    "trailing dot": MINTED + ".",
}  # fmt: skip


@pytest.mark.parametrize("text", DELEGATION_ATTACKS.values(), ids=DELEGATION_ATTACKS)
async def test_an_attack_with_a_delegation_is_refused(authenticator: Authenticator, text: str) -> None:
    secret = ("authorization", f"Bearer {SECRETS['erp'][0]}")
    await assert_refused(authenticator, secret, ("bailiwick-delegation", text))


@pytest.mark.parametrize("agent", ["erp", "analyst", "keyed"])
async def test_a_stolen_delegation_alone_is_worth_nothing(authenticator: Authenticator, agent: str) -> None:
    stolen = DELEGATIONS.mint(PAUL, agent, "call")
    await assert_refused(authenticator, ("authorization", f"Bearer {stolen}"))
    await assert_refused(authenticator, ("bailiwick-delegation", stolen))
    thief = "analyst" if agent == "erp" else "erp"
    await assert_refused(authenticator, ("authorization", f"Bearer {SECRETS[thief][0]}"), ("bailiwick-delegation", stolen))


async def test_the_good_delegation_beside_the_attacks_passes(authenticator: Authenticator) -> None:
    for good in (MINTED, remade()):
        principal = await ask(authenticator, ("authorization", f"Bearer {SECRETS['erp'][0]}"), ("bailiwick-delegation", good))
        assert (principal.subject, principal.actors) == ("user:idp/paul", ("agent:analyst", "agent:erp"))


async def test_the_same_delegation_read_as_known_is_still_refused_to_another_agent(authenticator: Authenticator) -> None:
    token_of_erp = DELEGATIONS.mint(PAUL, "erp", "call")
    await ask(authenticator, ("authorization", f"Bearer {SECRETS['erp'][0]}"), ("bailiwick-delegation", token_of_erp))
    await assert_refused(
        authenticator, ("authorization", f"Bearer {SECRETS['analyst'][0]}"), ("bailiwick-delegation", token_of_erp)
    )


def assertion(header: dict[str, object] | None = None, key: ec.EllipticCurvePrivateKey = AGENT_KEY, **claims: object) -> str:
    base: dict[str, object] = {"iss": "keyed", "sub": "keyed", "aud": URL, "iat": NOW, "exp": NOW + 60, "jti": "a-1"}
    head: dict[str, object] = {"typ": "client-authentication+jwt", "alg": "ES256", "kid": AGENT_KID}
    return compact(dumps(head | (header or {})), dumps({k: v for k, v in (base | claims).items() if v is not None}), key)


ASSERTION_ATTACKS: dict[str, Callable[[], str]] = {
    "of a person": lambda: assertion(sub="paul"),
    "for another agent": lambda: assertion(sub="erp"),
    "by an agent without a key": lambda: assertion(iss="erp", sub="erp"),
    "by nobody": lambda: assertion(iss="ghost", sub="ghost"),
    "iss a list": lambda: assertion(iss=["keyed"]),
    "for another gateway": lambda: assertion(aud="https://other.example"),
    "for two audiences": lambda: assertion(aud=[URL, "https://other.example"]),
    "for a list of one": lambda: assertion(aud=[URL]),
    "living 61 seconds": lambda: assertion(exp=NOW + 61),
    "ended": lambda: assertion(iat=NOW - 90, exp=NOW - 30),
    "without jti": lambda: assertion(jti=None),
    "jti of 129": lambda: assertion(jti="j" * 129),
    "called JWT": lambda: assertion({"typ": "JWT"}),
    "signed by another": lambda: assertion(key=STRANGER),
    "signed by the identity provider": lambda: assertion({"kid": KID}, KEY),
    "unsigned": lambda: assertion({"alg": "none"}).rpartition(".")[0] + ".",
}


@pytest.mark.parametrize("make", ASSERTION_ATTACKS.values(), ids=ASSERTION_ATTACKS)
async def test_an_attack_with_an_agents_assertion_is_refused(authenticator: Authenticator, make: Callable[[], str]) -> None:
    await assert_refused(authenticator, ("authorization", f"Bearer {make()}"))


async def test_the_good_assertion_beside_the_attacks_passes_once(authenticator: Authenticator) -> None:
    good = assertion(jti="once")
    assert (await ask(authenticator, ("authorization", f"Bearer {good}"))).subject == "svc:keyed"
    await assert_refused(authenticator, ("authorization", f"Bearer {good}"))
    await assert_refused(authenticator, ("authorization", f"Bearer {assertion(jti='once', exp=NOW + 59)}"))


def test_the_corpus_knows_attacks_that_a_plain_decode_accepts() -> None:
    """Against vacuity: a library called with allow-listed algorithms, issuer and audience lets some of these through."""
    accepted = []
    for name, text in (HEADERS | TYPES | CLAIM_SHAPES | FORMS).items():
        try:
            jwt.decode(
                text, KEY.public_key(), ["ES256"], audience="api", issuer=ISSUER,
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, RecursionError):
            continue
        accepted.append(name)
    assert len(accepted) > 20, accepted
