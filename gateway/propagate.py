"""Carry the person through an agent: the delegation of the request that it serves goes out again with the calls it makes for it.

For agents, not for the gateway: nothing but Python's standard library, so that an agent may keep a copy of this one file.
What is shown to the gateway goes to the gateway's origin, and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

DELEGATION = "bailiwick-delegation"
_OURS = ("authorization", DELEGATION)
_MARK = "bailiwick.begun_at"
_COMPACT = re.compile(r"([A-Za-z0-9_-]{1,1024})\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_URL = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?", re.IGNORECASE)
"""What every parser reads alike: one of the others could see another host in it."""
_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
App = Callable[[Any, Any, Any], Awaitable[None]]
Hooks = Mapping[str, list[Callable[..., Any]]]


class NoDelegationError(Exception):
    """A call to the gateway that nobody is known to want: the agent would have made it in its own name, with its own rights."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a request says of whom it is for; `token` is "" where it says nothing.  The gateway verifies it, nobody here does."""

    token: str = field(default="", repr=False)
    traceparent: str = ""

    @classmethod
    def of(cls, headers: Iterable[tuple[str | bytes, str | bytes]]) -> Delegation:
        """From a request's header lines: `Bailiwick-Delegation`, else a bearer token that is a delegation; two are none."""
        found: dict[str, list[str]] = {}
        for name, value in headers:
            found.setdefault(_text(name).lower(), []).append(_text(value).strip())
        shown = found.get(DELEGATION, [])
        if not shown:
            shown = [value[7:].strip() for value in found.get("authorization", []) if value[:7].lower() == "bearer "]
        traces = [value for value in found.get("traceparent", []) if _TRACEPARENT.fullmatch(value)]
        token = shown[0] if len(shown) == 1 and _is_delegation(shown[0]) else ""
        return cls(token, traces[0] if len(traces) == 1 else "")


_served: ContextVar[Delegation | None] = ContextVar("bailiwick-delegation", default=None)


def served() -> Delegation | None:
    """Of the request that is being served; None where there is none.  To take along where context does not go by itself."""
    return _served.get()


@contextmanager
def serving(delegation: Delegation | None) -> Iterator[None]:
    """What is called herein is called for this request; so is what tasks do that begin herein, however long they take."""
    token = _served.set(delegation)
    try:
        yield
    finally:
        _served.reset(token)


class DelegationMiddleware:
    """ASGI: each request is served as its own headers say.

    Tasks that a request starts, and `asyncio.to_thread`, keep its delegation, also beyond its answer.  A thread, a pool or a
    queue of the agent's own does not: take `served()` along, and work there under `serving`.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request; anything else (the lifespan) serves nobody."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        with serving(Delegation.of(scope["headers"])):
            await self._app(scope, receive, send)


class Carrier:
    """What an agent shows to the gateway with each call: its own credential, and the delegation of the request that it serves.

    `httpx.AsyncClient(event_hooks=carrier.hooks)`, and the same for `httpx2`; `sync_hooks` for their clients without `async`.
    Hooks and no `auth`: a client that follows a redirect copies every header and asks `auth` no more, but calls its hooks again.
    What began elsewhere and was led to the gateway shows nothing either: nobody else makes calls in the person's name.
    """

    def __init__(
        self, gateway: str, credential: str | Callable[[], str] = "", *, more: Iterable[str] = (), alone: bool = False
    ) -> None:
        """ValueError where `gateway`, or one of `more`, is anything but an origin, as https://gateway.example.com.

        more        further origins of the gateway's, as those at which it serves gRPC.
        credential  the agent's secret, or what makes an assertion or fetches an SVID for each call; "" where its certificate, or
                    the delegation alone, is enough.
        alone       whether the agent calls in its own name where it serves no request.  For a request without a delegation it
                    never does.
        """
        self._origins = {_whole(each) for each in (gateway, *more)}
        self._credential = credential
        self._alone = alone

    def headers(self, url: str) -> dict[str, str]:
        """For a call to this URL, by whatever client: nothing where it is not the gateway's.  Let it follow no redirects.

        NoDelegationError where the call would not be for whom the agent works.
        """
        return self._shown() if _read(url) in self._origins else {}

    @property
    def hooks(self) -> Hooks:
        """`event_hooks` for an `AsyncClient`."""
        return {"request": [self._before_async]}

    @property
    def sync_hooks(self) -> Hooks:
        """`event_hooks` for a `Client`."""
        return {"request": [self._before]}

    async def _before_async(self, request: Any) -> None:
        self._before(request)

    def _before(self, request: Any) -> None:
        """Before a request, and again before each one that a redirect led to, which has all that was set on the first."""
        url, headers = request.url, request.headers
        origin = url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS.get(url.scheme, 0)
        begun_at = request.extensions.setdefault(_MARK, origin)
        if origin == begun_at and origin in self._origins:
            shown = self._shown()
            if "traceparent" in headers:  # the agent traces by itself
                shown.pop("traceparent", None)
            headers.update(shown)
        elif begun_at in self._origins:
            request.extensions[_MARK] = ""  # what has left comes back as anybody's
            for name in _OURS:
                headers.pop(name, None)

    def _shown(self) -> dict[str, str]:
        delegation = _served.get()
        if delegation is None and not self._alone:
            raise NoDelegationError("no request is being served here: a thread or session of its own knows nobody's delegation")
        if delegation is not None and not delegation.token:
            raise NoDelegationError("the request that is being served came without a delegation")
        own = self._credential if isinstance(self._credential, str) else self._credential()
        shown = {"authorization": f"Bearer {own}"} if own else {}
        if delegation is not None:
            shown[DELEGATION] = delegation.token
            if delegation.traceparent:
                shown["traceparent"] = delegation.traceparent
        return shown


def _read(url: str) -> Origin | None:
    """The origin of a URL; None for what is no plain http(s) URL."""
    read = _URL.fullmatch(url)
    if read is None:
        return None
    scheme = read[1].lower()
    return scheme, read[2].lower().strip("[]"), int(read[3] or _PORTS[scheme])


def _whole(url: str) -> Origin:
    """The origin of a URL that is nothing else."""
    origin = _read(url)
    if origin is None or url.removesuffix("/").count("/") != 2:
        raise ValueError("the gateway's URL has a scheme, a host and perhaps a port, and nothing else")
    return origin


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _is_delegation(token: str) -> bool:
    """By its own word: a token of somebody else's is not handed to the gateway."""
    compact = _COMPACT.fullmatch(token)
    if compact is None:
        return False
    try:
        head = json.loads(base64.urlsafe_b64decode(compact[1] + "=" * (-len(compact[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(head, dict) and head.get("typ") == "wf-dt+jwt"
