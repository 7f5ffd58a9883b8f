"""Two authorization servers and the tool servers that trust them, on one loopback socket: nothing of them is the gateway's.

`/idp/token` exchanges people's tokens (RFC 8693), `/as/token` redeems assertions (RFC 7523) and knows clients of its own;
`/mcp/<name>` answers every call, once its demand is met.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"
GRANT = "urn:ietf:params:oauth:grant-type:"
CLIENT, SECRET = "bail:iwick", "s3cret/with+signs"

Headers = Mapping[str, str]
Demand = Callable[[Headers, dict[str, Any]], bool]


class NoError(Exception):
    """What a token endpoint says no with."""


@dataclass
class Outside:
    """What these servers know, and what reached them.

    asked     forms that came to the token endpoints, by path.
    heard     requests that came to the tool servers: name, headers, message.
    demands   by server: whether a request is let in; the others are.
    bend      changes an answer of the identity provider before it is sent.
    people    the keys by which people's tokens are signed (a JWKS file).
    """

    port: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    heard: list[tuple[str, Headers, dict[str, Any]]] = field(default_factory=list)
    demands: dict[str, Demand] = field(default_factory=dict)
    bend: Callable[[dict[str, Any], dict[str, str]], dict[str, Any]] = lambda answer, _: answer
    people: Path = Path()
    given: dict[str, str] = field(default_factory=dict)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    client_key: ec.EllipticCurvePublicKey | None = None
    assertions: set[str] = field(default_factory=set)
    secret: str = SECRET

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, server: str) -> list[Headers]:
        """Headers of every request that reached a tool server."""
        return [headers for name, headers, _ in self.heard if name == server]

    def forms(self, path: str) -> list[dict[str, str]]:
        return [form for where, form in self.asked if where == path]

    def token(self, path: str, form: dict[str, str], headers: Headers) -> dict[str, Any]:
        """The answer of a token endpoint; `NoError` is a refusal."""
        self._client(path, form, headers)
        grant = form["grant_type"]
        if path == "/idp/token" and grant == f"{GRANT}token-exchange":
            person = self._person(form["subject_token"])
            if form["requested_token_type"] == f"{TOKEN_TYPE}id-jag":
                now = int(time.time())
                claims = {"iss": f"{self.base}/idp", "sub": person, "aud": form["audience"], "client_id": CLIENT}
                claims |= {"jti": str(uuid.uuid4()), "iat": now, "exp": now + 300}
                text = jwt.encode(claims, self.key, "ES256", {"typ": "oauth-id-jag+jwt", "kid": "idp"})
                answer = {
                    "access_token": text,
                    "token_type": "N_A",
                    "issued_token_type": f"{TOKEN_TYPE}id-jag",
                    "expires_in": 300,
                }
                return self.bend(answer, form)
            return self.bend(self._bearer(f"{person} at {form.get('audience', '')}", issued=True), form)
        if path == "/as/token" and grant == f"{GRANT}jwt-bearer":
            try:
                claims = jwt.decode(form["assertion"], self.key.public_key(), ["ES256"], audience=f"{self.base}/as")
            except jwt.InvalidTokenError:
                raise NoError("invalid_grant") from None
            return self._bearer(f"{claims['sub']} by assertion")
        if path == "/as/token" and grant == "client_credentials":
            return self._bearer(f"client for {form.get('scope', '')}")
        raise NoError("unsupported_grant_type")

    def _bearer(self, what: str, *, issued: bool = False) -> dict[str, Any]:
        text = f"tok.{uuid.uuid4()}"
        self.given[text] = what
        answer = {"access_token": text, "token_type": "Bearer", "expires_in": 300}
        return answer | ({"issued_token_type": f"{TOKEN_TYPE}access_token"} if issued else {})

    def _person(self, text: str) -> str:
        keys = jwt.PyJWKSet.from_json(self.people.read_text())
        try:
            claims = jwt.decode(text, keys[jwt.get_unverified_header(text)["kid"]], ["ES256"], options={"verify_aud": False})
        except jwt.InvalidTokenError:
            raise NoError("invalid_grant") from None
        return str(claims["sub"])

    def _client(self, path: str, form: dict[str, str], headers: Headers) -> None:
        if path == "/as/token":  # demands a key's proof, good once
            if self.client_key is None:
                raise NoError("invalid_client")
            audience = f"{self.base}{path}"
            try:
                claims = jwt.decode(form["client_assertion"], self.client_key, ["ES256"], audience=audience, issuer=CLIENT)
            except (jwt.InvalidTokenError, KeyError):
                raise NoError("invalid_client") from None
            if claims["jti"] in self.assertions or claims["sub"] != CLIENT:
                raise NoError("invalid_client")
            self.assertions.add(claims["jti"])
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        pair = base64.b64decode(given).decode().partition(":")
        if scheme != "Basic" or (unquote_plus(pair[0]), unquote_plus(pair[2])) != (CLIENT, self.secret):
            raise NoError("invalid_client")


def _handler(world: Outside) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """No agent here has a card; who asked for one is remembered."""
            headers = {name.lower(): value for name, value in self.headers.items()}
            world.heard.append((self.path.split("/")[2], headers, {}))
            self._answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if self.path.endswith("/token"):
                form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                world.asked.append((self.path, form))
                try:
                    self._answer(200, world.token(self.path, form, headers))
                except NoError as error:
                    said = {"error": str(error), "error_description": f"nobody may read {form.get('subject_token', 'this')}"}
                    self._answer(401 if str(error) == "invalid_client" else 400, said)
                return
            message, name = json.loads(body), self.path.removeprefix("/mcp/")
            world.heard.append((name, headers, message))
            if not world.demands.get(name, lambda *_: True)(headers, message):
                error = {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32001, "message": "who is it?"}}
                self._answer(401, error, ("WWW-Authenticate", 'Bearer realm="inside"'), ("Set-Cookie", "session=inside"))
                return
            result: dict[str, Any] = {"content": [{"type": "text", "text": "done"}], "isError": False}
            if message["method"] == "tools/list":
                result = {"tools": [{"name": "read", "inputSchema": {"type": "object"}}]}
            more = (("Set-Cookie", "session=inside"), ("Authorization", "Bearer inside"), ("Txn-Token", "inside"))
            self._answer(200, {"jsonrpc": "2.0", "id": message["id"], "result": result}, *more)

        def _answer(self, status: int, value: Any, *headers: tuple[str, str]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in (("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers):
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def outside() -> Iterator[Outside]:
    """The servers, until left."""
    world = Outside()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(world))
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
