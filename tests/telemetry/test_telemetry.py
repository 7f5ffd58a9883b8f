"""What is counted, and what a collector receives."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway import logs, model, signals
from gateway.asgi import child_traceparent
from gateway.model import Intent, Outcome, OutcomeStatus, Refused, Trace
from gateway.reasons import Code
from gateway.telemetry import Telemetry

from .conftest import AT, TRACE, Collector, arrival

OK = Outcome(OutcomeStatus.OK)


def _exporting(collector: Collector, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Telemetry:
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **variables}.items():
        monkeypatch.setenv(name, value)
    return Telemetry.start(os.environ, "1.2.3")


def _attributes(span: Span) -> dict[str, str]:
    return {a.key: a.value.string_value for a in span.attributes}


def test_a_span_has_the_ids_the_parent_and_the_times_of_the_call(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT + 1500)
    telemetry.shutdown()
    span, _hop = collector.spans
    assert span.trace_id.hex() == TRACE.trace_id
    assert span.span_id.hex() == TRACE.span_id
    assert span.parent_span_id.hex() == TRACE.parent
    assert span.trace_state == TRACE.state
    assert span.kind == Span.SPAN_KIND_SERVER
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (AT * 1000, (AT + 1500) * 1000)
    assert span.status.code == Status.STATUS_CODE_UNSET


def test_another_span_that_led_to_a_call_is_linked(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    other, span_id = "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b8"
    came = arrival(trace=msgspec.structs.replace(TRACE, link=f"{other}-{span_id}"))
    telemetry.observe(came, intent(came), OK, AT + 1500)
    telemetry.shutdown()
    span, hop = collector.spans
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [(other, span_id)]
    assert not hop.links
    assert span.parent_span_id.hex() == TRACE.parent


def test_a_trace_that_starts_here_has_no_parent(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival(trace=Trace("a" * 32, "b" * 16))
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    span, _hop = collector.spans
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id) == ("a" * 32, "b" * 16, b"")


def test_a_tool_call_has_the_names_of_the_mcp_conventions(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    telemetry.observe(came, intent(came), Outcome(OutcomeStatus.TOOL_ERROR), AT)
    telemetry.shutdown()
    span, _hop = collector.spans
    assert span.name == "tools/call write_po"
    assert _attributes(span) == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2026-07-28",
        "jsonrpc.request.id": "7",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "write_po",
        "error.type": "tool_error",
        "bailiwick.call.id": came.id,
        "bailiwick.target": "erp",
        "bailiwick.outcome": "tool-error",
        "bailiwick.actor": "agent:erp",
        "bailiwick.policy.bundle": "sha256:ab",
    }
    assert span.status.code == Status.STATUS_CODE_ERROR


def test_a_session_and_an_agents_key_are_told_by_their_digests(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    permit = intent(came).permit
    call = msgspec.structs.replace(permit.call, session="the-upstreams-own", linked="digest-of-it")
    principal = msgspec.structs.replace(permit.principal, instance="digest-of-key")
    made = Intent(msgspec.structs.replace(permit, call=call, principal=principal), 1, model._RECORDED)
    telemetry.observe(came, made, OK, AT)
    telemetry.shutdown()
    for span in collector.spans:
        found = _attributes(span)
        assert (found["mcp.session.id"], found["bailiwick.actor.instance"]) == ("digest-of-it", "digest-of-key")
        assert "the-upstreams-own" not in found.values()


def test_an_agent_call_is_named_as_json_rpc(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival("a2a", target="erp-integration")
    telemetry.observe(came, intent(came, "SendMessage", None), OK, AT)
    telemetry.shutdown()
    span, _hop = collector.spans
    found = _attributes(span)
    assert span.name == "SendMessage erp-integration"
    assert (found["rpc.method"], found["rpc.system.name"], found["gen_ai.operation.name"]) == (
        "SendMessage",
        "jsonrpc",
        "invoke_agent",
    )


def test_no_span_names_a_person(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival(headers=(("authorization", "Bearer hunter2"),), body=b"hunter2")
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    raw = collector.traces[0].SerializeToString() + b"".join(m.SerializeToString() for m in collector.metrics)
    assert b"paul" not in raw
    assert b"hunter2" not in raw


def test_a_refused_call_is_named_without_what_the_caller_made_up(collector, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    telemetry.observe(arrival(target="made-up"), Refused(Code.NO_CREDENTIAL, "secret detail"), None, AT)
    telemetry.shutdown()
    (span,) = collector.spans
    assert span.name == "mcp"
    assert _attributes(span)["error.type"] == "no-credential"
    assert b"secret detail" not in span.SerializeToString()


def test_the_callers_decision_not_to_sample_holds(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival(trace=Trace("a" * 32, "b" * 16, "c" * 16, "00"))
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    assert collector.spans == []


def test_the_sampler_of_the_environment_holds(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch, OTEL_TRACES_SAMPLER="always_off")
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    assert collector.spans == []


def test_the_span_that_an_upstream_gets_as_parent_reaches_the_collector_as_our_hop(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    with telemetry.in_flight(came):
        said = child_traceparent(TRACE)
    telemetry.observe(came, intent(came), OK, AT + 1500)
    telemetry.shutdown()
    server, hop = collector.spans
    assert said == f"00-{hop.trace_id.hex()}-{hop.span_id.hex()}-01"
    assert hop.parent_span_id == server.span_id
    assert hop.span_id != server.span_id
    assert (hop.kind, hop.name) == (Span.SPAN_KIND_CLIENT, "tools/call write_po")
    assert hop.trace_state == TRACE.state
    assert server.start_time_unix_nano <= hop.start_time_unix_nano <= hop.end_time_unix_nano <= server.end_time_unix_nano
    assert _attributes(hop) == _attributes(server)


def test_a_hop_lasts_as_long_as_the_forwarding(collector, intent, monkeypatch) -> None:
    moments = iter((AT + 400, AT + 900))
    monkeypatch.setattr("gateway.telemetry.wall_clock", lambda: next(moments))
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    with telemetry.in_flight(came):
        pass
    telemetry.observe(came, intent(came), OK, AT + 1500)
    telemetry.shutdown()
    _server, hop = collector.spans
    assert (hop.start_time_unix_nano, hop.end_time_unix_nano) == ((AT + 400) * 1000, (AT + 900) * 1000)


def test_the_hop_to_an_agent_is_named_by_the_id_that_the_agent_sees(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival("a2a", target="erp-integration")
    telemetry.observe(came, intent(came, "SendMessage", None), OK, AT)
    telemetry.shutdown()
    server, hop = collector.spans
    assert (hop.kind, hop.name) == (Span.SPAN_KIND_CLIENT, "SendMessage erp-integration")
    assert _attributes(server)["jsonrpc.request.id"] == "7"
    assert _attributes(hop) == {**_attributes(server), "jsonrpc.request.id": came.id}


@pytest.mark.parametrize(("protocol", "method"), [("mcp", "ping"), ("a2a", "GetAgentCard")])
def test_a_call_that_is_not_sent_on_has_no_hop(protocol, method, collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival(protocol)
    with telemetry.in_flight(came):
        pass
    telemetry.observe(came, intent(came, method, None), OK, AT)
    telemetry.shutdown()
    assert [span.kind for span in collector.spans] == [Span.SPAN_KIND_SERVER]


def test_a_hop_that_failed_says_how(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    telemetry.observe(came, intent(came), Outcome(OutcomeStatus.UPSTREAM_ERROR, detail="connect: no"), AT)
    telemetry.shutdown()
    _server, hop = collector.spans
    assert _attributes(hop)["error.type"] == "upstream_connect"
    assert hop.status.code == Status.STATUS_CODE_ERROR


@given(st.integers(min_value=1, max_value=(1 << 64) - 1))
@example(0x9E37_79B9_7F4A_7C15)  # the one that would become zero
def test_the_hops_span_is_valid_and_never_our_own(span: int) -> None:
    hop = signals.hop_span(f"{span:016x}")
    assert len(hop) == 16
    assert int(hop, 16) not in (0, span)


@pytest.mark.parametrize("argument", ["0.5", "0", "1", "7", "nan", "half", None])
@pytest.mark.parametrize(
    "sampler",
    [
        None,
        "",
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "ParentBased_TraceIdRatio",
        "made-up",
    ],
)
def test_sampled_is_said_upstream_of_exactly_the_traces_that_are_sampled_here(
    sampler, argument, collector, intent, monkeypatch
) -> None:
    given_ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument, "OTEL_METRICS_EXPORTER": "none"}
    telemetry = _exporting(collector, monkeypatch, **{name: value for name, value in given_.items() if value is not None})
    low_halves = ("7fffffffffffffff", "8000000000000000", "0000000000000001", "f" * 16)
    parents = (("", "01"), ("c" * 16, "00"), ("c" * 16, "01"))
    traces = [Trace(f"{n:016x}{low}", "b" * 16, *parent) for low in low_halves for n, parent in enumerate(parents, 1)]
    said = set()
    for trace in traces:
        came = arrival(trace=trace)
        if child_traceparent(trace).endswith("-01"):
            said.add(trace.trace_id)
        telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    for kind in (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT):
        assert {span.trace_id.hex() for span in collector.spans if span.kind == kind} == said


def test_where_nothing_is_exported_the_callers_flag_goes_on_as_it_came(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert child_traceparent(TRACE).endswith("-01")
    assert child_traceparent(Trace("a" * 32, "b" * 16, "c" * 16, "00")).endswith("-00")


def test_what_is_kept_of_a_call_in_flight_goes_when_it_is_observed(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch, OTEL_BSP_MAX_QUEUE_SIZE="1", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1000")
    telemetry._export.batch = 1000  # the thread sleeps: the queue stays full
    came = arrival()
    for _ in range(3):
        with telemetry.in_flight(came):
            assert len(telemetry._hops) == 1
        telemetry.observe(came, intent(came), OK, AT)
        assert not telemetry._hops
    telemetry.shutdown()


async def test_a_stop_that_waits_for_the_collector_does_not_hold_up_the_event_loop(collector, intent, monkeypatch) -> None:
    collector.open.clear()
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT)
    stopping = asyncio.create_task(asyncio.to_thread(telemetry.shutdown))
    await asyncio.to_thread(collector.asked.wait)
    assert not stopping.done()  # and this line is reached
    telemetry.observe(came, intent(came), OK, AT)
    collector.open.set()
    await stopping
    assert len(collector.spans) == 2


@pytest.mark.parametrize(
    "off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, {}]
)
def test_nothing_leaves_unless_a_collector_is_named_and_the_sdk_enabled(off, collector, intent, monkeypatch) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **off} if off else {}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    telemetry = Telemetry.start(environ, "1")
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    assert collector.traces == []
    assert collector.metrics == []


def test_one_signal_can_go_alone_to_its_own_endpoint(collector, intent, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
    telemetry = Telemetry.start(os.environ, "1")
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    assert len(collector.spans) == 2
    assert collector.metrics == []


def test_the_service_is_named_unless_the_environment_names_it(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch, OTEL_SERVICE_NAME="gate-7", OTEL_RESOURCE_ATTRIBUTES="deployment=eu")
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    resource = {a.key: a.value.string_value for a in collector.traces[0].resource_spans[0].resource.attributes}
    assert (resource["service.name"], resource["service.version"], resource["deployment"]) == ("gate-7", "1.2.3", "eu")


def test_metrics_reach_the_collector_with_the_conventions_histogram(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch)
    telemetry.watch(ledger_queue=lambda: 3, ledger_healthy=lambda: True, bundle=lambda: "sha256:ab")
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    assert {
        "bailiwick.calls",
        "bailiwick.calls.in.flight",
        "bailiwick.ledger.queue",
        "mcp.server.operation.duration",
    } <= collector.metric_names()


def test_a_full_queue_drops_spans_and_says_so(collector, intent, monkeypatch) -> None:
    telemetry = _exporting(collector, monkeypatch, OTEL_BSP_MAX_QUEUE_SIZE="4", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1000")
    telemetry._export.batch = 1000  # the thread sleeps: nothing is taken away meanwhile
    came = arrival()
    for _ in range(10):
        telemetry.observe(came, intent(came), OK, AT)
    assert b"bailiwick_spans_dropped_total 6\n" in telemetry.render_prometheus()
    telemetry.shutdown()
    assert len(collector.spans) == 4 * 2


def test_a_collector_that_fails_does_not_disturb_the_road_or_the_stop(collector, intent, monkeypatch) -> None:
    collector.status = 400
    telemetry = _exporting(collector, monkeypatch)
    came = arrival()
    telemetry.observe(came, intent(came), OK, AT)
    telemetry.shutdown()
    assert b'bailiwick_calls_total{protocol="mcp",outcome="ok",code=""} 1' in telemetry.render_prometheus()


def test_what_waits_for_a_span_holds_nothing_of_the_body(intent) -> None:
    came = arrival(body=b"x" * 1_000_000)
    seen = signals.seen_of(came, intent(came, name="n" * 10_000, rpc_id="i" * 10_000), "ok", "", AT)
    assert sum(len(part) for part in seen if isinstance(part, str)) < 1000


def test_prometheus_reads_counts_by_closed_labels() -> None:
    telemetry = Telemetry.start({}, '1"\\\n')
    telemetry.watch(ledger_queue=lambda: 3, ledger_healthy=lambda: False, bundle=lambda: "sha256:ab")
    came = arrival(target="x" * 50)
    telemetry.observe(came, Refused(Code.GUARDRAIL), None, AT + 700)
    text = telemetry.render_prometheus().decode()
    assert 'bailiwick_calls_total{protocol="mcp",outcome="refused",code="guardrail"} 1\n' in text
    assert 'bailiwick_call_duration_seconds_bucket{protocol="mcp",outcome="refused",le="0.0005"} 0\n' in text
    assert 'bailiwick_call_duration_seconds_bucket{protocol="mcp",outcome="refused",le="0.001"} 1\n' in text
    assert 'bailiwick_call_duration_seconds_bucket{protocol="mcp",outcome="refused",le="+Inf"} 1\n' in text
    assert 'bailiwick_call_duration_seconds_sum{protocol="mcp",outcome="refused"} 0.0007\n' in text
    assert "bailiwick_ledger_queue 3\n" in text
    assert "bailiwick_ledger_healthy 0\n" in text
    assert 'bailiwick_policy_bundle_info{digest="sha256:ab"} 1\n' in text
    assert 'bailiwick_build_info{version="1\\"\\\\\\n"} 1\n' in text
    assert "process_start_time_seconds " in text
    assert "xxx" not in text
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith("#") or len(line.rsplit(" ", 1)) == 2


def test_upstream_errors_are_counted_by_kind_and_an_unknown_kind_makes_no_label(intent) -> None:
    telemetry = Telemetry.start({}, "1")
    came = arrival()
    for detail in ("timeout: 5 s", "made up by somebody: x"):
        telemetry.observe(came, intent(came), Outcome(OutcomeStatus.UPSTREAM_ERROR, detail=detail), AT)
    text = telemetry.render_prometheus()
    assert b'bailiwick_upstream_errors_total{protocol="mcp",kind="timeout"} 1' in text
    assert b'bailiwick_upstream_errors_total{protocol="mcp",kind="other"} 1' in text


def test_calls_in_flight_are_given_back_even_when_they_fail() -> None:
    telemetry = Telemetry.start({}, "1")
    seen: list[bytes] = []

    def fail() -> None:
        with telemetry.in_flight(arrival()):
            seen.append(telemetry.render_prometheus())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert b'bailiwick_calls_in_flight{protocol="mcp"} 1' in seen[0]
    assert b'bailiwick_calls_in_flight{protocol="mcp"} 0' in telemetry.render_prometheus()


def test_log_records_carry_the_trace_of_the_call_they_were_written_in() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("gateway.test-correlation")
    logger.propagate = False
    handler = logs.handler(stream, as_json=True)
    logger.addHandler(handler)
    try:
        with Telemetry.start({}, "1").in_flight(arrival()):
            logger.warning("inside\nand more")
        logger.warning("outside")
        logger.warning("explicit", extra={"trace": Trace("c" * 32, "d" * 16)})
    finally:
        logger.removeHandler(handler)
    inside, outside, explicit = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (inside["trace_id"], inside["span_id"], inside["message"]) == (TRACE.trace_id, TRACE.span_id, "inside\nand more")
    assert "trace_id" not in outside
    assert explicit["trace_id"] == "c" * 32


def test_a_text_log_record_is_one_line_whatever_it_says() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("gateway.test-lines")
    logger.propagate = False
    handler = logs.handler(stream, as_json=False)
    logger.addHandler(handler)
    try:
        logger.warning("a\n2026-01-01 forged \x1b[31m")
    finally:
        logger.removeHandler(handler)
    (line,) = stream.getvalue().splitlines()
    assert "\\x0a2026-01-01 forged \\x1b[31m" in line
