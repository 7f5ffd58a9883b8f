"""A certified identity provider as a process on loopback, its people's browsers, and the clients that hold their tokens."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import secrets
import shutil
import struct
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm

from gateway.identity.keys import b64url, es256_jwk
from tests import npm

FOLDER = Path(__file__).resolve().parent
REDIRECT = "http://127.0.0.1:9/callback"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
OPAQUE, ELSEWHERE, RSA_SIGNED, LEDGERS = "urn:test:opaque", "urn:test:elsewhere", "urn:test:rsa", "urn:test:ledgers"
PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "paul": {"groups": ["procurement-managers"], "department": "procurement"},
    "mia": {"groups": ["marketing-managers"], "department": "marketing"},
}
TTL = 3600
WAIT_SECONDS = 60


def installed() -> None:
    """The provider's packages, in `node_modules` beside this file as the lock file names them; a loud skip without npm."""
    npm.installed(FOLDER, "the identity provider")


class EcKey:
    """A P-256 key of somebody: of the provider, of a client, of a DPoP proof."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.public_jwk = dict(es256_jwk(self.private.public_key()))
        d = self.private.private_numbers().private_value.to_bytes(32, "big")
        self.jwk = self.public_jwk | {"d": b64url(d), "alg": "ES256", "use": "sig"}
        self.kid = self.public_jwk["kid"]

    def sign(self, claims: Mapping[str, Any], **headers: Any) -> str:
        """A compact JWS."""
        return jwt.encode(dict(claims), self.private, algorithm="ES256", headers=headers)

    def assertion(self, issuer: str, audience: str, lifetime: int = 60, typ: str = "JWT") -> str:
        """A client's own assertion (RFC 7523)."""
        now = int(time.time())
        claims = {"iss": issuer, "sub": issuer, "aud": audience, "iat": now, "exp": now + lifetime, "jti": str(uuid.uuid4())}
        return self.sign(claims, typ=typ, kid=self.kid)

    def proof(self, method: str, url: str, token: str = "", ahead: int = 0) -> str:
        """A DPoP proof (RFC 9449) of one request."""
        claims = {"htm": method, "htu": url, "iat": int(time.time()) + ahead, "jti": str(uuid.uuid4())}
        if token:
            claims["ath"] = b64url(hashlib.sha256(token.encode()).digest())
        jwk = {name: value for name, value in self.public_jwk.items() if name in {"kty", "crv", "x", "y"}}
        return self.sign(claims, typ="dpop+jwt", jwk=jwk)

    @property
    def thumbprint(self) -> str:
        """RFC 7638."""
        members = {name: self.public_jwk[name] for name in ("crv", "kty", "x", "y")}
        return b64url(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def rsa_jwk() -> dict[str, Any]:
    """A fresh private RSA key."""
    jwk = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    return {name: value for name, value in jwk.items() if name != "key_ops"} | {
        "kid": secrets.token_hex(8), "alg": "RS256", "use": "sig",
    }  # fmt: skip


class Clock:
    """The hand on another process's clock."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(struct.pack("<q", 0))

    @property
    def environment(self) -> dict[str, str]:
        """With these variables a Python process reads it."""
        return {"CLOCK_FILE": str(self._file), "PYTHONPATH": str(FOLDER / "clock")}

    def ahead(self, seconds: int) -> None:
        """That many seconds have passed since the process began, beside the true ones."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("<q", seconds))


class Idp:
    """The provider; the key that signs is the first of `keys`."""

    def __init__(self, audience: str) -> None:
        self.audience = audience
        self.trusts = ""
        """Issuer of another provider, whose assertions (ID-JAG) it redeems."""
        self.redirects: tuple[str, ...] = ()
        """Where `gateway-web`, the gateway's client for people in a browser, may be sent back to."""
        self.keys = [EcKey()]
        self.rsa = rsa_jwk()
        self.app_key, self.gateway_key = EcKey(), EcKey()
        self.gateway_secret = secrets.token_urlsafe(32)
        self.issuer, self.port = "", 0
        self.ahead = 0
        self._control = secrets.token_urlsafe(32)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Idp:
        """Start it, on the port that it had before, if it had one."""
        node = shutil.which("node")
        assert node is not None
        environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        self._process = subprocess.Popen(
            [node, "--no-warnings", str(FOLDER / "server.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=environment | {"NODE_ENV": "test"}, cwd=FOLDER,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdin as settings:
            json.dump(self._settings(), settings)
        said = self._process.stdout.readline()
        assert said, f"the provider ended: {self._process.wait(WAIT_SECONDS)}"
        self.issuer = json.loads(said)["issuer"]
        self.port = urlsplit(self.issuer).port or 0
        if self.ahead:
            self.turn_clock(self.ahead)
        return self

    def stop(self) -> None:
        """End it; whoever asks it is refused the connection."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    @property
    def runs(self) -> bool:
        """Whether it can be asked."""
        return self._process is not None

    def _settings(self) -> dict[str, Any]:
        code = {"redirect_uris": [REDIRECT], "response_types": ["code"]}
        grants = ["authorization_code", "refresh_token", DEVICE_CODE]
        public = code | {"grant_types": grants, "application_type": "native", "token_endpoint_auth_method": "none"}
        app = code | {
            "grant_types": [*grants, "client_credentials"],
            "application_type": "native",
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES256",
            "jwks": {"keys": [self.app_key.public_jwk]},
        }
        grants_of_gateway = [EXCHANGE, "client_credentials", *([JWT_BEARER] if self.trusts else [])]
        gateway = {"grant_types": grants_of_gateway, "redirect_uris": [], "response_types": []}
        web = {
            "client_id": "gateway-web",
            "client_secret": self.gateway_secret,
            "redirect_uris": list(self.redirects),
            "token_endpoint_auth_method": "client_secret_basic",
        }
        scope = "tools"
        return {
            "port": self.port,
            "control": self._control,
            "keys": self._private_keys(),
            "people": PEOPLE,
            "ttl": TTL,
            "trusts": self.trusts,
            "clients": [
                public | {"client_id": "desk"},
                public | {"client_id": "stranger"},
                app | {"client_id": "clerk-app"},
                gateway | {"client_id": "gateway", "client_secret": self.gateway_secret},
                *([public | web] if self.redirects else []),
                gateway
                | {
                    "client_id": "gateway-key",
                    "token_endpoint_auth_method": "private_key_jwt",
                    "token_endpoint_auth_signing_alg": "ES256",
                    "jwks": {"keys": [self.gateway_key.public_jwk]},
                },
            ],
            "resources": {
                self.audience: {"audience": self.audience, "scope": scope},
                f"{self.audience}/mcp/desk": {
                    "audience": f"{self.audience}/mcp/desk",
                    "scope": scope,
                },  # as MCP clients ask (RFC 8707)
                RSA_SIGNED: {"audience": self.audience, "scope": scope, "alg": "RS256"},
                OPAQUE: {"audience": self.audience, "scope": scope, "format": "opaque"},
                ELSEWHERE: {"audience": "https://elsewhere.example", "scope": scope},
                LEDGERS: {"audience": "https://ledgers.example", "scope": "ledgers.read"},
            },
        }

    def _private_keys(self) -> list[Mapping[str, Any]]:
        return [*(key.jwk for key in self.keys), self.rsa]

    def turn_keys(self, *, keep: int = 1) -> EcKey:
        """Sign with a new key from now on; `keep` of the former ones are still published."""
        self.keys = [EcKey(), *self.keys[:keep]]
        self.control(keys=self._private_keys())
        return self.keys[0]

    def turn_clock(self, ahead: int) -> None:
        """By so many seconds its clock is before the true time."""
        self.ahead = ahead
        self.control(ahead=ahead)

    def control(self, **said: Any) -> None:
        """`ahead`, `people`, `keys`: as the server takes them."""
        headers = {"control": self._control}
        httpx.post(f"{self.issuer}/control", json=said, headers=headers, trust_env=False).raise_for_status()

    def login(
        self, person: str, client: str = "desk", *, resource: str = "", scope: str = "openid offline_access tools",
        key: EcKey | None = None, verifier: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Sign in as a browser does, consent, and redeem the code; with `key`, for tokens bound to it (DPoP)."""
        sent = secrets.token_urlsafe(48)
        resource = resource or self.audience
        code = self.authorize(person, client, sent, resource, scope)
        data = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": verifier or sent}
        return self.token(client, data | {"resource": resource}, key=key).raise_for_status().json()

    def authorize(self, person: str, client: str, verifier: str, resource: str, scope: str) -> str:
        """The code that the browser brings back."""
        challenge = b64url(hashlib.sha256(verifier.encode()).digest())
        asked = {
            "client_id": client, "response_type": "code", "redirect_uri": REDIRECT, "scope": scope, "resource": resource,
            "code_challenge": challenge, "code_challenge_method": "S256", "state": "s", "prompt": "consent",
        }  # fmt: skip
        with httpx.Client(base_url=self.issuer, trust_env=False) as browser:
            answer = browser.get("/auth", params=asked)
            for _ in range(16):
                if not answer.is_redirect:
                    action, filled = form(answer, person)
                    answer = browser.post(action, data=filled)
                    continue
                location = urljoin(str(answer.url), answer.headers["location"])
                if location.startswith(REDIRECT):
                    back = parse_qs(urlsplit(location).query)
                    assert back["iss"] == [self.issuer]  # RFC 9207
                    return back["code"][0]
                answer = browser.get(location)
        pytest.fail(f"the browser never came back: {answer.status_code} {answer.text[:500]}")

    def by_device(self, person: str, client: str = "desk") -> dict[str, Any]:
        """Sign in on another machine than the one that asks (RFC 8628)."""
        asked = {"client_id": client, "scope": "openid tools", "resource": self.audience}
        begun = httpx.post(f"{self.issuer}/device/auth", data=asked, trust_env=False).raise_for_status().json()
        wanted = {"grant_type": DEVICE_CODE, "device_code": begun["device_code"]}
        assert self.token(client, wanted).json()["error"] == "authorization_pending"
        with httpx.Client(base_url=self.issuer, trust_env=False, follow_redirects=True) as browser:
            page = browser.get(begun["verification_uri_complete"])
            for _ in range(8):
                if "<form" not in page.text:
                    return self.token(client, wanted).raise_for_status().json()
                action, filled = form(page, person)
                page = browser.post(action, data=filled)
        pytest.fail(f"no end of it: {page.url}")

    def token(self, client: str, data: Mapping[str, str], key: EcKey | None = None) -> httpx.Response:
        """Ask the token endpoint as one of the clients."""
        url = f"{self.issuer}/token"
        headers = {"DPoP": key.proof("POST", url, ahead=self.ahead)} if key is not None else {}
        return httpx.post(url, data=dict(data) | self._shown(client), headers=headers, trust_env=False)

    def refresh(self, tokens: Mapping[str, Any], client: str = "desk", key: EcKey | None = None) -> dict[str, Any]:
        """The next token of a session."""
        data = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        return self.token(client, data, key).raise_for_status().json()

    def revoke(self, token: str, client: str = "desk") -> None:
        """RFC 7009."""
        data = {"token": token} | self._shown(client)
        httpx.post(f"{self.issuer}/token/revocation", data=data, trust_env=False).raise_for_status()

    def introspect(self, token: str) -> dict[str, Any]:
        """RFC 7662, as the gateway's client."""
        data = {"token": token} | self._shown("gateway")
        return httpx.post(f"{self.issuer}/token/introspection", data=data, trust_env=False).raise_for_status().json()

    def _shown(self, client: str) -> dict[str, str]:
        """How a client proves itself."""
        if client == "gateway":
            return {"client_id": client, "client_secret": self.gateway_secret}
        key = {"clerk-app": self.app_key, "gateway-key": self.gateway_key}.get(client)
        if key is None:
            return {"client_id": client}
        return {"client_id": client, "client_assertion_type": ASSERTION, "client_assertion": key.assertion(client, self.issuer)}


def form(page: httpx.Response, person: str) -> tuple[str, dict[str, str]]:
    """Where the page's form goes, and what this person writes into it."""
    action = re.search(r'<form[^>]* action="([^"]+)"', page.text)
    assert action, f"{page.status_code} {page.text[:2000]}"
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    return html.unescape(action[1]), hidden | {"login": person, "password": "any", "confirm": "yes"}


def claims_of(token: str) -> dict[str, Any]:
    """What a JWT says, unverified."""
    part = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded
