"""A collector that receives OTLP over HTTP and keeps what it decodes, and calls as the road hands them over."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway import model
from gateway.model import Arrival, Call, Intent, Permit, Principal, Trace
from policies.model import AccessRequest, Decision, Effect, Reason

TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "b7ad6b7169203331", "00f067aa0ba902b7", "01", "vendor=1")
AT = 1_790_000_000_000_000


@dataclass
class Collector:
    """What has arrived so far; it answers while `open` is set, and sets `asked` when something comes."""

    url: str
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    status: int = 200
    open: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)

    @property
    def spans(self) -> list[Span]:
        return [s for request in self.traces for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]

    def metric_names(self) -> set[str]:
        return {
            m.name
            for request in self.metrics
            for r in request.resource_metrics
            for scope in r.scope_metrics
            for m in scope.metrics
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.asked.set()
            found.open.wait()
            if found.status == 200 and self.path == "/v1/traces":
                found.traces.append(ExportTraceServiceRequest.FromString(body))
            elif found.status == 200 and self.path == "/v1/metrics":
                found.metrics.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    found.open.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.open.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def arrival(protocol: model.Protocol = "mcp", trace: Trace = TRACE, **changes: object) -> Arrival:
    values: dict[str, object] = {"target": "erp", "headers": (), "body": b"{}", "at": AT, "trace": trace} | changes
    return Arrival("01890000-0000-7000-8000-000000000001", protocol, **values)  # type: ignore[arg-type]


MakeIntent = Callable[..., Intent]


@pytest.fixture
def intent() -> MakeIntent:
    def make(came: Arrival, method: str = "tools/call", name: str | None = "write_po", rpc_id: str | int | None = 7) -> Intent:
        call = Call(came, method, came.target, {}, came.trace, name=name, rpc_id=rpc_id, version="2026-07-28")
        principal = Principal("user:idp/paul", ("agent:analyst", "agent:erp"), "acme", "wf", 0, "bearer", "00")
        request = AccessRequest("user:idp/paul", principal.actors, "acme", "call", "erp.write_po", AT)
        decision = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:ab")
        return Intent(Permit.of(call, principal, request, decision), 1, model._RECORDED)

    return make
