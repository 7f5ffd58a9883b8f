"""Duties: fulfilled, or the call is refused; they narrow, and never widen."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from audit.model import Receipt
from gateway.approved import waits
from gateway.model import Arrival, Call, Permit, Principal, Refused, Trace
from gateway.obligations import DUTIES, READERS, fulfil, looked_at, misread
from gateway.obligations.blank import data, redact, text
from gateway.obligations.detect import MARK
from gateway.obligations.notify import key_of
from gateway.reasons import Code
from gateway.record import Recorder
from policies.model import AccessRequest, Decision, Effect, Obligation, Reason

ARRIVAL = Arrival("call-1", "mcp", "sandbox", (), b"{}", 1_000_000, Trace("1" * 32, "2" * 16))


GOOD: dict[str, dict[str, object]] = {
    "audit": {"arguments": "full"},
    "budget": {"count": 2, "sum": "amount", "max": 9, "per": ["day", "subject"]},
    "inspect": {"detectors": ["card"], "in": "results", "do": "redact"},
    "notify": {"to": ["security"]},
    "redact": {"in": ["arguments", "results"], "fields": ["iban", "/order/*/name"], "detectors": ["email", "secrets"]},
    "limit": {"calls": 2, "within": "1m", "per": ["subject"], "burst": 1, "at_once": 3, "request_bytes": 9, "answer_bytes": 9},
    "redact-result": {"fields": ["a"]},
    "human-approval": {"by": "role:boss", "within": "4h"},
    "sandbox": {"profile": "p"},
    "step-up": {"acr": "mfa", "max_age": "5m"},
}
"""Parameters that each duty takes."""


def permit(*obligations: Obligation, target: str = "sandbox", protocol: str = "mcp") -> Permit:
    arrival = replace(ARRIVAL, target=target, protocol=protocol)  # type: ignore[arg-type]
    call = Call(arrival, "tools/call", target, {}, arrival.trace, name="run_python")
    principal = Principal("user:dev/paul", (), "acme", "wf-1", 10, "bearer", "00")
    request = AccessRequest("user:dev/paul", (), "acme", "call", f"{target}.run_python", 1)
    return Permit.of(call, principal, request, Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0", obligations=obligations))


def done(*obligations: Obligation, **kind: str) -> Permit:
    return asyncio.run(fulfil(permit(*obligations, **kind)))


def refusal_of(*obligations: Obligation, **kind: str) -> Code:
    with pytest.raises(Refused) as refused:
        done(*obligations, **kind)
    return refused.value.code


def test_an_unknown_duty_refuses() -> None:
    assert refusal_of(Obligation("sign", "notary", {})) is Code.UNKNOWN_DUTY


def test_an_unknown_parameter_of_a_known_duty_refuses_since_ignoring_it_would_weaken_the_duty() -> None:
    for kind, params in {kind: GOOD[kind] for kind in DUTIES}.items():
        assert refusal_of(Obligation("x", kind, params | {"also": 1})) is Code.DUTY_FAILED


def test_every_duty_is_marked_as_fulfilled_and_every_known_one_has_a_reader() -> None:
    assert set(GOOD) == set(READERS)
    alone = {kind: params for kind, params in GOOD.items() if kind in DUTIES and kind not in {"step-up", "budget"}}
    duties = [Obligation(f"my-{kind}", kind, params) for kind, params in alone.items()]
    found = done(*duties)
    assert found.fulfilled == tuple(duty.name for duty in duties if duty.type != "human-approval")
    assert waits(found.approval)  # which is marked when people have approved it, and the approval is used up
    assert (found.by_digest, found.sandbox) == (False, "p")
    assert found.redact == {"iban", "/order/*/name", "detector:email", "detector:secrets", "a", "detector:card"}
    assert found.redact_sent == {"iban", "/order/*/name", "detector:email", "detector:secrets"}


def test_what_has_no_place_among_the_steps_that_are_counted_is_refused_under_a_budget() -> None:
    assert refusal_of(Obligation("few", "budget", GOOD["budget"])) is Code.DUTY_FAILED


def test_a_later_look_at_an_answer_loses_what_the_call_did_and_an_unknown_duty_refuses_it_too() -> None:
    whole = [Obligation(kind, kind, params) for kind, params in GOOD.items()]
    assert (
        looked_at(permit(*whole)).redact
        == done(*[duty for duty in whole if duty.type in {"inspect", "redact", "redact-result"}]).redact
    )
    with pytest.raises(Refused):
        looked_at(permit(Obligation("sign", "notary", {})))


@pytest.mark.parametrize(
    ("kind", "params", "key"),
    [
        ("audit", {"arguments": "some"}, "arguments"),
        ("human-approval", {"by": "bosses"}, "by"),
        ("human-approval", {"by": ["agent:clerk"]}, "by"),
        ("human-approval", {"by": "*"}, "by"),
        ("human-approval", {"by": 7}, "by"),
        ("human-approval", {"not_same_user": "no"}, "not_same_user"),
        ("human-approval", {"within": 4}, "within"),
        ("human-approval", {"within": "0s"}, "within"),
        ("human-approval", {"within": "31d"}, "within"),
        ("human-approval", {"wait": "6m"}, "wait"),
        ("human-approval", {"asks": "maybe"}, "asks"),
        ("sandbox", {}, ""),
        ("redact", {}, ""),
        ("redact", {"fields": []}, "fields"),
        ("redact", {"fields": [1]}, "fields"),
        ("redact", {"fields": ["/a//b"]}, "fields"),
        ("redact", {"fields": ["detector:iban"]}, "fields"),
        ("redact", {"fields": ["a"], "in": "headers"}, "in"),
        ("redact", {"detectors": ["ibans"]}, "detectors"),
        ("redact", {"field": ["a"]}, "field"),
        ("budget", {}, ""),
        ("budget", {"per": "day"}, ""),
        ("budget", {"count": 0}, "count"),
        ("budget", {"count": True}, "count"),
        ("budget", {"sum": "amount"}, "sum"),
        ("budget", {"count": 1, "max": 3}, "max"),
        ("budget", {"sum": "a b", "max": 3}, "sum"),
        ("budget", {"sum": ["amount"], "max": 3}, "sum"),
        ("budget", {"sum": "amount", "max": "3"}, "max"),
        ("budget", {"sum": "amount", "max": 0}, "max"),
        ("budget", {"sum": "amount", "max": True}, "max"),
        ("budget", {"count": 1, "per": "person"}, "per"),
        ("budget", {"count": 1, "per": ["subject"]}, "per"),
        ("budget", {"count": 1, "within": "1d"}, "within"),
        ("limit", {}, ""),
        ("limit", {"calls": 1}, "calls"),
        ("limit", {"within": "1m"}, "within"),
        ("limit", {"calls": 0, "within": "1m"}, "calls"),
        ("limit", {"calls": True, "within": "1m"}, "calls"),
        ("limit", {"calls": 1, "within": 60}, "within"),
        ("limit", {"calls": 1, "within": "0s"}, "within"),
        ("limit", {"calls": 1, "within": "32d"}, "within"),
        ("limit", {"at_once": 1, "burst": 2}, "burst"),
        ("limit", {"answer_bytes": 1, "per": "tool"}, "per"),
        ("limit", {"at_once": 1, "per": "person"}, "per"),
        ("limit", {"at_most": 1}, "at_most"),
        ("step-up", {}, ""),
        ("notify", {}, ""),
        ("inspect", {}, ""),
        ("inspect", {"detectors": "nothing"}, "detectors"),
        ("inspect", {"detectors": "card", "do": "drop"}, "do"),
        ("inspect", {"guards": ["a", 7]}, "guards"),
        ("inspect", {"detectors": "card", "do": ["refuse", "redact"]}, "do"),
        ("inspect", {"detectors": "card", "in": "headers"}, "in"),
        ("notify", {"to": 7}, "to"),
        ("notify", {"to": "a", "by": "b"}, "by"),
        ("step-up", {"acr": []}, "acr"),
        ("step-up", {"acr": 'a"b'}, "acr"),
        ("step-up", {"acr": "a b"}, "acr"),
        ("step-up", {"max_age": "soon"}, "max_age"),
        ("redact-result", {"fields": "iban", "in": "arguments"}, "in"),
    ],
)
def test_a_parameter_that_cannot_be_read_refuses_the_call_and_is_told_by_lint_where_it_stands(
    kind: str, params: dict[str, object], key: str
) -> None:
    if kind in DUTIES:
        assert refusal_of(Obligation("x", kind, params)) is Code.DUTY_FAILED
    found = misread(kind, params)
    assert found is not None
    assert found[0] == key


def test_two_profiles_contradict_each_other_and_are_never_merged() -> None:
    assert (
        refusal_of(Obligation("a", "sandbox", {"profile": "p"}), Obligation("b", "sandbox", {"profile": "q"})) is Code.DUTY_FAILED
    )


def test_a_sandbox_duty_on_a_tool_that_does_not_run_here_refuses() -> None:
    assert refusal_of(Obligation("a", "sandbox", {"profile": "p"}), target="erp") is Code.DUTY_FAILED


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


IBANS = ("DE02 1203 0000 0000 2020 51", "DE02120300000000202051", "gb82 west 1234 5698 7654 32", "NL91-ABNA-0417-1643-00")
CARDS = ("4111 1111 1111 1111", "4111111111111111", "3782-822463-10005", "5555555555554444")


@pytest.mark.parametrize(
    ("detector", "found"),
    [("iban", each) for each in IBANS]
    + [("card", each) for each in CARDS]
    + [("email", each) for each in ("paul@acme.example", "p.b+x@sub.acme.example", "größe@acme.example")]
    + [("secrets", each) for each in ("Authorization: Bearer abcdefgh12345678", "AKIAIOSFODNN7EXAMPLE")],
)
def test_what_a_detector_knows_is_found_wherever_it_stands_and_the_rest_is_kept(detector: str, found: str) -> None:
    entries = frozenset({f"detector:{detector}"})
    for around in ("{}", "pay {} at once", "No4 12 {}, then 7 more", "({})\n{}"):
        said = around.replace("{}", found)
        clean = text(said, entries)
        assert found not in clean
        assert MARK in clean or "[secret:" in clean
        assert clean.startswith(around[: around.index("{}")])
        assert data({"a": [said], said: 1}, entries) != {"a": [said], said: 1}
        assert found not in str(data({"a": [said], said: 1}, entries))
        assert found not in text(orjson.dumps({"a": {"b": said}}).decode(), entries)


@pytest.mark.parametrize(
    "said", ["DE03 1203 0000 0000 2020 51", "4111 1111 1111 1112", "paul at acme", "order 20251201120000123", ""]
)
def test_what_no_detector_knows_is_released_as_it_came(said: str) -> None:
    entries = frozenset({"detector:iban", "detector:card", "detector:email", "detector:secrets"})
    assert text(said, entries) == said
    assert data({"a": said, "n": 12, "ok": True, "none": None}, entries) == {"a": said, "n": 12, "ok": True, "none": None}


def test_what_looks_like_an_account_by_chance_does_not_save_a_part_of_the_one_that_follows() -> None:
    said = "No42 12 DE02 1203 0000 0000 2020 51, then 7 more"  # of which "No42 12 DE02 1203" has right check digits
    assert text(said, frozenset({"detector:iban"})) == f"{MARK}, then 7 more"


def test_escapes_numbers_and_members_named_as_secrets_hide_nothing_from_detectors() -> None:
    entries = frozenset({"detector:email", "detector:card", "detector:secrets"})
    assert "acme" not in text('{"to": "paul\\u0040acme.example"}', entries)
    assert "acme" not in str(data({"inner": '{"to": "paul\\u0040acme.example"}'}, entries))
    assert data({"card": 4111111111111111}, entries) == {"card": MARK}
    assert data({"Password": "x", "token": "y", "other": "z"}, entries) == {"Password": MARK, "token": MARK, "other": "z"}


def test_a_path_begins_at_the_root_and_a_name_is_found_at_any_depth() -> None:
    entries = frozenset({"/order/lines/*/account", "/0/name", "iban"})
    order = {"order": {"lines": [{"account": "A1", "n": 1}, {"ACCOUNT": "A2"}], "account": "kept"}, "x": {"iban": "B"}}
    clean = data(order, entries)
    assert clean["order"]["lines"] == [{"account": MARK, "n": 1}, {"ACCOUNT": MARK}]
    assert (clean["order"]["account"], clean["x"]["iban"]) == ("kept", MARK)
    assert data([{"name": "A"}, {"name": "B"}], entries) == [{"name": MARK}, {"name": "B"}]
    result = {"structuredContent": order, "content": [{"type": "text", "text": orjson.dumps(order).decode()}]}
    clean = redact(result, entries)
    assert clean["structuredContent"] == orjson.loads(clean["content"][0]["text"]) == data(order, entries)


def test_several_approvals_add_up_to_the_strictest() -> None:
    found = done(
        Obligation("a", "human-approval", {"by": "role:boss", "within": "4h", "wait": "30s", "not_same_user": False}),
        Obligation("b", "human-approval", {"within": "1h"}),
        Obligation("c", "human-approval", {"by": ["idp:auditors"], "within": "2d", "wait": "1m", "not_same_user": False}),
    ).approval
    assert found is not None
    assert (found.duties, found.not_same_user) == ((("a", True), ("b", False), ("c", True)), True)
    assert (found.within, found.wait) == (3600, 0)


def test_a_call_that_waits_for_an_approval_cannot_be_recorded_as_begun() -> None:
    async def append(_: object) -> Receipt:
        raise AssertionError("it was recorded")

    waiting = done(Obligation("a", "human-approval", {"by": "role:boss"}), target="erp")
    with pytest.raises(Refused) as refused:
        asyncio.run(Recorder(append, append, lambda: 1).intent(waiting))  # type: ignore[arg-type]
    assert refused.value.code is Code.DUTY_FAILED


def test_a_receiver_that_the_settings_do_not_have_is_told_where_they_are_known() -> None:
    assert misread("notify", {"to": ["security", "nobody"]}) is None
    known = frozenset({"prompts", "personal-data"})
    both: dict[str, object] = {"guards": ["prompts"], "detectors": ["personal-data", "card"]}
    assert misread("inspect", both, searches=known) is None
    assert misread("inspect", both, searches=frozenset({"personal-data"})) == (
        "guards",
        "the settings have no inspect.guards.prompts",
    )
    for kind, params in {"inspect": both, "redact": {"detectors": "personal-data"}}.items():
        found = misread(kind, params, searches=frozenset({"prompts"}))
        assert found == ("detectors", "personal-data: the settings have no inspect.personal_data")
    assert misread("notify", {"to": "security"}, frozenset({"security"})) is None
    assert misread("notify", {"to": ["security", "nobody"]}, frozenset({"security"})) == (
        "to",
        "the settings have no notify.nobody",
    )


@pytest.mark.parametrize("secret", ["short", "whsec_", "whsec_" + "A" * 28, "whsec_!" + "A" * 40])
def test_a_secret_that_signs_nothing_well_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=r"whsec_|24 bytes"):
        key_of(secret)
