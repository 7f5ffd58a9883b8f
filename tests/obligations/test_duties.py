"""Duties: fulfilled, or the call is refused; they narrow, and never widen."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.model import Arrival, Call, Permit, Principal, Refused, Trace
from gateway.obligations import DUTIES, fulfil
from gateway.obligations.redact import MARK, redact
from gateway.reasons import Code
from policies.model import AccessRequest, Decision, Effect, Obligation, Reason

ARRIVAL = Arrival("call-1", "mcp", "sandbox", (), b"{}", 1_000_000, Trace("1" * 32, "2" * 16))


def permit(*obligations: Obligation, target: str = "sandbox", protocol: str = "mcp") -> Permit:
    arrival = replace(ARRIVAL, target=target, protocol=protocol)  # type: ignore[arg-type]
    call = Call(arrival, "tools/call", target, {}, arrival.trace, name="run_python")
    principal = Principal("user:dev/paul", (), "acme", "wf-1", 10, "bearer", "00")
    request = AccessRequest("user:dev/paul", (), "acme", "call", f"{target}.run_python", 1)
    return Permit.of(call, principal, request, Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=obligations))


def refusal_of(*obligations: Obligation, **kind: str) -> Code:
    with pytest.raises(Refused) as refused:
        fulfil(permit(*obligations, **kind))
    return refused.value.code


def test_an_unknown_duty_refuses() -> None:
    assert refusal_of(Obligation("sign", "notary", {})) is Code.UNKNOWN_DUTY


def test_an_unknown_parameter_of_a_known_duty_refuses_since_ignoring_it_would_weaken_the_duty() -> None:
    for kind, params in {"audit": {"arguments": "full"}, "sandbox": {"profile": "p"}, "redact-result": {"fields": ["a"]}}.items():
        assert refusal_of(Obligation("x", kind, params | {"also": 1})) is Code.DUTY_FAILED


def test_every_duty_is_marked_as_fulfilled() -> None:
    duties = (
        Obligation("full-audit", "audit", {"arguments": "full"}),
        Obligation("sandbox-strict", "sandbox", {"profile": "no-network-512mb"}),
        Obligation("redact-iban", "redact-result", {"fields": ["iban"]}),
    )
    assert {duty.type for duty in duties} == set(DUTIES)
    done = fulfil(permit(*duties))
    assert done.fulfilled == ("full-audit", "sandbox-strict", "redact-iban")
    assert (done.full_audit, done.sandbox, done.redact) == (True, "no-network-512mb", frozenset({"iban"}))


def test_two_profiles_contradict_each_other_and_are_never_merged() -> None:
    assert (
        refusal_of(Obligation("a", "sandbox", {"profile": "p"}), Obligation("b", "sandbox", {"profile": "q"})) is Code.DUTY_FAILED
    )


def test_a_sandbox_duty_on_a_tool_that_does_not_run_here_refuses() -> None:
    assert refusal_of(Obligation("a", "sandbox", {"profile": "p"}), target="erp") is Code.DUTY_FAILED


def test_a_redaction_duty_on_an_agent_call_refuses() -> None:
    assert refusal_of(Obligation("a", "redact-result", {"fields": ["iban"]}), protocol="a2a") is Code.DUTY_FAILED


def test_redaction_reaches_structured_content_and_json_text_at_any_depth() -> None:
    data = {"contracts": [{"id": "C-1", "IBAN": "DE02", "owner": {"iban": ["DE03"]}}]}
    result = {"content": [{"type": "text", "text": orjson.dumps(data).decode()}], "structuredContent": data, "isError": False}
    clean = redact(result, frozenset({"iban"}))
    assert b"DE0" not in orjson.dumps(clean)
    assert clean["structuredContent"]["contracts"][0]["id"] == "C-1"
    assert orjson.loads(clean["content"][0]["text"])["contracts"][0]["IBAN"] == MARK
    assert clean["isError"] is False


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "the iban is DE02"},
        {"type": "text", "text": '"DE02"'},
        {"type": "image", "data": "DE02", "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "x://y", "text": "DE02"}},
        {"type": "text", "text": None},
        "DE02",
    ],
)
def test_content_that_cannot_be_searched_is_withheld_whole(block: object) -> None:
    assert redact({"content": [block]}, frozenset({"iban"})) == {"content": [{"type": "text", "text": MARK}]}


def test_a_result_that_is_no_object_is_refused() -> None:
    with pytest.raises(Refused):
        redact(["DE02"], frozenset({"iban"}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["iban", "Iban", "a", "b"]), inner, max_size=3),
    max_leaves=12,
)


@given(JSON)
def test_no_value_of_a_redacted_field_survives(data: object) -> None:
    def names(value: object) -> list[object]:
        if isinstance(value, dict):
            return [v for k, v in value.items() if k.casefold() == "iban"] + [x for v in value.values() for x in names(v)]
        return [x for v in value for x in names(v)] if isinstance(value, list) else []

    clean = redact({"structuredContent": data}, frozenset({"iban"}))
    assert all(value == MARK for value in names(clean))
