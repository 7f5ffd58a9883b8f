"""Reference A2A agent on the official SDK; behaviour is chosen by the messageId's prefix, as the TCK's scenarios ask.

    python a2a_reference.py --port 0 [--auth] [--no-stream] [--no-push] [--grpc]

Prints `ready PORT` once connections are accepted.  Prefixes of our own: gw-headers (what it received), gw-message (the message
as it came), gw-auth-open-K (waits for a person until gw-release-K comes), gw-ticks-N (a chunk a second, N of them).
With --grpc it prints `ready PORT GRPCPORT`.
"""

import argparse
import asyncio
import json
import logging
import socket

try:
    import a2a.types.a2a_pb2_grpc as a2a_grpc
    import grpc.aio
    from a2a.server.request_handlers import DefaultGrpcServerCallContextBuilder, GrpcHandler
except ImportError:
    grpc = None
import httpx
import uvicorn
from a2a.auth.user import User
from a2a.helpers.proto_helpers import new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.tasks import BasePushNotificationSender, InMemoryPushNotificationConfigStore, InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentProvider,
    AgentSkill,
    HTTPAuthSecurityScheme,
    Part,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from starlette.applications import Starlette
from starlette.responses import JSONResponse

REST = "/a2a/rest"
RELEASED = {}  # K of gw-auth-open-K → asyncio.Event
log = logging.getLogger("ref-agent")


class Executor(AgentExecutor):
    """Prefix-routed behaviour; the last branch echoes (our own demo)."""

    async def execute(self, ctx: RequestContext, q: EventQueue) -> None:  # noqa: C901  one branch a prefix
        # With only taskId in the message a2a-sdk 1.3.0 gives a NEW ctx.context_id;
        # the spec (3.4.3) says to infer it from the task.
        cid = ctx.current_task.context_id if ctx.current_task else ctx.context_id
        u = TaskUpdater(q, ctx.task_id, cid)
        mid = ctx.message.message_id if ctx.message else ""

        def msg(text):
            return u.new_agent_message([Part(text=text)])

        if mid.startswith("tck-message-response"):
            await q.enqueue_event(msg("Direct message response"))
            return
        if mid.startswith("gw-headers"):
            await q.enqueue_event(msg(json.dumps(dict(ctx.call_context.state["headers"]))))
            return
        if mid.startswith("gw-message"):
            seen = json_format.MessageToDict(ctx.message) | {"tenant": ctx.tenant}
            await q.enqueue_event(msg(json.dumps(seen)))
            return
        if mid.startswith("gw-release-"):
            RELEASED.setdefault(mid.removeprefix("gw-release-"), asyncio.Event()).set()
            await q.enqueue_event(msg("released"))
            return
        if ctx.current_task is None:
            await q.enqueue_event(new_task_from_user_message(ctx.message))

        if mid.startswith("gw-auth-open-"):
            await u.requires_auth(msg("Please authorise at https://idp.example/"))
            await RELEASED.setdefault(mid.removeprefix("gw-auth-open-"), asyncio.Event()).wait()
            await u.complete(msg("authorised"))
        elif mid.startswith("gw-ticks-"):
            await u.start_work()
            for tick in range(count := int(mid.split("-")[2])):
                await asyncio.sleep(1)
                part = [Part(text=f"tick-{tick} ")]
                await u.add_artifact(part, artifact_id="ticks", append=tick > 0, last_chunk=tick == count - 1)
            await u.complete()
        elif mid.startswith("tck-reject-task"):
            await u.reject(msg("rejected"))
        elif mid.startswith("tck-input-required"):
            await u.requires_input(msg("need more input"))
        elif mid.startswith("tck-auth-required"):
            await u.requires_auth(msg("Please authorise at https://idp.example/"))
        elif mid.startswith("tck-artifact-file-url"):
            await u.add_artifact([Part(url="https://example.com/output.txt", media_type="text/plain", filename="output.txt")])
            await u.complete()
        elif mid.startswith("tck-artifact-file"):
            await u.add_artifact([Part(raw=b"tck", media_type="text/plain", filename="output.txt")])
            await u.complete()
        elif mid.startswith("tck-artifact-text"):
            await u.add_artifact([Part(text="Generated text content")])
            await u.complete()
        elif mid.startswith("tck-artifact-data"):
            await u.add_artifact([Part(data=json_format.Parse('{"key": "value", "count": 42}', Value()))])
            await u.complete()
        elif mid.startswith("tck-stream-artifact-chunked"):
            await u.start_work()
            await u.add_artifact([Part(text="chunk-1 ")], artifact_id="a1", append=False, last_chunk=False)
            await u.add_artifact([Part(text="chunk-2")], artifact_id="a1", append=True, last_chunk=True)
            await u.complete()
        elif mid.startswith("tck-stream-artifact-file"):
            await u.start_work()
            await u.add_artifact([Part(raw=b"tck", media_type="text/plain", filename="output.txt")])
            await u.complete()
        elif mid.startswith(("tck-stream-artifact-text", "tck-stream-001", "tck-stream-003", "tck-stream-ordering-001")):
            await u.start_work()
            await u.add_artifact([Part(text="Stream hello from TCK")])
            await u.complete()
        elif mid.startswith("tck-stream-002"):
            await u.complete()
        elif mid.startswith("test-resubscribe-message-id"):
            await u.start_work()
            await asyncio.sleep(4.5)
            await u.complete()
        elif mid.startswith("tck-complete-task"):
            await u.complete(msg("Hello from TCK"))
        elif "test" in mid:  # TCK 0.3: tasks must stay open for follow-ups
            await u.start_work()
            await u.add_artifact([Part(text="echo: " + ctx.get_user_input())])
            await u.requires_input(msg("anything else?"))
        else:
            await u.start_work()
            await asyncio.sleep(0.3)
            await u.add_artifact([Part(text="echo: " + ctx.get_user_input())])
            await u.complete(msg("echo: " + ctx.get_user_input()))

    async def cancel(self, ctx: RequestContext, q: EventQueue) -> None:
        await TaskUpdater(q, ctx.task_id, ctx.context_id).cancel()


class Named(User):
    def __init__(self, name):
        self._n = name

    is_authenticated = property(lambda s: bool(s._n))
    user_name = property(lambda s: s._n)


def _bearer(value):
    return value[7:].strip() if value and value.lower().startswith("bearer ") else ""


class HttpCtx(DefaultServerCallContextBuilder):
    def build_user(self, request):
        return Named(_bearer(request.headers.get("authorization")))


if grpc:

    class GrpcCtx(DefaultGrpcServerCallContextBuilder):
        def build_user(self, context):
            return Named(_bearer(dict(context.invocation_metadata() or ()).get("authorization")))


class RequireAuth:
    """401 with a challenge on everything but the public card (ASGI)."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and not scope["path"].startswith("/.well-known/"):
            hdr = dict(scope["headers"]).get(b"authorization", b"").decode()
            if not _bearer(hdr):
                return await JSONResponse(
                    {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "Authentication required"}},
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )(scope, receive, send)
        await self.app(scope, receive, send)
        return None


async def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--host", default="127.0.0.1")
    ap.add_argument("--port", type=int, default=9999)
    ap.add_argument("--grpc", action="store_true", help="serve gRPC too, at any port that is free")
    ap.add_argument("--public-url", default="")
    ap.add_argument("--compat03", action="store_true")
    ap.add_argument("--auth", action="store_true")
    ap.add_argument("--extended", action="store_true")
    ap.add_argument("--no-push", action="store_true")
    ap.add_argument("--no-stream", action="store_true")
    a = ap.parse_args()
    logging.basicConfig(level=logging.WARNING)
    # asyncio sends small pieces at once (TCP_NODELAY) only where the socket itself says that it is one of TCP
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind((a.host, a.port))
    sock.listen()
    a.port = sock.getsockname()[1]
    base = a.public_url or f"http://{a.host}:{a.port}"
    gs = grpc.aio.server() if a.grpc else None
    gport = gs.add_insecure_port(f"{a.host}:0") if a.grpc else 0

    ifaces = [
        AgentInterface(url=base, protocol_binding="JSONRPC", protocol_version="1.0"),
        AgentInterface(url=base + REST, protocol_binding="HTTP+JSON", protocol_version="1.0"),
    ]
    if gport > 0:
        ifaces.append(AgentInterface(url=f"{a.host}:{gport}", protocol_binding="GRPC", protocol_version="1.0"))
    if a.compat03:
        ifaces += [
            AgentInterface(url=base, protocol_binding="JSONRPC", protocol_version="0.3"),
            AgentInterface(url=base + REST, protocol_binding="HTTP+JSON", protocol_version="0.3"),
        ]
    skills = [
        AgentSkill(id="tck", name="TCK Conformance", tags=["tck"], description="Handles TCK conformance test messages"),
        AgentSkill(id="echo", name="Echo", tags=["demo"], description="Echoes what the user said"),
    ]
    card = AgentCard(
        name="Reference agent",
        description="a2a-sdk reference agent for gateway tests",
        version="1.0.0",
        provider=AgentProvider(organization="Test", url="https://example.com"),
        supported_interfaces=ifaces,
        capabilities=AgentCapabilities(
            streaming=not a.no_stream, push_notifications=not a.no_push, extended_agent_card=a.extended
        ),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=skills,
    )
    if a.auth:
        card.security_schemes["bearer"].CopyFrom(
            SecurityScheme(http_auth_security_scheme=HTTPAuthSecurityScheme(scheme="Bearer"))
        )
        card.security_requirements.append(SecurityRequirement(schemes={"bearer": StringList(list=[])}))
    ext = None
    if a.extended:
        ext = AgentCard()
        ext.CopyFrom(card)
        ext.skills.append(AgentSkill(id="secret", name="Secret", tags=["x"], description="Only for authenticated callers"))

    pstore = InMemoryPushNotificationConfigStore()
    handler = DefaultRequestHandler(
        agent_executor=Executor(),
        task_store=InMemoryTaskStore(),
        agent_card=card,
        push_config_store=None if a.no_push else pstore,
        push_sender=None if a.no_push else BasePushNotificationSender(httpx.AsyncClient(timeout=5), pstore),
        extended_agent_card=ext,
        validate_input_modes=False,
    )
    http_ctx = HttpCtx() if a.auth else None
    app = Starlette(
        routes=[
            *create_agent_card_routes(card, cache_control="public, max-age=60"),
            *create_rest_routes(handler, context_builder=http_ctx, path_prefix=REST, enable_v0_3_compat=a.compat03),
            *create_jsonrpc_routes(handler, "/", context_builder=http_ctx, enable_v0_3_compat=a.compat03),
        ]
    )
    if a.auth:
        app = RequireAuth(app)
    server = uvicorn.Server(uvicorn.Config(app, host=a.host, port=a.port, log_level="warning"))
    if gs:
        a2a_grpc.add_A2AServiceServicer_to_server(GrpcHandler(handler, GrpcCtx() if a.auth else None), gs)
        if a.compat03:
            from a2a.compat.v0_3 import a2a_v0_3_pb2_grpc as g03
            from a2a.compat.v0_3.grpc_handler import CompatGrpcHandler

            g03.add_A2AServiceServicer_to_server(CompatGrpcHandler(handler), gs)
        await gs.start()
    try:
        print(f"ready {a.port} {gport or ''}", flush=True)
        await server.serve(sockets=[sock])
    finally:
        if gs:
            await gs.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
