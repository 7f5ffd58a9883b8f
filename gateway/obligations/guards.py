"""Guards of others' that `inspect` asks: a service that reads what a call says, or its answer, and says what becomes of it.

A guard can only narrow: it lets pass, refuses, or names texts that are blanked; it never says another text in their place.  One
that fails, is late, or answers anything else refuses the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import orjson

from gateway.model import Permit, Refused, UpstreamError
from gateway.obligations.detect import MARK
from gateway.reasons import Code
from gateway.upstream.client import HttpRequest, HttpResponse, Url

MOST_BYTES: Final = 1024 * 1024
"""Of what a guard is shown: what is larger is refused."""
_ANSWER_BYTES: Final = 64 * 1024
_MOST_TEXTS: Final = 1000
_ACTIONS: Final = frozenset({"allow", "deny", "redact"})


class Guard(NamedTuple):
    """Where one listens, and the credential that it wants; secret, so never shown."""

    url: Url
    token: str
    seconds: float

    def __repr__(self) -> str:
        return f"Guard({self.url.host})"


class Verdict(NamedTuple):
    """What a guard says: `allow`, `deny`, or `redact` with pointers (RFC 6901) to the texts that are blanked."""

    action: str
    at: tuple[str, ...] = ()


class Guards:
    """Asks them, over the gateway's own connections: no redirect is followed."""

    def __init__(
        self, guards: Mapping[str, Guard] | None = None, send: Callable[[HttpRequest], Awaitable[HttpResponse]] | None = None
    ) -> None:
        self._guards = guards or {}
        self._send = send

    def missing(self, names: tuple[str, ...]) -> str:
        """The first of these names that the settings do not have; "" where they have all."""
        return next((name for name in names if name not in self._guards), "")

    async def ask(self, name: str, permit: Permit, direction: str, content: Any) -> Verdict:
        """What a guard says of this; `Refused(DUTY_FAILED)` where it says nothing that counts."""
        guard, call, request = self._guards.get(name), permit.call, permit.request
        if guard is None or self._send is None:
            raise _failed(permit, name, "the settings do not have it")
        said = {
            "type": "inspect",
            "direction": direction,
            "decision": call.arrival.id,
            "tenant": permit.principal.tenant,
            "protocol": call.arrival.protocol,
            "method": call.method,
            "action": request.action,
            "resource": request.resource,
            "content": content,
        }
        try:
            body = orjson.dumps(said, default=_plain)
        except (orjson.JSONEncodeError, RecursionError):
            raise _failed(permit, name, "it cannot be shown this") from None
        if len(body) > MOST_BYTES:
            raise _failed(permit, name, "it is too large to be shown")
        try:
            async with asyncio.timeout(guard.seconds):
                return _read(await self._asked(guard, body))
        except (UpstreamError, TimeoutError) as error:
            raise _failed(permit, name, str(error) or "late") from None
        except ValueError as error:
            raise _failed(permit, name, f"its answer is none: {error}") from None

    async def _asked(self, guard: Guard, body: bytes) -> bytes:
        headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
        if guard.token:
            headers += ((b"authorization", b"Bearer " + guard.token.encode()),)
        assert self._send is not None  # noqa: S101  asked for above
        response = await self._send(HttpRequest(guard.url, body, headers))
        try:
            if response.status != 200:
                raise UpstreamError("status", str(response.status))
            return await response.read(_ANSWER_BYTES)
        finally:
            await response.aclose()


def _read(body: bytes) -> Verdict:
    """`{"action": "allow" | "deny"}` or `{"action": "redact", "at": ["/content/0/text", …]}`, and nothing else."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("no JSON") from None
    if not isinstance(said, dict) or said.get("action") not in _ACTIONS:
        raise ValueError("no action")
    action, at = said["action"], said.get("at", [])
    if said.keys() - ({"action", "at"} if action == "redact" else {"action"}):
        raise ValueError("unknown members")
    if not isinstance(at, list) or len(at) > _MOST_TEXTS or not all(isinstance(each, str) for each in at):
        raise ValueError("at is a list of pointers")
    if action == "redact" and not at:
        raise ValueError("nothing is named that is blanked")
    return Verdict(action, tuple(at))


def without(content: Any, at: tuple[str, ...]) -> Any:
    """A document without the texts at these pointers; ValueError for one that points at no text."""
    for pointer in at:
        content = _without(content, pointer.split("/")[1:] if pointer[:1] == "/" else [], pointer)
    return content


def _without(value: Any, path: list[str], pointer: str) -> Any:
    if not path:
        if not isinstance(value, str):
            raise ValueError(f"no text stands at {pointer[:100]!r}")
        return MARK
    key, rest = path[0].replace("~1", "/").replace("~0", "~"), path[1:]
    if isinstance(value, dict) and key in value:
        return {**value, key: _without(value[key], rest, pointer)}
    if isinstance(value, list) and key.isascii() and key.isdigit() and len(key) < 8 and int(key) < len(value):
        return [*value[: int(key)], _without(value[int(key)], rest, pointer), *value[int(key) + 1 :]]
    raise ValueError(f"nothing stands at {pointer[:100]!r}")


def _failed(permit: Permit, name: str, why: str) -> Refused:
    return Refused(Code.DUTY_FAILED, f"guard {name}: {why}", decision=permit.decision)


def _plain(value: object) -> object:
    """Mappings, and numbers as they were written."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError
