"""Every span, metric and attribute name, in one place, and what of a call becomes which.

People are named nowhere: no user id, no argument, no session id and no credential becomes a label or an attribute; a session and
an agent's key are told apart by keyed digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.model import Arrival, Intent, Refused, Trace

SCOPE = "bailiwick"
SERVICE_NAME = "bailiwick"

# Attributes.  The conventions for MCP live in the GenAI repository and still move; their names are written out here.
MCP_METHOD = "mcp.method.name"
MCP_VERSION = "mcp.protocol.version"
MCP_SESSION = "mcp.session.id"
RPC_ID = "jsonrpc.request.id"
RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
GENAI_OPERATION = "gen_ai.operation.name"
GENAI_TOOL = "gen_ai.tool.name"
GENAI_PROMPT = "gen_ai.prompt.name"
GENAI_AGENT = "gen_ai.agent.name"
MCP_RESOURCE = "mcp.resource.uri"
ERROR_TYPE = "error.type"
CALL_ID = "bailiwick.call.id"
TARGET = "bailiwick.target"
OUTCOME = "bailiwick.outcome"
ACTOR = "bailiwick.actor"
INSTANCE = "bailiwick.actor.instance"
BUNDLE = "bailiwick.policy.bundle"

# Metrics: Prometheus' names; OpenTelemetry's are the same with dots and without `_total`.
CALLS = "bailiwick_calls_total"
DURATION = "bailiwick_call_duration_seconds"
IN_FLIGHT = "bailiwick_calls_in_flight"
UPSTREAM_ERRORS = "bailiwick_upstream_errors_total"
LEDGER_QUEUE = "bailiwick_ledger_queue"
LEDGER_HEALTHY = "bailiwick_ledger_healthy"
LEDGER_SPOOLED = "bailiwick_ledger_spooled_records"
LEDGER_WITNESSES = "bailiwick_ledger_witnesses"
LEDGER_WITNESSED_SIZE = "bailiwick_ledger_witnessed_records"
LEDGER_WITNESSED_AT = "bailiwick_ledger_witnessed_timestamp_seconds"
LEDGER_ANCHORED_SIZE = "bailiwick_ledger_anchored_records"
LEDGER_ANCHORED_AT = "bailiwick_ledger_anchored_timestamp_seconds"
LEDGER_ANCHOR_FAILING = "bailiwick_ledger_anchor_failing"
LEDGER_FORWARD_LAG = "bailiwick_ledger_forward_lag"
LEDGER_FORWARD_DROPPED = "bailiwick_ledger_forward_dropped_total"
LEDGER_FORWARD_FAILING = "bailiwick_ledger_forward_failing"
BUNDLE_INFO = "bailiwick_policy_bundle_info"
RELOADS = "bailiwick_policy_reload_total"
STALE = "bailiwick_policy_stale"
BESIDE_INFO = "bailiwick_policy_beside_info"
WOULD_FLIP = "bailiwick_policy_would_flip_total"
SHADOWED = "bailiwick_policy_shadow_total"
RUNS = "bailiwick_sandbox_runs_total"
RUNS_WAITING = "bailiwick_sandbox_waiting"
RUN_CONNECTIONS = "bailiwick_sandbox_connections_total"
DEFINITIONS_HELD = "bailiwick_definitions_held"
STDIO_PROCESSES = "bailiwick_stdio_processes"
STDIO_STARTS = "bailiwick_stdio_starts_total"
STDIO_RESTARTS = "bailiwick_stdio_restarts_total"
STDIO_FAILURES = "bailiwick_stdio_failures_total"
STDIO_HEALTHY = "bailiwick_stdio_healthy"
STDIO_MEMORY = "bailiwick_stdio_memory_bytes"
STDIO_CPU = "bailiwick_stdio_cpu_seconds"
CARD_CHANGES = "bailiwick_agent_card_changes_total"
CARD_REFUSED = "bailiwick_agent_card_refused"
BUILD_INFO = "bailiwick_build_info"
SPANS_DROPPED = "bailiwick_spans_dropped_total"
PROCESS_START = "process_start_time_seconds"
MCP_DURATION = "mcp.server.operation.duration"
A2A_DURATION = "rpc.server.call.duration"

REFUSED = "refused"
BOUNDS_US = (
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
)
OTEL_BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
UPSTREAM_KINDS = frozenset({"connect", "timeout", "protocol", "too-large", "closed", "status"})
_LONGEST = 128
"""Characters of a caller's text that a span keeps."""
_HOP = 0x9E37_79B9_7F4A_7C15
_NOT_SENT_ON = frozenset({"ping", "GetAgentCard", "ListAgents"})
"""Answered here, or from a card that is kept and was fetched for nobody in particular."""
_SAMPLERS = frozenset({"always_on", "always_off", "traceidratio"})
_ALL_TRACES = 1 << 64


def exported(environ: Mapping[str, str], signal: str) -> bool:
    """Whether TRACES or METRICS go to a collector, by the standard variables."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


def hop_span(span: str) -> str:
    """Id of the span of a call's hop onwards, from the id of our own span of that call (both 16 hex digits, never all zeros).

    It goes upstream before anything is known of the call's end, and is found again, without being kept, when the spans are made.
    Ours is random, so this one is as unlikely to meet another.
    """
    return "%016x" % ((int(span, 16) ^ _HOP) or 1)


def flags_onward(trace: Trace) -> str:
    """The trace flags that go upstream: `sampled` as the sampler of the process's OTEL_TRACES_SAMPLER decides for our own spans.

    Where no collector is named nothing is recorded here, and the flag goes on as it came (a new trace's is set).
    """
    sampling = _sampled_by
    if sampling is None or (sampling[0] and trace.parent):
        return trace.flags
    return "01" if int(trace.trace_id[16:], 16) < sampling[1] else "00"


_sampled_by: tuple[bool, int] | None = None  # see `_sampling`; None: every flag goes on as it came


def sample_as(environ: Mapping[str, str] | None) -> None:
    """From now on spans are made here, and sampled as these variables say; None: no more."""
    global _sampled_by  # noqa: PLW0603  one process has one sampler, which is asked at every hop
    sampler = environ.get("OTEL_TRACES_SAMPLER") if environ is not None else None
    _sampled_by = _sampling(sampler, environ.get("OTEL_TRACES_SAMPLER_ARG", "")) if environ is not None and sampler else None


def _sampling(sampler: str, argument: str) -> tuple[bool, int]:
    """Whether a caller's decision holds, and below which number the low half of a sampled trace's id lies; as the SDK has it."""
    name = sampler.lower()
    root = name.removeprefix("parentbased_")
    if root not in _SAMPLERS:
        return True, _ALL_TRACES
    ratio = 0.0 if root == "always_off" else 1.0
    if root == "traceidratio":
        try:
            given = float(argument)
        except ValueError:
            given = 1.0
        ratio = given if 0.0 <= given <= 1.0 else 1.0
    return root != name, round(ratio * _ALL_TRACES)


class Seen(NamedTuple):
    """What is kept of a call for its spans: small, and nothing of its body but names.

    hop  when it was sent on and when that ended (UTC microseconds); None where it was not sent on.
    """

    trace: Trace
    protocol: str
    id: str
    started: int
    finished: int
    outcome: str
    code: str
    target: str = ""
    method: str = ""
    name: str | None = None
    version: str = ""
    rpc_id: str | None = None
    actor: str = ""
    bundle: str = ""
    hop: tuple[int, int] | None = None
    session: str = ""
    instance: str = ""


def seen_of(
    arrival: Arrival, road: Intent | Refused, status: str, code: str, finished: int, *, hop: tuple[int, int] | None = None
) -> Seen:
    """What is worth a span of a call that ended with this status and code at `finished` (UTC microseconds).

    `hop` is when the forwarding stage began and ended, None where the call never came there.
    """
    call, principal, decision = (
        (road.call, road.principal, road.decision)
        if isinstance(road, Refused)
        else (road.permit.call, road.permit.principal, road.permit.decision)
    )
    actor = principal.actors[-1] if principal is not None and principal.actors else ""  # an agent; never the person
    bundle = decision.bundle if decision is not None else ""
    trace = arrival.trace if call is None else call.trace
    if call is None:
        return Seen(trace, arrival.protocol, arrival.id, arrival.at, finished, status, code, actor=actor)
    rpc_id = None if call.rpc_id is None else str(call.rpc_id)[:_LONGEST]
    name = call.name[:_LONGEST] if call.name is not None else None
    method, target = call.method[:_LONGEST], call.target[:_LONGEST]
    return Seen(
        trace,
        arrival.protocol,
        arrival.id,
        arrival.at,
        finished,
        status,
        code,
        target,
        method,
        name,
        call.version,
        rpc_id,
        actor,
        bundle,
        None if isinstance(road, Refused) or method in _NOT_SENT_ON else hop or (arrival.at, finished),
        call.linked,
        principal.instance if principal is not None and actor else "",
    )


def span_name(seen: Seen) -> str:
    """`tools/call write_po`; of a refused call only the method, because its names are whatever the caller made up."""
    if not seen.method:
        return seen.protocol
    return seen.method if seen.outcome == REFUSED else f"{seen.method} {seen.name or seen.target}"


def attributes(seen: Seen) -> dict[str, str]:
    """The span's attributes, by the conventions of MCP and GenAI; A2A as JSON-RPC."""
    found = {
        CALL_ID: seen.id,
        OUTCOME: seen.outcome,
        TARGET: seen.target,
        ACTOR: seen.actor,
        INSTANCE: seen.instance,
        BUNDLE: seen.bundle,
        RPC_ID: seen.rpc_id or "",
    }
    if seen.protocol == "mcp":
        found |= {MCP_METHOD: seen.method, MCP_VERSION: seen.version, MCP_SESSION: seen.session}
        if seen.method == "tools/call":
            found |= {GENAI_OPERATION: "execute_tool", GENAI_TOOL: seen.name or ""}
        elif seen.method == "prompts/get":
            found[GENAI_PROMPT] = seen.name or ""
        elif seen.method == "resources/read":
            found[MCP_RESOURCE] = seen.name or ""
    else:
        found |= {RPC_SYSTEM: "jsonrpc", RPC_METHOD: seen.method, GENAI_AGENT: seen.target}
        if seen.method in ("SendMessage", "SendStreamingMessage"):
            found[GENAI_OPERATION] = "invoke_agent"
    found[ERROR_TYPE] = error_type(seen)
    return {key: value for key, value in found.items() if value}


def hop_attributes(seen: Seen) -> dict[str, str]:
    """The same of the hop onwards; to an agent the request goes under an id of the gateway's own."""
    found = attributes(seen)
    return found if seen.protocol == "mcp" else found | {RPC_ID: seen.id}


def error_type(seen: Seen) -> str:
    """`error.type`: empty for a call that went well or that the caller gave up."""
    return {
        "ok": "",
        "interrupted": "",
        "tool-error": "tool_error",
        "upstream-error": f"upstream_{seen.code}",
        "internal-error": "internal_error",
    }.get(seen.outcome, seen.code)
