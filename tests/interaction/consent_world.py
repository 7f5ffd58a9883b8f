"""A person's identity provider and an upstream's authorization server on real sockets, and a browser that people sit at."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.keys import es256_jwk
from tests.interaction.world import AGENTS, TENANT, Gateway, Peers

GROUPS = ["procurement-managers"]
BROWSER, NOTES = ("bailiwick-browser", "the browser's secret"), ("bailiwick-notes", "the secret at notes")
SCOPE = "notes.read notes.write"
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Code:
    """An authorization code, and what it is bound to."""

    client: str
    redirect_uri: str
    challenge: str
    login: str
    nonce: str = ""
    used: bool = False


@dataclass
class Servers:
    """`/op` is people's OpenID provider, `/as` the upstream's authorization server.  Both know who sits there by a cookie.

    lifetime   of access tokens, in seconds.
    requests   of tokens at `/as`, in order.
    says_iss   what `/as` calls itself in its answers; "" where it does not.
    id_claims  what ID tokens say otherwise.
    before     is called before a token request is answered.
    """

    port: int = 0
    lifetime: int = 3600
    says_iss: str = "own"
    id_claims: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)
    refresh: dict[str, str] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    access: dict[str, str] = field(default_factory=dict)
    before: Callable[[dict[str, str]], None] = lambda _: None
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def issuer(self) -> str:
        return f"{self.url}/op"

    def token(self, person: str, audience: str, client: str = "person-cli", **claims: Any) -> str:
        """A person's access token for the gateway: the start of a workflow of its own."""
        now = int(time.time())
        said = {"iss": self.issuer, "aud": audience, "sub": person, "client_id": client, "groups": GROUPS, "iat": now}
        return self.signed("at+jwt", {**said, "exp": now + 3600, "jti": secrets.token_hex(8), **claims})

    def signed(self, typ: str, claims: dict[str, Any]) -> str:
        headers = {"typ": typ, "kid": es256_jwk(self.key.public_key())["kid"]}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, self.key, algorithm="ES256", headers=headers)

    def get(self, path: str, query: dict[str, str], login: str) -> Answer:
        if path == "/op/.well-known/openid-configuration":
            ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
            metadata: dict[str, Any] = {name: f"{self.issuer}/{end}" for name, end in ends.items()}
            metadata["authorization_response_iss_parameter_supported"] = True
            return _json(200, {"issuer": self.issuer, **metadata})
        if path == "/op/jwks":
            return _json(200, {"keys": [es256_jwk(self.key.public_key())]})
        if path in {"/op/authorize", "/as/authorize"}:
            return self._authorize(path, query, login)
        return 404, {}, b""

    def _authorize(self, path: str, query: dict[str, str], login: str) -> Answer:
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        client, back = query["client_id"], query["redirect_uri"]
        self.codes[code] = Code(client, back, query["code_challenge"], login, query.get("nonce", ""))
        said = {"state": query["state"]}
        if path.startswith("/op"):
            said |= {"iss": self.issuer, "code": code}
        else:
            assert query["scope"] == SCOPE
            assert query["resource"] == f"{self.url}/notes"
            said |= {"error": "access_denied"} if login == "no" else {"code": code}
            if self.says_iss:
                said["iss"] = f"{self.url}/as" if self.says_iss == "own" else self.says_iss
        return 302, {"Location": f"{back}?{urlencode(said)}"}, b""

    def post(self, path: str, form: dict[str, str], authorization: str) -> Answer:
        pair = base64.b64encode(":".join(_encoded(BROWSER if path == "/op/token" else NOTES)).encode()).decode()
        if authorization != f"Basic {pair}":
            return _json(401, {"error": "invalid_client"})
        if path == "/op/token":
            return self._identify(form)
        self.before(form)
        with self.lock:
            self.requests.append(form)
            return self._refreshed(form) if form["grant_type"] == "refresh_token" else self._given(form)

    def _code(self, form: dict[str, str]) -> Code | None:
        code = self.codes.get(form["code"])
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if code is None or code.used or code.challenge != challenge or code.redirect_uri != form["redirect_uri"]:
            return None
        code.used = True
        return code

    def _identify(self, form: dict[str, str]) -> Answer:
        code = self._code(form)
        if code is None:
            return _json(400, {"error": "invalid_grant"})
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": code.client, "sub": code.login, "nonce": code.nonce, "iat": now, "exp": now + 60}
        token = self.signed(self.id_claims.get("typ", "JWT"), claims | {k: v for k, v in self.id_claims.items() if k != "typ"})
        return _json(200, {"access_token": "unused", "token_type": "Bearer", "id_token": token})

    def _given(self, form: dict[str, str]) -> Answer:
        code = self._code(form)
        return _json(400, {"error": "invalid_grant"}) if code is None else self._tokens(code.login)

    def _refreshed(self, form: dict[str, str]) -> Answer:
        shown = form["refresh_token"]
        login = self.refresh.pop(shown, None)
        if login is None:
            if shown in self.spent:  # a stolen one, as far as the server can tell: everything of the family goes
                self.refresh.clear()
            return _json(400, {"error": "invalid_grant"})
        self.spent.add(shown)
        return self._tokens(login)

    def _tokens(self, login: str) -> Answer:
        access, refresh = f"at-{secrets.token_urlsafe(12)}", f"rt-{secrets.token_urlsafe(12)}"
        self.access[access], self.refresh[refresh] = login, login
        body = {"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": self.lifetime}
        return _json(200, {**body, "scope": SCOPE})


def _encoded(pair: tuple[str, str]) -> list[str]:
    return [urlencode({"": part})[1:] for part in pair]


def _json(status: int, value: dict[str, Any]) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def servers() -> Iterator[Servers]:
    """Both, on a loopback port."""
    world = Servers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts, cookie = urlsplit(self.path), SimpleCookie(self.headers.get("Cookie", ""))
            login = cookie["login"].value if "login" in cookie else ""
            self._say(world.get(parts.path, dict(parse_qsl(parts.query)), login))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body, strict_parsing=True).items()}
            self._say(world.post(self.path, form, self.headers.get("Authorization", "")))

        def _say(self, answer: Answer) -> None:
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    world.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Person:
    """Somebody at a browser, logged in everywhere as `login`."""

    everybody: ClassVar[list[Person]] = []

    def __init__(self, login: str) -> None:
        self.everybody.append(self)
        self.http = httpx.Client(cookies={"login": login}, trust_env=False, timeout=30)
        self.seen: list[str] = []

    @classmethod
    def leave(cls) -> None:
        """Everybody closes their browser."""
        while cls.everybody:
            cls.everybody.pop().http.close()

    def open(self, url: str) -> httpx.Response:
        """A page, wherever redirects lead; every URL is kept in `seen`."""
        while True:
            self.seen.append(url)
            answer = self.http.get(url)
            if not answer.is_redirect:
                return answer
            url = str(answer.next_request.url) if answer.next_request else ""

    def say(self, page: httpx.Response, answer: str = "yes", csrf: str | None = None, **headers: str) -> httpx.Response:
        """Fill in the form of a page."""
        found = re.search(r'name="csrf" value="([^"]+)"', page.text)
        form = {"csrf": csrf if csrf is not None else found[1] if found else "", "answer": answer}
        url = page.url.join("/vault/consent")
        return self.http.post(url, data=form, headers={"Origin": f"{url.scheme}://{url.netloc.decode()}"} | headers)

    def follow(self, page: httpx.Response) -> httpx.Response:
        """Go where a page leads by itself."""
        return self.open(onward(page))

    def consent(self, link: str) -> httpx.Response:
        """The whole way, with a yes."""
        return self.follow(self.say(self.open(link)))


def onward(page: httpx.Response) -> str:
    """Where a page leads by itself."""
    found = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


def link_in(text: str) -> str:
    """The link to consent, wherever it stands."""
    found = re.search(r"http://[^\s\"]+/vault/[A-Za-z0-9_-]{64}(?![A-Za-z0-9_-])", text)
    assert found is not None, text
    return found[0]


def vaulted(servers: Servers, peers: Peers, **more: Any) -> dict[str, Any]:
    """Settings by which desk, vault and the agent clerk want people's own tokens, and others do not."""
    base = f"http://127.0.0.1:{peers.port}"
    credentials = {
        "strategy": "vault_oauth",
        "endpoint": {"url": f"{servers.url}/as/token", "client": {"id": NOTES[0], "secret": {"file": "notes-secret"}}},
        "authorize_url": f"{servers.url}/as/authorize",
        "issuer": f"{servers.url}/as",
        "resource": f"{servers.url}/notes",
        "scope": SCOPE.split(),
    }
    return {
        "browser": {"issuer": "corp", "client": {"id": BROWSER[0], "secret": {"file": "browser-secret"}}},
        "mcp": {
            "desk": {"url": f"{base}/mcp/desk", "credentials": credentials},
            "vault": {"url": f"{base}/mcp/vault", "credentials": credentials},
            "shut": {"url": f"{base}/mcp/shut"},
        },
        **more,
    }


def gateway_in(folder: Path, peers: Peers, servers: Servers, **more: Any) -> Gateway:
    """A gateway that trusts these people's provider; not started."""
    for name, (_, secret) in (("browser-secret", BROWSER), ("notes-secret", NOTES)):
        (folder / name).write_text(secret)
        (folder / name).chmod(0o600)
    gateway = Gateway(folder, peers)
    hashes = {agent: [hashlib.sha256(value.encode()).hexdigest()] for agent, value in gateway.agent_secrets.items()}
    agents: dict[str, Any] = {agent: {"auth": {"secret_sha256": hashes[agent]}} for agent in AGENTS}
    agents["courier"]["client_ids"] = ["courier-app"]
    agents["clerk"] |= {
        "url": f"http://127.0.0.1:{peers.port}/agents/clerk",
        "delegation_header": "Bailiwick-Delegation",
        "credentials": vaulted(servers, peers)["mcp"]["desk"]["credentials"],
    }
    issuer = {
        "alias": "corp",
        "issuer": servers.issuer,
        "audience": gateway.url,
        "algorithms": ["ES256"],
        "direct_clients": ["person-cli"],
    }
    with (folder / "policies" / "grants" / "agents.csv").open("a") as grants:
        grants.write(f"p, agent:courier, {TENANT}, desk.read, call, allow, -, -, AGT-2\n")
    gateway.settings |= {"issuers": [issuer], "agents": agents, **vaulted(servers, peers), **more}
    gateway.config.write_text(json.dumps(gateway.settings))
    return gateway
