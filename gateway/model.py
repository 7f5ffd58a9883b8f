"""What travels the road: each stage takes what the stage before it returned.

`Arrival → Principal → Call → AccessRequest → Decision → Permit → Intent → Reply`.  All of it is frozen; nothing here does I/O.
Made of msgspec's structs, which cost a tenth of a frozen dataclass to make; none can be part of a cycle, so none is the
collector's business.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from audit.model import Receipt
from audit.streamed import Chunks
from gateway.approved import Approval
from gateway.followed import Followed
from gateway.refusal import Refused as Refused  # noqa: PLC0414  handed on, as the next
from gateway.refusal import UpstreamError as UpstreamError  # noqa: PLC0414
from policies.model import ALLOW, AccessRequest, Decision
from policies.workflows.story import Step

Protocol = Literal["mcp", "a2a"]
NO_HEADERS: Mapping[str, Sequence[str]] = MappingProxyType({})
Octets = bytes
Clock = Callable[[], int]
"""UTC microseconds since the epoch."""


def wall_clock() -> int:
    """The machine's clock, in UTC microseconds; tests inject their own."""
    return time.time_ns() // 1000


_random: deque[bytes] = deque()
_sixteens = struct.Struct("16s" * 256).unpack
os.register_at_fork(after_in_child=_random.clear)  # or parent and child would give out the same


def random16() -> bytes:
    """16 bytes of the kernel's random generator, drawn many at a time: for ids that nobody may guess, not for keys."""
    try:
        return _random.pop()
    except IndexError:
        first: bytes
        first, *others = _sixteens(os.urandom(4096))
        _random.extend(others)
        return first


def new_id(at: int) -> str:
    """A UUIDv7 (RFC 9562 §5.7) of the microsecond `at`: sorts by time, cannot be guessed."""
    text = ((at // 1000 & 0xFFFF_FFFF_FFFF).to_bytes(6, "big") + random16()).hex()
    return f"{text[:8]}-{text[8:12]}-7{text[12:15]}-{_VARIANT[text[15]]}{text[16:19]}-{text[19:31]}"


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class Trace(msgspec.Struct, frozen=True, gc=False):
    """W3C trace context of one call: what came in, and our own span in it.

    parent is the caller's span id, or "" where the trace starts here.  state is the caller's `tracestate`, passed on as it came.
    link is another span that led to this one, as `<trace id>-<span id>`; "" for none.
    """

    trace_id: str
    span_id: str
    parent: str = ""
    flags: str = "01"
    state: str = ""
    link: str = ""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One framed request, before anything in its body is trusted.

    id       of the call, of its decision and of its records.
    target   the server or agent that the path names.
    headers  lower-case names, in order of arrival; a repeated header stands repeatedly.
    path     what follows the target, as "" or "/.well-known/agent-card.json".
    query    the raw query string, without "?"; only `A2A-Version` is ever read from it.
    found    the same headers by name, so that nobody searches them again; empty where whoever framed it had no use for that.
    url_path the whole path of the request's URL, decoded, as "/mcp/erp": what a proof of possession names.
    binding  `grpc` where `path` is a gRPC method and `body` its message as protobuf encodes it; "" for HTTP.
    origin   scheme and authority under which the world reaches the listener, by settings; "" where it is the public URL's.
    certificate  DER of the client's, where the listener itself ended mutual TLS and verified it.
    """

    id: str
    protocol: Protocol
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: int
    trace: Trace
    path: str = ""
    http_method: str = "POST"
    peer: str = ""
    query: str = ""
    found: Mapping[str, Sequence[str]] = NO_HEADERS
    url_path: str = ""
    binding: Literal["", "grpc"] = ""
    origin: str = ""
    certificate: bytes = b""

    def every(self, name: str) -> Sequence[str]:
        """All values of a header, in order; none where it is absent."""
        if self.found is NO_HEADERS:
            return [value for key, value in self.headers if key == name]
        return self.found.get(name, ())

    def header(self, name: str) -> str | None:
        """The only value of a header; None where it is absent.  A repeated one is joined by ", " (RFC 9110 §5.3)."""
        found = self.found
        values = self.every(name) if found is NO_HEADERS else found.get(name)
        return (values[0] if len(values) == 1 else ", ".join(values)) if values else None


Assurance = Literal["pop", "bearer", "correlated"]
"""`pop`: every hop showed that it holds a key (DPoP, mTLS, an assertion); `bearer`: somewhere a text alone was enough, as a
token, an SVID or a secret; `correlated`: somewhere a trace, which is no proof, said for whom an agent goes on."""
_STRENGTH: Mapping[str, int] = MappingProxyType({"correlated": 0, "bearer": 1, "pop": 2})


def weaker(one: Assurance, other: Assurance) -> Assurance:
    """The weaker of two: what a chain of both comes to."""
    return one if _STRENGTH[one] <= _STRENGTH[other] else other


class Principal(msgspec.Struct, frozen=True, gc=False):
    """On whose behalf, and through whom (RFC 8693: subject and actors).

    subject     `user:<issuer alias>/<sub>` or `svc:<agent>`.
    actors      `agent:<id>`, origin first; the last one makes this call.
    workflow    id of the workflow this call belongs to, minted by the gateway.
    ends        epoch seconds after which nothing may be done in this person's name.
    method      how the caller proved itself: a person's token `bearer` or `dpop`; an agent `secret`, `key`, `certificate`,
                `svid`, with `delegation+` or `trace+` before it where it acts for somebody; `delegation+dpop`, `delegation`;
                code in the gateway's own sandbox `delegation+sandbox`.
    credential  SHA-256 (hex) of the credential; never the credential.
    jti         id of the token that was presented, "" where it has none.
    path        jti of every delegation token from the workflow's start, oldest first.
    caused_by   id of the agent-to-agent call for which the presented delegation token was minted; "" where there was none.
    assurance   how strongly the whole chain is proven; a later hop never raises it (see `weaker`).
    scope       the most that this workflow may touch, objects and patterns as rules write them; None: no bound of its own.
    issued      epoch seconds at which the person's authority was given: what a kill "of everything before" is measured against.
    acr         authentication context of the person's session, as the issuer says it, "" where it says none; auth_time when they
                last proved who they are, in epoch seconds, 0 where it says nothing.
    grant       id of the standing grant by which the workflow runs; "" where the person began it.
    definition  name of the definition (workflows/*.yaml) by which the workflow was begun; "" where none was named.
    instance    keyed digest of the key that the caller showed to hold (DPoP, mutual TLS): tells one running copy of an agent from
                another, and nobody who; "" where it showed none.
    """

    subject: str
    actors: tuple[str, ...]
    tenant: str
    workflow: str
    ends: int
    method: str
    credential: str
    groups: frozenset[str] = frozenset()
    jti: str = ""
    path: tuple[str, ...] = ()
    caused_by: str = ""
    assurance: Assurance = "bearer"
    scope: tuple[str, ...] | None = None
    issued: int = 0
    acr: str = ""
    auth_time: int = 0
    grant: str = ""
    definition: str = ""
    instance: str = ""

    def facts(self, protocol: str, method: str = "", version: str = "") -> Mapping[str, Mapping[str, object]]:
        """What conditions read of the caller and the call beside its arguments: `agent.*` and `ctx.*`."""
        ctx: dict[str, object] = {"protocol": protocol}
        if method:
            ctx["method"], ctx["version"] = method, version
        if self.acr:
            ctx["acr"] = self.acr
        return {"ctx": ctx, "agent": {"assurance": self.assurance, "method": self.method}}

    @property
    def acting(self) -> str:
        """Who makes this call: the last agent, or the person's own hands."""
        return self.actors[-1] if self.actors else self.subject


class Call(msgspec.Struct, frozen=True, gc=False):
    """What the caller asks for, parsed strictly; `message` is what will be sent on, never the bytes that came.

    method     `tools/call`, `SendMessage` …
    name       of the tool, or what else the method names: a prompt, a resource's address; None where it names nothing.
    arguments  of the tool, numbers exact; None where there are none.
    rpc_id     JSON-RPC id of the request as it came; None for a notification.
    message    the parsed envelope (MCP: dict; A2A: the request's protobuf message).
    version    protocol revision the caller speaks.
    session    upstream's own session id (legacy MCP), unsealed for this principal.
    declares   the capabilities that the client declares with this very message, as it said them; never sent on as such.
    repeated   header lines that repeat arguments, as they go on (MCP's `Mcp-Param-*`).
    opens      whether the client said that it can have its person open a URL (MCP's URL elicitation).
    direction  who asks whom: "" the client its upstream; `question` the upstream the client; `answer` what the client says to
               that; `resume` the client, for the rest of an answer that it was asked for before.
    declared   what the client said that it may be asked (MCP): `sampling`, `sampling.tools`, `elicitation.form`,
               `elicitation.url`, `roots`, and of its calls that they may become `tasks`.
    about      ids of the records that this goes back to: the call during which is asked, the questions that are answered.
    said       what is answered to which question: its id ("" for one that nobody asked), its kind, and what the person did.
    resumes    upstream's id of the event after which a stream goes on (MCP, legacy); "" where it begins.
    withhold   fields that are blanked in the result, as was decided when the call was made that this one comes back to.
    kept       what else the protocol's own stages keep of it, from one to the next.
    context    id under which its conversation goes on to the agent, where the caller has another word for it (A2A).
    linked     keyed digest of the session, which itself is on no record; "" where there is none.
    """

    arrival: Arrival
    method: str
    target: str
    message: Any
    trace: Trace
    name: str | None = None
    arguments: Mapping[str, object] | None = None
    rpc_id: str | int | None = None
    version: str = ""
    session: str | None = None
    opens: bool = False
    direction: str = ""
    declared: frozenset[str] = frozenset()
    about: tuple[str, ...] = ()
    said: tuple[tuple[str, str, str], ...] = ()
    resumes: str = ""
    kept: Any = None
    withhold: frozenset[str] = frozenset()
    declares: Any = None
    repeated: tuple[tuple[str, str], ...] = ()
    context: str = ""
    linked: str = ""


class Reserved(msgspec.Struct, frozen=True, gc=False):
    """A call's step in its workflow's history, which nothing is sent before it is `durable`; `fields` of its result are kept."""

    step: Step
    durable: Awaitable[None]
    fields: frozenset[str] = frozenset()


class Permit(msgspec.Struct, frozen=True, gc=False):
    """A decision that allowed the call, on its way through its duties.

    fulfilled    names of the obligations that are taken care of.
    redact       what is blanked in the result, as `gateway.obligations.blank` reads it.
    redact_sent  the same of the arguments.
    said         what is sent where some of what was asked for is blanked: it stands in the ledger, the other as a commitment.
    sandbox      profile that code of this call must run under; None where no duty names one, and the caller asks for none.
    further      what else was asked of policy for this call, and how it was decided: all of it allowed.
    answer_bytes the most that may be released, 0 where no duty bounds it.
    by_digest    of what was asked for the ledger keeps a commitment alone.
    flags        detectors and guards that found something in what was asked for, and let it pass.
    delegation   token by which the called agent shows for whom it acts (A2A); a secret, so never shown.
    credentials  header lines that the upstream wants of the gateway for this very principal; secrets, so never shown.
    credential   what kind they are, for the ledger: `shared`, `person`, `transaction`, `client`; "" where there are none.
    reserved     its step in the workflow's history; None where no workflow's rules hold it.
    approval     what people must approve, or have approved; None where nobody is asked.
    tool_def     digest of the definition of what is called, as its server says it now; "" where none is pinned.
    """

    call: Call
    principal: Principal
    request: AccessRequest
    decision: Decision
    fulfilled: tuple[str, ...] = ()
    redact: frozenset[str] = frozenset()
    redact_sent: frozenset[str] = frozenset()
    said: bytes | None = None
    sandbox: str | None = None
    further: tuple[tuple[AccessRequest, Decision], ...] = ()
    by_digest: bool = False
    flags: tuple[str, ...] = ()
    answer_bytes: int = 0
    delegation: str = ""
    credentials: tuple[tuple[bytes, bytes], ...] = ()
    credential: str = ""
    reserved: Reserved | None = None
    approval: Approval | None = None
    tool_def: str = ""

    def __repr__(self) -> str:
        return f"Permit({self.call.arrival.id})"  # never the token

    @classmethod
    def of(cls, call: Call, principal: Principal, request: AccessRequest, decision: Decision) -> Permit:
        """The permit of an allowing decision; a denial has none."""
        if decision.effect is not ALLOW:
            msg = "only an allowing decision makes a permit"
            raise ValueError(msg)
        return cls(call, principal, request, decision)


_RECORDED = object()


class Intent(msgspec.Struct, frozen=True, gc=False):
    """A permit whose record is durable: the only thing that may be forwarded.  `gateway/record.py` alone makes one.

    receipt  where the record stands, for the caller to keep.
    pending  the same while the record is being written (tools that change nothing): no answer is released before it is there.
    """

    permit: Permit
    start_index: int
    seal: object = None
    receipt: Receipt | None = None
    pending: Awaitable[Receipt] | None = None

    def __post_init__(self) -> None:
        if self.seal is not _RECORDED:
            msg = "an Intent is made by gateway.record alone"
            raise TypeError(msg)


class Reply(msgspec.Struct, frozen=True, gc=False):
    """One message back: a progress event, or the final word.

    payload  parsed, to be filtered; body the bytes that are released, set by the filter (None: an empty answer).
    failed   the tool or the protocol said no (a result with `isError`, a JSON-RPC error).
    event    id at which the stream can be resumed after this message, and `retry` the milliseconds to wait before (MCP, legacy).
    goes_on  final for this hop alone: the upstream closed the stream, and says the rest to whoever resumes it.
    streamed final and alone in its stream, which it is for the client too (MCP, legacy).
    looked   what duties look for in it was looked for beside the filter, which then blanks nothing: what it is flagged for.
    original what it said before a duty blanked some of that; "" where none did.
    """

    payload: Any
    is_final: bool
    body: bytes | None = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    failed: bool = False
    event: str = ""
    retry: int = 0
    goes_on: bool = False
    streamed: bool = False
    looked: tuple[str, ...] | None = None
    original: bytes = b""


Said = Reply | AsyncGenerator[Reply, None]
"""What comes back: the one answer, which is final, or messages as they come, the last of them (and at least one) final."""


class OutcomeStatus(StrEnum):
    """How a forwarded call ended."""

    OK = "ok"
    TOOL_ERROR = "tool-error"
    UPSTREAM_ERROR = "upstream-error"
    INTERRUPTED = "interrupted"
    INTERNAL_ERROR = "internal-error"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What is recorded of a forwarded call's end.  `events` counts all released messages, `bytes` their length.

    step     what became of its step in a workflow (`policies.workflows.story.State`); "" where it is none.
    results  what is kept of its result or its task (`policies.workflows.kept`); `followed` of earlier calls that became tasks.
    original what its last message said before a duty blanked some of that; flags: what its messages were flagged for.
    chunks   what commits to all released messages, where anything came before the last one.
    """

    status: OutcomeStatus
    body: bytes = b""
    detail: str = ""
    events: int = 0
    bytes: int = 0
    step: str = ""
    results: str = ""
    original: Octets = b""
    flags: tuple[str, ...] = ()
    followed: Followed | None = None
    chunks: Chunks | None = None
