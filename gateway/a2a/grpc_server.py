"""A2A over gRPC on addresses of its own: frames a call, sends it down the road, writes what comes back.  It decides nothing.

A port serves one agent, or several that are told apart by the authority they are reached under.  grpcio shows a server no
`:authority`; a proxy in front says it by `x-forwarded-host`.  That claims nothing: which agent is meant is the caller's to say.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from ssl import PEM_cert_to_DER_cert
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from msgspec.structs import replace

from gateway.a2a import grpc_status
from gateway.a2a.answers import AgentSaysNo
from gateway.a2a.grpc_status import STATUS_KEY, Status
from gateway.a2a.grpc_wire import answer
from gateway.a2a.waiting import served
from gateway.asgi import (
    DECISION_HEADER,
    MAX_HEADER_BYTES,
    WORKFLOW_HEADER,
    Scope,
    Seat,
    Slots,
    fields_of,
    make_arrival,
    turned_away,
)
from gateway.bodies import Bodies
from gateway.eventstream import HEARTBEAT_SECONDS
from gateway.model import Arrival, Clock, Refused, Reply, UpstreamError, wall_clock
from gateway.pipeline import Stages
from gateway.reasons import Code
from gateway.settings import Limits

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or strangers write lines of their choice into our log
import grpc
import grpc.aio

if TYPE_CHECKING:
    _Context = grpc.aio.ServicerContext[bytes, bytes]

GRACE_SECONDS: Final = 15.0
STREAMS_PER_CONNECTION: Final = 128
CONNECTIONS: Final = 2048
"""At each port; a client needs one."""
_FORWARDED: Final = "x-forwarded-host"
_MILLI: Final = 1000
_PEM: Final = b"-----BEGIN CERTIFICATE-----"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_OVERSIZE: Final = 64 * 1024
"""How much too large a message may be and still be read, so that its refusal is on record as what it is."""


class DeafError(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Door:
    """One address, and who is served there.

    port     0: any that is free.
    agents   by authority, as `erp.gateway.example` and `erp.gateway.example:443`; of several for the same agent any will do.
    origins  of each agent: under which the world reaches it, as `https://erp.gateway.example`.
    """

    host: str
    port: int
    agents: Mapping[str, str]
    origins: Mapping[str, str]

    def agent(self, found: Mapping[str, Sequence[str]]) -> str:
        """Whom a call is for; "" for an authority that is nobody's."""
        names = set(self.agents.values())
        if len(names) == 1:
            return next(iter(names))
        hosts = found.get(_FORWARDED, ())
        return self.agents.get(hosts[0].strip().lower(), "") if len(hosts) == 1 else ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain and its key, PEM; read again when a file has changed.

    clients  authorities, one of which signed the certificate of whoever connects; None: nobody is asked for one.
    """

    chain: Path
    key: Path
    clients: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """OSError where they cannot be read now.  Later on, what cannot be read changes nothing."""
        seen = self._seen()
        first = self._read()

        def again() -> grpc.ServerCertificateConfiguration | None:
            nonlocal seen
            try:
                now = self._seen()
                if now == seen:
                    return None
                read = self._read()
            except OSError:
                return None
            seen = now
            return read

        demand = self.clients is not None  # and then it is verified
        return grpc.dynamic_ssl_server_credentials(first, again, demand)  # type: ignore[arg-type]  # None: nothing new, as documented

    def _read(self) -> grpc.ServerCertificateConfiguration:
        roots = self.clients.read_bytes() if self.clients is not None else None
        if roots is not None and _PEM not in roots:
            raise DeafError(f"no certificate of an authority in {self.clients}")  # or grpcio would take those of the system
        return grpc.ssl_server_certificate_configuration([(self.key.read_bytes(), self.chain.read_bytes())], roots)

    def _seen(self) -> tuple[int, ...]:
        files = (self.chain, self.key, *((self.clients,) if self.clients is not None else ()))
        return tuple(file.stat().st_mtime_ns for file in files)


class GrpcFace:
    """The gRPC face of the gateway; `stages` says those of an `A2aRoad` by which calls are served now.

    A client that cancels, or whose deadline passes, closes the stream from its agent; the task goes on, as on every binding.
    """

    def __init__(
        self,
        stages: Callable[[], Stages],
        *,
        limits: Limits,
        slots: Slots | None = None,
        clock: Clock = wall_clock,
        connections: int = CONNECTIONS,
    ) -> None:
        """connections  that each port holds at once."""
        self._connections = connections
        self._stages = stages
        self._limits = limits
        self._slots = slots or Slots(limits.concurrent_calls)
        self._streams = Slots(limits.concurrent_streams)
        self._bodies = Bodies(limits.body_bytes, limits.concurrent_calls)
        self._clock = clock
        self._servers: list[grpc.aio.Server] = []
        self._running: set[asyncio.Future[Any]] = set()

    async def open(self, door: Door, certificate: Certificate | None = None) -> int:
        """Listen; the port.  `DeafError` where that cannot be, and for a certificate that cannot be used."""
        server = grpc.aio.server(
            options=_options(self._limits, self._connections),
            maximum_concurrent_rpcs=2 * self._limits.concurrent_calls + self._limits.concurrent_streams,
        )
        server.add_generic_rpc_handlers((_Calls(self, door),))
        host = f"[{door.host}]" if ":" in door.host else door.host
        address = f"{host}:{door.port}"
        try:
            if certificate is None:
                port = server.add_insecure_port(address)
            else:
                credentials = await asyncio.to_thread(certificate.credentials)
                port = server.add_secure_port(address, credentials)
        except RuntimeError:
            raise DeafError(f"cannot listen on {address}") from None
        self._servers.append(server)
        await server.start()
        return port

    async def close(self, grace: float = GRACE_SECONDS) -> None:
        """Take nothing new, let calls end for so long, then cut them; what they have to record is recorded on return."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
        while self._running:
            await asyncio.wait(self._running)

    async def serve(self, path: str, door: Door, context: _Context) -> None:
        """One call, to its end."""
        task = asyncio.current_task()
        if task is not None:
            self._keep(task)
        scope = _scope(path, context)
        try:
            arrival = await self._arrive(scope, door, context)
            with Seat(self._slots, self._streams) as seat:
                await self._govern(arrival, context, seat)
        except Refused as refusal:
            told = self._keep(
                asyncio.ensure_future(turned_away(scope, "a2a", self._clock, refusal, self._stages().record_refusal))
            )
            decision = await asyncio.shield(told)  # a client that is gone by now is on record all the same
            _end(context, grpc_status.refused(refusal, decision), decision)
        except grpc.aio.BaseError:
            return  # the client is gone

    async def _arrive(self, scope: Scope, door: Door, context: _Context) -> Arrival:
        headers, found = fields_of(scope)
        if "origin" in found:  # no gRPC client says one, and every web page does
            raise Refused(Code.BAD_ORIGIN, "Origin")
        agent = door.agent(found)
        body = await self._bodies.read(_Body(context).receive)
        arrival = make_arrival(
            scope, body, protocol="a2a", target=agent, path=scope["path"], clock=self._clock, headers=headers, found=found
        )
        return replace(arrival, binding="grpc", origin=door.origins.get(agent, ""), certificate=_shown(context))

    async def _govern(self, arrival: Arrival, context: _Context, seat: Seat) -> None:
        workflow, started = "", False
        try:
            begun = asyncio.get_running_loop().time()
            async with (
                asyncio.timeout(self._limits.call_seconds) as limit,
                aclosing(served(arrival, self._stages())) as replies,
            ):
                async for reply in replies:
                    if isinstance(reply.payload, AgentSaysNo):
                        _end(
                            context,
                            grpc_status.said(reply.payload.error),
                            arrival.id,
                            dict(reply.headers).get(WORKFLOW_HEADER, ""),
                        )
                        return
                    stands = not started and not reply.is_final
                    if stands:
                        seat.stands()
                    await _release(reply, arrival, context, started=started)
                    if stands:  # which may be for longer than one answer may take
                        limit.reschedule(begun + self._limits.stream_seconds)
                    started = True
            return
        except Refused as refusal:
            workflow = refusal.principal.workflow if refusal.principal else ""
            status = grpc_status.refused(refusal, arrival.id)
        except UpstreamError as error:
            status = grpc_status.failed(error, arrival.id)
        except TimeoutError:
            status = grpc_status.failed(UpstreamError("timeout"), arrival.id)
        _end(context, status, arrival.id, workflow)

    def _keep(self, work: asyncio.Future[Any]) -> asyncio.Future[Any]:
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        return work


class _Calls(grpc.GenericRpcHandler):
    """Every method of every service is a call: what is not served is refused on the road, and on record."""

    def __init__(self, face: GrpcFace, door: Door) -> None:
        self._face = face
        self._door = door

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler that reads the one message itself, so that its size and its time are bounded here."""
        path = handler_call_details.method

        async def call(_messages: object, context: _Context) -> None:
            await self._face.serve(path, self._door, context)

        handler: Any = grpc.stream_stream_rpc_method_handler(call)
        return handler  # type: ignore[no-any-return]


class _Body:
    """The one message of a call as ASGI would bring it."""

    def __init__(self, context: _Context) -> None:
        self._context = context
        self._read = False

    async def receive(self) -> dict[str, Any]:
        """The message, then its end."""
        message: Any = await self._context.read()  # bytes, or the word for the end
        if self._read:
            if message is not grpc.aio.EOF:
                raise Refused(Code.MALFORMED, "more than one message")
            return {"type": "http.request", "body": b"", "more_body": False}
        if message is grpc.aio.EOF:  # none came, or one of which even the size is too much
            raise Refused(Code.MALFORMED, "no message")
        self._read = True
        return {"type": "http.request", "body": message, "more_body": True}


def _scope(path: str, context: _Context) -> Scope:
    """A call as ASGI frames one.  Binary metadata is nothing that is read here."""
    lines = [
        (key.encode("latin-1", "replace"), value.encode("utf-8"))
        for key, value in context.invocation_metadata() or ()
        if isinstance(value, str)
    ]
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": lines,
        "client": _peer(context.peer()),
    }


def _shown(context: _Context) -> bytes:
    """DER of the certificate that TLS verified; none where none was asked for."""
    found = tuple(context.auth_context().get("x509_pem_cert", ()))
    return PEM_cert_to_DER_cert(found[0].decode("ascii")) if len(found) == 1 else b""


def _peer(text: str) -> tuple[str, int]:
    """Address of `ipv4:127.0.0.1:50051` or `ipv6:%5B::1%5D:50051`; "" where it has none."""
    host = unquote(text).partition(":")[2].rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host)
    except ValueError:
        return "", 0
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), 0


async def _release(reply: Reply, arrival: Arrival, context: _Context, *, started: bool) -> None:
    """One message to the client; metadata goes before the first."""
    if not started:
        lines = ((DECISION_HEADER, arrival.id), *reply.headers)
        await context.send_initial_metadata(tuple((name.lower(), value) for name, value in lines))
    if reply.payload is not None:  # None: the stream ends after what has been sent
        await context.write(answer(reply.payload))


def _end(context: _Context, status: Status, decision: str, workflow: str = "") -> None:
    context.set_code(_CODES[status.code])
    context.set_details(status.message)
    known = ((DECISION_HEADER.lower(), decision), *(((WORKFLOW_HEADER.lower(), workflow),) if workflow else ()))
    context.set_trailing_metadata((*known, *status.trailing, (STATUS_KEY, status.details)))


def _options(limits: Limits, connections: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.body_bytes + _OVERSIZE),
        ("grpc.max_send_message_length", -1),  # answers are bounded where they are read
        ("grpc.max_metadata_size", MAX_HEADER_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_HEADER_BYTES),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # identity: nothing is blown up here
        ("grpc.so_reuseport", 0),  # or a second gateway could take half of the calls
        ("grpc.keepalive_time_ms", int(HEARTBEAT_SECONDS * _MILLI)),
        ("grpc.keepalive_timeout_ms", int(HEARTBEAT_SECONDS * _MILLI)),
        ("grpc.http2.min_ping_interval_without_data_ms", 10 * _MILLI),
        ("grpc.max_connection_idle_ms", 120 * _MILLI),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", 20 * _MILLI),
    ]
