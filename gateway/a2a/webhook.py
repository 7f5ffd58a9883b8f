"""A client's webhook: whether it may be one, and the request by which news reaches it.

The address is judged when the webhook is given and again when it is used, by the very address that is connected to; nothing is
followed anywhere else.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from gateway.a2a.errors import RpcRefused
from gateway.reasons import Code
from gateway.upstream.address import forbidden
from gateway.upstream.client import Url
from gateway.upstream.message import header_block

MAX_URL = 2048
MAX_SECRET = 4096
_RESOLVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where news goes, and what shows there that it is from us; secrets, so never shown.

    token        `X-A2A-Notification-Token`, "" for none.
    scheme       and `credentials`: the `Authorization` header, "" for none.
    """

    url: str
    token: str = ""
    scheme: str = ""
    credentials: str = ""

    def __repr__(self) -> str:
        return "Webhook()"

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Those that show who speaks; ValueError for what no header can carry."""
        lines = []
        if self.scheme:
            lines.append((b"authorization", f"{self.scheme} {self.credentials}".strip().encode("ascii")))
        if self.token:
            lines.append((b"x-a2a-notification-token", self.token.encode("ascii")))
        header_block(lines)
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Hosts that may be webhooks: `hooks.example.com`, `*.example.com`, `*` for any on the Internet.

    private  `host:port` of those that may be reached by http, or have a private address, as in one's own network.
    """

    hosts: tuple[str, ...] = ()
    private: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.hosts or self.private)

    def url(self, text: str) -> Url:
        """The webhook's URL as it may be asked; `RpcRefused` for one that may not."""
        try:
            plain = Url.parse(text[: MAX_URL + 1])
        except ValueError as error:
            raise RpcRefused(Code.INVALID_PARAMS, f"webhook: {error}") from None
        own = f"{plain.host.lower()}:{plain.port}" in self.private
        if len(text) > MAX_URL or not (own or self._named(plain.host.lower())):
            raise RpcRefused(Code.INVALID_PARAMS, "webhook: this host is not allowed")
        if plain.scheme != "https" and not own:
            raise RpcRefused(Code.INVALID_PARAMS, "webhook: not https")
        return Url.parse(text, allow_private=own)

    def _named(self, host: str) -> bool:
        return any(wanted in {"*", host} or (wanted.startswith("*.") and host.endswith(wanted[1:])) for wanted in self.hosts)


async def judged(webhook: Webhook, allowed: Allowed) -> Url:
    """The webhook's URL, once every address that its name has now may be reached; `RpcRefused` otherwise."""
    url = allowed.url(webhook.url)
    if max(len(webhook.token), len(webhook.scheme), len(webhook.credentials)) > MAX_SECRET:
        raise RpcRefused(Code.INVALID_PARAMS, "webhook: a token or credential is too long")
    try:
        webhook.headers()
    except ValueError:
        raise RpcRefused(Code.INVALID_PARAMS, "webhook: a token or credential that no header can carry") from None
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        raise RpcRefused(Code.INVALID_PARAMS, "webhook: its host is not found") from None
    for entry in found:
        why = forbidden(str(entry[4][0]), allow_private=url.allow_private)
        if why:
            raise RpcRefused(Code.INVALID_PARAMS, f"webhook: {why}")
    return url
