"""What both endpoints need of ASGI: bounded reading, the frame of an `Arrival`, writing JSON and event streams.

Nothing here decides about a call, and nothing here reads a body's meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

from gateway import signals
from gateway.listener.exchange import WHOLE
from gateway.listener.head import Head
from gateway.model import Arrival, Clock, Protocol, Refused, Trace, new_id, random16
from gateway.reasons import Code
from policies.model import NOTHING

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = tuple[tuple[str, str], ...]
Found = Mapping[str, Sequence[str]]

DECISION_HEADER = "Bailiwick-Decision"
WORKFLOW_HEADER = "Bailiwick-Workflow"
MAX_HEADERS = 128
MAX_HEADER_BYTES = 64 * 1024
BODY_SECONDS = 60.0
_MAX_TRACESTATE = 512
_HEX = frozenset("0123456789abcdef")
_CR, _LF = 0x0D, 0x0A
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
SMALL_BODY_SECONDS = 20.0
"""For a body of the gateway's own API, all of it."""


class ClientGoneError(Exception):
    """The client hung up before its request was whole: there is nobody to answer."""


class Slots:
    """At most `limit` calls at once: `with slots:` raises `Refused(OVERLOADED)` for the one too many."""

    __slots__ = ("_free",)

    def __init__(self, limit: int) -> None:
        self._free = limit

    def __enter__(self) -> None:
        if self._free <= 0:
            raise Refused(Code.OVERLOADED)
        self._free -= 1

    def __exit__(self, *_: object) -> None:
        self._free += 1


class Seat:
    """A call's place among `calls`, which it leaves for one among `streams` once it `stands` as a stream.

    So no number of streams that stand keeps a call waiting.
    """

    __slots__ = ("_held", "_streams")

    def __init__(self, calls: Slots, streams: Slots) -> None:
        self._held = calls
        self._streams = streams

    def __enter__(self) -> Seat:
        self._held.__enter__()
        return self

    def stands(self) -> None:
        """`Refused(OVERLOADED)` where too many streams do."""
        self._streams.__enter__()
        self._held.__exit__()
        self._held = self._streams

    def __exit__(self, *_: object) -> None:
        self._held.__exit__()


def whole_body(scope: Scope) -> bytes | None:
    """The body that came with the head, as far as the server says so; None where it must be waited for."""
    here = scope.get("extensions", NOTHING).get(WHOLE)
    return None if here is None else here["body"]


async def read_body(receive: Receive, limit: int, taken: Callable[[int], None] | None = None) -> bytes:
    """The whole body, however long it takes; `Refused(TOO_LARGE)` beyond `limit` bytes.

    `taken` is told the size of each piece that is kept while more is to come.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise Refused(Code.TOO_LARGE, "body")
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        if chunk:
            chunks.append(chunk)
        if taken is not None:
            taken(len(chunk))


async def small_body(receive: Receive, limit: int, seconds: float = SMALL_BODY_SECONDS) -> bytes:
    """As `read_body`; `Refused(MALFORMED)` where it does not come whole, or not in time."""
    try:
        async with asyncio.timeout(seconds):
            return await read_body(receive, limit)
    except (TimeoutError, ClientGoneError):
        raise Refused(Code.MALFORMED, "body") from None


def headers_of(scope: Scope) -> Headers:
    """The request's headers in order, names lower-case; `Refused(TOO_LARGE)` beyond 128 of them or 64 KiB."""
    raw = scope["headers"]
    if len(raw) > MAX_HEADERS:
        raise Refused(Code.TOO_LARGE, "headers")
    if sum(map(len, chain.from_iterable(raw))) > MAX_HEADER_BYTES:
        raise Refused(Code.TOO_LARGE, "headers")
    return tuple([(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw])


def fields_of(scope: Scope) -> tuple[Headers, Found]:
    """`headers_of` a request, and the same `by_name`; our own listener has read, and bounded, both already."""
    head = scope["headers"]
    if type(head) is Head:
        return tuple(head.fields), head.by_name
    headers = headers_of(scope)
    return headers, by_name(headers)


def by_name(headers: Headers) -> Found:
    """The values of each header, in order."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if name in found:
            found[name].append(value)
        else:
            found[name] = [value]
    return found


def trace_of(found: Found) -> Trace:
    """The caller's trace with a fresh span of ours in it, or a new trace where no one valid `traceparent` is (W3C §3.2)."""
    span = random16()[:8].hex()
    parents = found.get("traceparent")
    parent = read_traceparent(parents[0]) if parents is not None and len(parents) == 1 else None
    if parent is None:
        return Trace(random16().hex(), span)
    state = ",".join(found.get("tracestate", ()))
    if len(state) > _MAX_TRACESTATE or not state.isascii() or not state.isprintable():
        state = ""
    return Trace(parent[0], span, parent=parent[1], flags=parent[2], state=state)


def read_traceparent(text: str) -> tuple[str, str, str] | None:
    """(trace id, parent span id, flags) of a valid `traceparent`; None for other text.  Of the flags `sampled` is kept."""
    if len(text) < 55 or (text[:2] == "00" and len(text) != 55) or (len(text) > 55 and text[55] != "-"):
        return None
    version, trace_id, parent, flags = text[:2], text[3:35], text[36:52], text[53:55]
    if text[2] != "-" or text[35] != "-" or text[52] != "-" or version == "ff":
        return None
    if not _HEX.issuperset(version + trace_id + parent + flags) or not trace_id.strip("0") or not parent.strip("0"):
        return None
    return trace_id, parent, "01" if int(flags, 16) & 1 else "00"


def child_traceparent(trace: Trace) -> str:
    """The `traceparent` of the hop onwards: the same trace, and as parent the CLIENT span that telemetry makes of this hop."""
    return f"00-{trace.trace_id}-{signals.hop_span(trace.span_id)}-{signals.flags_onward(trace)}"


def make_arrival(
    scope: Scope,
    body: bytes,
    *,
    protocol: Protocol,
    target: str,
    path: str,
    clock: Clock,
    headers: Headers | None = None,
    found: Found | None = None,
) -> Arrival:
    """Frame one request; `fields_of` it spare a second reading where the endpoint has them already."""
    if headers is None or found is None:
        headers, found = fields_of(scope)
    client = scope.get("client")
    at = clock()
    return Arrival(
        id=new_id(at),
        protocol=protocol,
        target=target,
        headers=headers,
        body=body,
        at=at,
        trace=trace_of(found),
        path=path,
        http_method=scope["method"],
        peer=client[0] if client else "",
        query=scope.get("query_string", b"").decode("latin-1"),
        found=found,
        url_path=scope.get("path", ""),
    )


async def turned_away(
    scope: Scope, protocol: Protocol, clock: Clock, refusal: Refused, record: Callable[[Arrival, Refused], Awaitable[None]]
) -> str:
    """Record what was refused before it was a call, of which nothing is kept but whence it came; the id of the record.

    Load makes no more load: there is no record of it, and none is waited for where the ledger cannot have one.
    """
    arrival = make_arrival(scope, b"", protocol=protocol, target="", path="", clock=clock, headers=(), found={})
    if refusal.code is not Code.OVERLOADED:
        with contextlib.suppress(Refused):
            await record(arrival, refusal)
    return arrival.id


async def shut_door(
    scope: Scope, send: Send, clock: Clock, refusal: Refused, record: Callable[[Arrival, Refused], Awaitable[None]]
) -> None:
    """Tell who was turned away from what is no call, by RFC 9457; on record first."""
    decision = await turned_away(scope, "mcp", clock, refusal, record)
    body = b'{"title":"%s"}' % refusal.code.value.encode("ascii")
    await send_json(send, 403, body, ((DECISION_HEADER, decision),), content_type="application/problem+json")


class HostGuard:
    """Against DNS rebinding and foreign web pages: which `Host` and `Origin` values are ours.

    Host: the public URL's, a loopback name with any port, and `allowed_hosts` (an entry without a port stands for every port).
    Origin: absent, the public URL's, the very host the request names, or one of `allowed_origins`.
    """

    __slots__ = ("_any_port", "_exact", "_origins")

    def __init__(self, public_url: str, allowed_hosts: Iterable[str] = (), allowed_origins: Iterable[str] = ()) -> None:
        public = urlsplit(public_url)
        authorities = {public.netloc.lower()}
        if public.port in (None, _DEFAULT_PORTS.get(public.scheme)):
            bare = public.netloc.lower().removesuffix(f":{public.port}")
            authorities |= {bare, f"{bare}:{_DEFAULT_PORTS[public.scheme]}"}
        allowed = {host.lower() for host in allowed_hosts}
        self._any_port = _LOOPBACK | {host for host in allowed if _without_port(host) == host}
        self._exact = frozenset(authorities | allowed | self._any_port)
        origins = {f"{public.scheme}://{authority}" for authority in authorities}
        self._origins = frozenset(origins | {origin.lower().rstrip("/") for origin in allowed_origins})

    def check(self, found: Found, *, public: bool = False) -> None:
        """`Refused(BAD_ORIGIN)` unless there is exactly one `Host`, at most one `Origin`, and both are ours.

        `public`: what is asked for is for every web page to read, so that only the Host counts.
        """
        hosts, origins = found.get("host", ()), found.get("origin", ())
        if len(hosts) != 1 or len(origins) > 1:
            raise Refused(Code.BAD_ORIGIN, "one Host and at most one Origin are expected")
        host = hosts[0].lower()
        if host not in self._exact and _without_port(host) not in self._any_port:
            raise Refused(Code.BAD_ORIGIN, "Host")
        if origins and not public:
            origin = origins[0].lower()
            if origin not in self._origins and origin not in {f"http://{host}", f"https://{host}"}:
                raise Refused(Code.BAD_ORIGIN, "Origin")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and port.isascii() else host


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header lines as ASGI wants them.  A line break in a value would become a header of somebody else's choice."""
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    for _, value in lines:
        if _CR in value or _LF in value:
            msg = "a header value must not contain a line break"
            raise ValueError(msg)
    return lines


async def send_json(
    send: Send,
    status: int,
    body: bytes,
    headers: Iterable[tuple[str, str]] = (),
    content_type: str = "application/json",
) -> None:
    """One whole answer.  It is not cacheable unless `headers` says so; an empty body has no content type."""
    lines = encoded(headers)
    for name, _ in lines:
        if name == b"cache-control":
            break
    else:
        lines.append((b"cache-control", b"no-store"))
    lines.append((b"content-length", b"%d" % len(body)))
    if body:
        lines.append((b"content-type", content_type.encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


class Disconnect:
    """Notices that the client hung up.  `gone` says so; use only after the body has been read."""

    __slots__ = ("_cancelled", "_over", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._over = False
        self._cancelled = False

    async def watch(self, receive: Receive) -> None:
        """Return when the client is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True

    async def guard(self, receive: Receive, work: Coroutine[Any, Any, None], after: float = 0.0) -> None:
        """Run `work` to its end, or cancel it when the client hangs up; that cancellation ends here, any other goes on.

        Watching begins `after` so many seconds: work that is done before then is spared the cost of a watcher.
        """
        task = asyncio.current_task()
        if task is None:  # pragma: no cover  an ASGI application always runs in a task
            msg = "guard needs a running task"
            raise RuntimeError(msg)
        before = task.cancelling()

        def left(watcher: asyncio.Task[None]) -> None:
            if not self._over and not watcher.cancelled() and self.gone:
                self._cancelled = True
                task.cancel()

        watcher: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal watcher
            watcher = asyncio.create_task(self.watch(receive))
            watcher.add_done_callback(left)

        start = asyncio.get_running_loop().call_later(after, begin) if after > 0 else None
        if start is None:
            begin()
        try:
            await work
        except asyncio.CancelledError:
            if not self._cancelled or task.uncancel() > before:
                raise
            self._cancelled = False
        finally:
            self._over = True
            if start is not None:
                start.cancel()
            if watcher is not None:
                watcher.cancel()
            if self._cancelled:  # the work ended before the cancellation reached it
                task.uncancel()
