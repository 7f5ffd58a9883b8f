"""An identity provider on a real socket of this machine: metadata, keys, introspection and SCIM, each as the test wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.identity.keys import b64url, es256_jwk

Answer = tuple[int, object]
"""Status, and bytes or something to be said in JSON."""


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: dict[str, str]


@dataclass
class Provider:
    """`routes` answer by path; `asked` is what came; `gate`, where it is set, holds every answer back; `came` is set by
    the first request."""

    port: int = 0
    routes: dict[str, Callable[[Asked], Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    gate: asyncio.Event | None = None
    came: asyncio.Event = field(default_factory=asyncio.Event)
    serving: set[asyncio.Task[None]] = field(default_factory=set)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def jwk(self) -> dict[str, str]:
        return es256_jwk(self.key.public_key())

    def count(self, path: str) -> int:
        return sum(each.path == path for each in self.asked)

    def tell(self, path: str, answer: object, status: int = 200) -> None:
        self.routes[path] = lambda _: (status, answer)

    def publish(self, path: str = "", **metadata: object) -> None:
        """Metadata and keys at their OpenID Connect places; `path` of the issuer."""
        said: dict[str, object] = {"issuer": f"{self.url}{path}", "jwks_uri": f"{self.url}/jwks"} | metadata
        self.tell(f"{path}/.well-known/openid-configuration", {k: v for k, v in said.items() if v is not None})
        self.routes["/jwks"] = lambda _: (200, {"keys": [self.jwk]})

    def sign(self, claims: dict[str, object], **header: object) -> str:
        """A JWS of this provider; a claim that is None is left out."""
        head = {"typ": "at+jwt", "alg": "ES256", "kid": self.jwk["kid"]} | header
        said = {k: v for k, v in claims.items() if v is not None}
        signed = f"{b64url(json.dumps(head).encode())}.{b64url(json.dumps(said).encode())}"
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.split("\r\n")
                method, target, _ = line.split(" ")
                headers = {k.lower(): v for k, _, v in (each.partition(": ") for each in fields if each)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                parts = urlsplit(target)
                asked = Asked(method, unquote(parts.path), _flat(parts.query), headers, _flat(body.decode()))
                self.asked.append(asked)
                self.came.set()
                if self.gate is not None:
                    await self.gate.wait()
                status, said = self.routes.get(asked.path, lambda _: (404, {}))(asked)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                where = f"location: {self.url}/elsewhere\r\n" if status in {301, 302, 307} else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{where}content-length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _flat(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    it = Provider()
    server = await asyncio.start_server(it.accept, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for task in it.serving:
            task.cancel()
        await asyncio.gather(*it.serving, return_exceptions=True)
