"""The only place that speaks OpenTelemetry: counts for whoever scrapes, spans and metrics for a collector.

The road hands over plain values and goes on: it never waits here and nothing here decides anything.  A thread makes the spans,
with the times and ids that the calls had; they leave only where a standard OTEL_* variable names a collector.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway import prometheus, signals
from gateway.logs import CURRENT
from gateway.model import Arrival, Intent, Outcome, OutcomeStatus, Refused, wall_clock
from gateway.prometheus import Family, Sample
from gateway.signals import Seen

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger(__name__)

_UPSTREAM_ERROR = OutcomeStatus.UPSTREAM_ERROR.value
_LAST_WORDS = 5.0
"""Seconds that a stop waits for the collector."""


class Telemetry:
    """Counts, and hands spans to a collector.  `observe` and `in_flight` belong to the event loop's thread; the rest to any."""

    def __init__(self, service_version: str, queue: int = 2048) -> None:
        self._version = service_version
        self._started = time.time()
        self._rows: dict[tuple[str, str, str], list[int]] = {}  # by protocol, outcome, code: a count per bucket, then all µs
        self._flying = {"mcp": 0, "a2a": 0}
        self._dropped = 0
        self._queue: deque[Seen] = deque()
        self._hops: dict[str, list[int]] = {}  # by call: when its forwarding began, and when it ended; until it is observed
        self._room = queue
        self._export: _Export | None = None
        self._ledger_queue: Callable[[], int] | None = None
        self._ledger_healthy: Callable[[], bool] | None = None
        self._bundle: Callable[[], str] | None = None
        self._policy: Callable[[], Iterator[Family]] | None = None
        self._proofs: Callable[[], Iterator[Family]] | None = None
        self._sandbox: Callable[[], Iterator[Family]] | None = None
        self._stdio: Callable[[], Iterator[Family]] | None = None

    @classmethod
    def start(cls, environ: Mapping[str, str], service_version: str) -> Telemetry:
        """Start counting; export too where OTEL_EXPORTER_OTLP_ENDPOINT (or one signal's) is set and OTEL_SDK_DISABLED is not.

        `environ` decides whether to export; how (sampler, headers, timeouts, resource) is read by the SDK from the process's own.
        """
        telemetry = cls(service_version, _positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048))
        traces, metrics = signals.exported(environ, "TRACES"), signals.exported(environ, "METRICS")
        if traces or metrics:
            telemetry._export = _Export(telemetry, environ, traces=traces, metrics=metrics)
        signals.sample_as(os.environ if traces else None)  # the process's own, as the SDK reads it
        return telemetry

    def watch(
        self,
        *,
        ledger_queue: Callable[[], int] | None = None,
        ledger_healthy: Callable[[], bool] | None = None,
        bundle: Callable[[], str] | None = None,
        policy: Callable[[], Iterator[Family]] | None = None,
        proofs: Callable[[], Iterator[Family]] | None = None,
        sandbox: Callable[[], Iterator[Family]] | None = None,
        stdio: Callable[[], Iterator[Family]] | None = None,
    ) -> None:
        """Where gauges are read from whenever somebody asks: entries waiting, whether appends succeed, the bundle's digest.

        `policy` counts for itself: reloads, and what a watched rule would have flipped; `proofs`: who outside saw the log;
        `sandbox`: runs, and who waits; `stdio`: processes of servers.
        """
        self._ledger_queue = ledger_queue or self._ledger_queue
        self._ledger_healthy = ledger_healthy or self._ledger_healthy
        self._bundle = bundle or self._bundle
        self._policy = policy or self._policy
        self._proofs = proofs or self._proofs
        self._sandbox = sandbox or self._sandbox
        self._stdio = stdio or self._stdio

    @contextmanager
    def in_flight(self, arrival: Arrival) -> Iterator[None]:
        """`set_out`, and `came_back` in any case.  `observe` of the same call comes afterwards, always."""
        self.set_out(arrival)
        try:
            yield
        finally:
            self.came_back(arrival)

    def set_out(self, arrival: Arrival) -> None:
        """A call is being forwarded: it counts, its log records carry its trace, the time is kept for its hop's span."""
        self._flying[arrival.protocol] += 1
        CURRENT.set(arrival.trace)
        if self._export is not None:
            self._hops[arrival.id] = [wall_clock()]

    def came_back(self, arrival: Arrival) -> None:
        """The call is not being forwarded any more; once for each `set_out`, and before its `observe`."""
        self._flying[arrival.protocol] -= 1
        CURRENT.set(None)  # not a token: a stream may end in another context than it began in
        if self._hops and (hop := self._hops.get(arrival.id)) is not None:
            hop.append(wall_clock())

    def observe(self, arrival: Arrival, road: Intent | Refused, outcome: Outcome | None, finished_at_us: int) -> None:
        """One call has ended: as `road` says, refused; else forwarded, with this outcome.  Never blocks, never raises."""
        code = ""
        if isinstance(road, Refused):
            status, code = signals.REFUSED, road.code.value
        elif outcome is None:
            status = OutcomeStatus.INTERRUPTED.value
        else:
            status = outcome.status._value_  # a slot, where `value` is a property in Python
            if status == _UPSTREAM_ERROR:
                kind = outcome.detail.partition(":")[0]
                code = kind if kind in signals.UPSTREAM_KINDS else "other"
        key = (arrival.protocol, status, code)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = [0] * (len(signals.BOUNDS_US) + 2)
        elapsed = max(finished_at_us - arrival.at, 0)
        row[bisect_left(signals.BOUNDS_US, elapsed)] += 1
        row[-1] += elapsed
        export = self._export  # once: a stop may take it away meanwhile, in another thread
        if export is None:
            return
        times = self._hops.pop(arrival.id, ())
        if len(self._queue) >= self._room:
            self._dropped += 1
            return
        hop = (times[0], times[-1]) if times else None
        self._queue.append(signals.seen_of(arrival, road, status, code, finished_at_us, hop=hop))
        if len(self._queue) == export.batch:
            export.wake.set()

    def render_prometheus(self) -> bytes:
        """All metrics in text format 0.0.4.  Label values come from closed lists, our own version and the bundle's digest."""
        return prometheus.render(self._families())

    def shutdown(self) -> None:
        """Export what is queued, bounded in time, and stop.  Counting goes on.  It blocks: not for the event loop's thread."""
        export, self._export = self._export, None
        if export is not None:
            export.shutdown()
            signals.sample_as(None)

    def _families(self) -> Iterator[Family]:
        rows = sorted((key, tuple(row)) for key, row in self._rows.copy().items())
        calls = [Sample({"protocol": p, "outcome": o, "code": c}, sum(row[:-1])) for (p, o, c), row in rows]
        yield Family(
            signals.CALLS,
            "counter",
            "Calls that ended, by how; code says why one was refused or which way the upstream failed.",
            calls,
        )
        bounds = [bound / 1e6 for bound in signals.BOUNDS_US]
        merged: dict[tuple[str, str], list[int]] = {}
        for (protocol, outcome, _), row in rows:
            before = merged.get((protocol, outcome), [0] * len(row))
            merged[protocol, outcome] = [a + b for a, b in zip(before, row, strict=True)]
        durations = [
            sample
            for (protocol, outcome), row in merged.items()
            for sample in prometheus.histogram({"protocol": protocol, "outcome": outcome}, bounds, row[:-1], row[-1] / 1e6)
        ]
        yield Family(signals.DURATION, "histogram", "From a call's arrival to its end.", durations)
        flying = [Sample({"protocol": p}, n) for p, n in sorted(self._flying.items())]
        yield Family(signals.IN_FLIGHT, "gauge", "Calls that are being served.", flying)
        failed = [(p, code, sum(row[:-1])) for (p, outcome, code), row in rows if outcome == OutcomeStatus.UPSTREAM_ERROR.value]
        upstream = [Sample({"protocol": p, "kind": kind}, n) for p, kind, n in failed]
        yield Family(signals.UPSTREAM_ERRORS, "counter", "Upstreams that could not be reached or broke their protocol.", upstream)
        yield Family(
            signals.SPANS_DROPPED,
            "counter",
            "Calls whose span was given up because the queue was full.",
            [Sample({}, self._dropped)],
        )
        if self._ledger_queue is not None:
            yield Family(
                signals.LEDGER_QUEUE, "gauge", "Records that wait to become durable.", [Sample({}, self._ledger_queue())]
            )
        if self._ledger_healthy is not None:
            yield Family(
                signals.LEDGER_HEALTHY,
                "gauge",
                "1 while records become durable; at 0 no call is made but those that a spool keeps.",
                [Sample({}, int(self._ledger_healthy()))],
            )
        if self._bundle is not None:
            yield Family(signals.BUNDLE_INFO, "gauge", "The policy bundle that decides.", [Sample({"digest": self._bundle()}, 1)])
        for others in (self._policy, self._proofs, self._sandbox, self._stdio):
            yield from others() if others is not None else ()
        yield Family(signals.BUILD_INFO, "gauge", "What runs here.", [Sample({"version": self._version}, 1)])
        yield Family(
            signals.PROCESS_START, "gauge", "Start of this process, in seconds since the epoch.", [Sample({}, self._started)]
        )


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and int(text[:9]) > 0 else default


class _Export:
    """The thread that turns what was seen into spans, and the SDK behind it.  Its imports cost time and memory: only here."""

    def __init__(self, telemetry: Telemetry, environ: Mapping[str, str], *, traces: bool, metrics: bool) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  see the class

        protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        if protocol != "http/protobuf":
            log.warning("OTEL_EXPORTER_OTLP_PROTOCOL is %s, but only http/protobuf is spoken here", protocol)
        own = {"service.version": telemetry._version}
        if "OTEL_SERVICE_NAME" not in environ and "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            own["service.name"] = signals.SERVICE_NAME
        resource = Resource.create(own)
        self.batch = min(_positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), telemetry._room)
        self.wake = threading.Event()
        self._telemetry = telemetry
        self._pause = _positive(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000
        self._stopping = False
        self._spans = _Spans(resource, telemetry._version) if traces else None
        self._meters = _Meters(resource, telemetry) if metrics else None
        self._thread = threading.Thread(target=self._run, name="bailiwick-telemetry", daemon=True)
        self._thread.start()

    def shutdown(self) -> None:
        self._stopping = True
        self.wake.set()
        self._thread.join(_LAST_WORDS)
        if self._spans is not None:
            self._spans.exporter.shutdown()  # type: ignore[no-untyped-call]  # also ends a retry that is waiting
        if self._meters is not None:
            self._meters.provider.shutdown(timeout_millis=int(_LAST_WORDS * 1000))
        self._thread.join(_LAST_WORDS)

    def _run(self) -> None:
        while not self._stopping:
            self.wake.wait(self._pause)
            self.wake.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        queue = self._telemetry._queue
        while queue:
            seen = [queue.popleft() for _ in range(min(len(queue), self.batch))]
            if self._meters is not None:
                for each in seen:
                    self._meters.record(each)
            if self._spans is not None:
                self._spans.send(seen)


class _Spans:
    """Real SDK spans, sampled by the SDK, with the ids and the times that the calls had: SERVER, and CLIENT for the hop."""

    def __init__(self, resource: Resource, version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  see _Export
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.id_generator import IdGenerator  # noqa: PLC0415

        class GivenIds(IdGenerator):
            trace_id = span_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id

            def generate_span_id(self) -> int:
                return self.span_id

        class Collect(SpanProcessor):
            def __init__(self) -> None:
                self.ended: list[ReadableSpan] = []

            def on_end(self, span: ReadableSpan) -> None:
                if span.context is not None and span.context.trace_flags.sampled:
                    self.ended.append(span)

        self.exporter = OTLPSpanExporter()
        self._ids = GivenIds()
        self._collect = Collect()
        provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(self._collect)
        self._tracer = provider.get_tracer(signals.SCOPE, version)

    def send(self, batch: list[Seen]) -> None:
        for seen in batch:
            try:
                self._make(seen)
            except (ValueError, TypeError) as error:  # one odd call must not end the thread
                log.warning("a span could not be made: %s", type(error).__name__)
        spans, self._collect.ended = self._collect.ended, []
        if spans:
            self.exporter.export(spans)

    def _make(self, seen: Seen) -> None:
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import (  # noqa: PLC0415
            Link,
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            Status,
            StatusCode,
            TraceFlags,
            TraceState,
            set_span_in_context,
        )

        trace, context = seen.trace, Context()
        self._ids.trace_id, self._ids.span_id = int(trace.trace_id, 16), int(trace.span_id, 16)
        if trace.parent:
            state = TraceState.from_header([trace.state]) if trace.state else None
            caller = SpanContext(self._ids.trace_id, int(trace.parent, 16), True, TraceFlags(int(trace.flags, 16)), state)
            context = set_span_in_context(NonRecordingSpan(caller), context)
        links = []
        if trace.link:
            other, span_id = trace.link.split("-")
            links.append(Link(SpanContext(int(other, 16), int(span_id, 16), True)))
        span = self._tracer.start_span(
            signals.span_name(seen), context, SpanKind.SERVER, signals.attributes(seen), links, seen.started * 1000
        )
        if problem := signals.error_type(seen):
            span.set_status(Status(StatusCode.ERROR, problem))
        end = max(seen.finished, seen.started)
        span.end(end * 1000)
        if seen.hop is None:
            return
        began, ended = (min(max(at, seen.started), end) for at in seen.hop)  # the two clocks need not agree to the microsecond
        self._ids.span_id = int(signals.hop_span(trace.span_id), 16)
        onward = set_span_in_context(span, context)
        hop = self._tracer.start_span(
            signals.span_name(seen), onward, SpanKind.CLIENT, signals.hop_attributes(seen), start_time=began * 1000
        )
        if problem:
            hop.set_status(Status(StatusCode.ERROR, problem))
        hop.end(ended * 1000)


class _Meters:
    """The same counts as Prometheus reads, observed whenever the SDK exports, and the conventions' two histograms."""

    def __init__(self, resource: Resource, telemetry: Telemetry) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  see _Export
        from opentelemetry.metrics import Observation  # noqa: PLC0415
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415

        def reader_of(name: str) -> Callable[[CallbackOptions], list[Observation]]:
            def observe(_: CallbackOptions) -> list[Observation]:
                found = [family for family in telemetry._families() if family.name == name]
                return [Observation(sample.value, dict(sample.labels)) for family in found for sample in family.samples]

            return observe

        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        self.provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        meter = self.provider.get_meter(signals.SCOPE, telemetry._version)
        for name in (signals.CALLS, signals.UPSTREAM_ERRORS, signals.SPANS_DROPPED, signals.RELOADS, signals.WOULD_FLIP):
            meter.create_observable_counter(_dotted(name), [reader_of(name)])
        for name in (signals.IN_FLIGHT, signals.LEDGER_QUEUE, signals.LEDGER_HEALTHY, signals.BUNDLE_INFO, signals.STALE):
            meter.create_observable_gauge(_dotted(name), [reader_of(name)])
        self._durations = {
            protocol: meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=signals.OTEL_BOUNDS)
            for protocol, name in (("mcp", signals.MCP_DURATION), ("a2a", signals.A2A_DURATION))
        }

    def record(self, seen: Seen) -> None:
        labels = {signals.OUTCOME: seen.outcome, signals.ERROR_TYPE: signals.error_type(seen)}
        if seen.outcome != signals.REFUSED:  # a refused call's names are the caller's own invention and without bound
            labels |= (
                {signals.MCP_METHOD: seen.method, signals.GENAI_TOOL: seen.name or ""}
                if seen.protocol == "mcp"
                else {signals.RPC_METHOD: seen.method}
            )
        elapsed = max(seen.finished - seen.started, 0) / 1e6
        self._durations[seen.protocol].record(elapsed, {key: value for key, value in labels.items() if value})


def _dotted(name: str) -> str:
    return name.removesuffix("_total").replace("bailiwick_", "bailiwick.").replace("_", ".")
