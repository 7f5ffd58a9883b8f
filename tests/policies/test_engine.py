"""The engine never raises, hides what may not be known, and says which rule spoke, which came near, whose right is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from policies.bundle import load
from policies.engine import Engine
from policies.model import AccessRequest, Decision, Effect, Match, Obligation, Reason, Source
from policies.sentence import explain
from policies.values import Facts

AT = 1_788_955_200_000_000  # 2026-09-09T12:00:00Z
PAUL = AccessRequest(
    "user:dev/paul", (), "acme", "call", "erp.write_po", AT, frozenset({"buyers"}), {"supplier": "S-1", "amount": 50}
)
Make = Callable[..., Engine]


@pytest.fixture
def make(write: Any) -> Make:
    """An engine over the small bundle, with grants (or whole files) of the test."""

    def build(*grants: str, **files: str) -> Engine:
        changes: dict[str, Any] = {"grants/people.csv": "\n".join(grants)} if grants else {}
        return Engine(
            load(write(changes | {name.replace("_yaml", ".yaml").replace("_csv", ".csv"): text for name, text in files.items()}))
        )

    return build


def test_an_allowed_call_names_its_rules_and_its_duties_with_their_places(make: Make) -> None:
    decision = make().decide(PAUL)
    assert decision.allowed
    assert decision.matched == (
        Match("SEC-1", "require", Source("grants/guardrails.csv", 1)),
        Match("BUY-1", "allow", Source("grants/people.csv", 1), "small orders"),
    )
    assert decision.obligations == (Obligation("full-audit", "audit", {"arguments": "full"}),)


def test_a_denial_has_no_duties_and_names_the_rule_that_came_near(make: Make) -> None:
    decision = make().decide(replace(PAUL, arguments={"amount": 101}))
    assert (decision.effect, decision.reason, decision.missing) == (Effect.DENY, Reason.USER_LACKS_RIGHT, ("user:dev/paul",))
    assert decision.obligations == ()
    assert [match.rule for match in decision.answers[0].near] == ["BUY-1"]
    assert decision.visible


def test_a_duty_that_several_lines_and_principals_demand_binds_once(make: Make) -> None:
    engine = make(
        "p, role:buyer, acme, erp.write_po, call, allow, -, -, A-1",
        "p, agent:helper, acme, erp.write_po, call, allow, -, -, A-2",
        "p, role:buyer, acme, erp.*, call, require, -, full-audit, A-3",
    )
    decision = engine.decide(replace(PAUL, actors=("agent:helper",)))
    assert [duty.name for duty in decision.obligations] == ["full-audit"]
    assert [len(answer.matched) for answer in decision.answers] == [3, 2]


def test_empty_grants_deny_everything(make: Make) -> None:
    engine = make(**{"grants/people_csv": "", "grants/guardrails_csv": ""})
    for stock in (False, True):
        decision = Engine(engine.bundle, stock=stock).decide(PAUL)
        assert (decision.reason, decision.visible) == (Reason.USER_LACKS_RIGHT, False)


def test_a_deny_line_beats_every_allow_line_and_says_so(make: Make) -> None:
    engine = make(
        "p, role:buyer, acme, erp.write_po, call, allow, -, -, A-1",
        "p, agent:helper, acme, *, *, deny, -, -, A-2",
    )
    assert engine.decide(PAUL).allowed
    decision = engine.decide(replace(PAUL, actors=("agent:helper",)))
    assert (decision.reason, decision.missing, decision.visible) == (Reason.GUARDRAIL, ("agent:helper",), False)
    assert "no; forbidden by A-2 (grants/people.csv:2)" in explain(replace(PAUL, actors=("agent:helper",)), decision)


@pytest.mark.parametrize(
    "changes",
    [
        {"resource": "erp.nothing"},
        {"resource": "nothing"},
        {"resource": ""},
        {"resource": "erp.*"},
        {"resource": "erp.write_po "},
        {"resource": "ERP.write_po"},
        {"resource": "set:reading"},
        {"resource": "*"},
        {"resource": "a2a:*", "action": "send"},
        {"resource": "a2a:", "action": "send"},
        {"resource": "a2a:helper\n", "action": "send"},
        {"tenant": "nowhere"},
        {"tenant": "*"},
        {"tenant": "other", "resource": "mail.send"},
        {"action": "list", "resource": "nothing"},
        {"action": "list", "resource": "mail"},
        {"action": "list", "resource": "erp", "groups": frozenset()},
    ],
    ids=str,
)
def test_what_is_not_registered_or_may_not_be_known_is_one_and_the_same_refusal(make: Make, changes: dict[str, Any]) -> None:
    engine = make("p, role:buyer, acme, erp.*, call, allow, -, -, A-1", "p, role:buyer, acme, a2a:*, send, allow, -, -, A-2")
    decision = engine.decide(replace(PAUL, **changes))
    assert decision == Decision(Effect.DENY, Reason.UNKNOWN_RESOURCE, engine.bundle.digest, visible=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "role:buyer"},
        {"subject": "idp:buyers"},
        {"subject": "agent:helper"},
        {"subject": "*"},
        {"subject": ""},
        {"actors": ("user:dev/paul",)},
        {"actors": ("agents:crew",)},
        {"actors": ("role:buyer", "agent:helper")},
        {"actors": ("*",)},
        {"action": "relay"},
        {"action": "*"},
        {"action": ""},
        {"subject": None},
        {"actors": None},
        {"resource": None},
        {"resource": 5},
        {"groups": None},
        {"arguments": 5},
        {"arguments": "x"},
        {"context": None},
        {"tenant": ["acme"]},
    ],
    ids=str,
)
def test_a_question_that_is_not_well_formed_is_denied_and_never_raises(make: Make, changes: dict[str, Any]) -> None:
    decision = make().decide(replace(PAUL, **changes))
    assert decision.effect is Effect.DENY
    assert (decision.reason, decision.visible) == (Reason.DECISION_ERROR, False)


def test_an_error_within_a_condition_is_a_denial(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()

    def broken(_facts: Facts) -> object:
        raise ZeroDivisionError

    monkeypatch.setitem(engine._conditions, "small", broken)
    assert engine.decide(PAUL).reason is Reason.DECISION_ERROR


def test_a_group_named_like_a_role_gives_no_role(make: Make) -> None:
    for name in ("role:buyer", "buyer", "*", "idp:buyers", "user:dev/paul", "agents:crew"):
        assert not make().decide(replace(PAUL, groups=frozenset({name}))).allowed


def test_a_person_named_like_a_role_has_no_role(make: Make) -> None:
    for name in ("user:role:buyer", "user:dev/role:buyer", "svc:buyer", "user:dev/*"):
        assert not make().decide(replace(PAUL, subject=name, groups=frozenset())).allowed


def test_an_agent_has_none_of_the_persons_groups_and_the_person_none_of_the_agents(make: Make) -> None:
    engine = make(
        "p, idp:buyers, acme, erp.read, call, allow, -, -, A-1", "p, agents:crew, acme, mail.send, call, allow, -, -, A-2"
    )
    for resource, missing in (("erp.read", "agent:helper"), ("mail.send", "user:dev/paul")):
        decision = engine.decide(replace(PAUL, actors=("agent:helper",), resource=resource))
        assert decision.missing == (missing,)


def test_a_role_of_one_tenant_is_none_in_another(make: Make) -> None:
    engine = make(
        "p, role:buyer, *, erp.read, call, allow, -, -, A-1",
        roles_csv="g, idp:buyers, role:buyer, acme\ng, idp:others, role:buyer, other\n",
    )
    assert engine.decide(replace(PAUL, resource="erp.read")).allowed
    assert not engine.decide(replace(PAUL, resource="erp.read", tenant="other")).allowed
    assert engine.decide(replace(PAUL, resource="erp.read", tenant="other", groups=frozenset({"others"}))).allowed


def test_roles_reach_through_any_number_of_roles(make: Make) -> None:
    chain = "".join(f"g, role:r{n}, role:r{n + 1}, acme\n" for n in range(40))
    engine = make("p, role:r40, acme, erp.read, call, allow, -, -, A-1", roles_csv="g, idp:buyers, role:r0, acme\n" + chain)
    assert engine.decide(replace(PAUL, resource="erp.read")).allowed


def test_a_pattern_covers_its_server_and_no_server_whose_name_begins_alike(make: Make) -> None:
    tools = "tenants: [acme]\ntools:\n  erp.read: {}\n  erp-two.read: {}\n  erp.write_po: {args: {amount: number}}\n"
    engine = make(
        "p, role:buyer, acme, erp.*, call, allow, -, -, A-1",
        **{
            "tools_yaml": tools,
            "grants/guardrails_csv": "",
            "conditions_yaml": "",
            "roles_csv": "g, idp:buyers, role:buyer, acme\n",
        },
    )
    assert engine.decide(replace(PAUL, resource="erp.read")).allowed
    assert not engine.decide(replace(PAUL, resource="erp-two.read")).allowed


def test_a_condition_sees_the_time_of_the_question_and_not_of_the_clock(make: Make) -> None:
    engine = make(
        "p, role:buyer, acme, erp.read, call, allow, office, -, A-1",
        conditions_yaml="office: {if: time.hour >= 8 and time.hour < 18 and time.weekday <= 5, say: office hours}\n",
    )
    at_noon = replace(PAUL, resource="erp.read")
    assert engine.decide(at_noon).allowed
    assert not engine.decide(replace(at_noon, at=AT + 10 * 3_600_000_000)).allowed
    assert not engine.decide(replace(at_noon, at=AT + 3 * 86_400_000_000)).allowed


def test_conditions_see_the_persons_groups_the_agents_facts_and_the_context(make: Make) -> None:
    engine = make(
        "p, role:buyer, acme, erp.read, call, allow, careful, -, A-1",
        conditions_yaml="""\
careful:
  if: '"seniors" in user.groups and agent.assurance == "key" and ctx.protocol == "mcp"'
  say: seniors with a key
""",
    )
    facts = {"agent": {"assurance": "key"}, "ctx": {"protocol": "mcp"}}
    request = replace(PAUL, resource="erp.read", groups=frozenset({"buyers", "seniors"}), context=facts)
    assert engine.decide(request).allowed
    assert not engine.decide(replace(request, groups=frozenset({"buyers"}))).allowed
    assert not engine.decide(replace(request, context={"agent": {"assurance": "secret"}, "ctx": {"protocol": "mcp"}})).allowed
    assert not engine.decide(replace(request, context={})).allowed


def test_conditions_see_what_a_message_to_an_agent_brings(make: Make) -> None:
    engine = make(
        "p, role:buyer, acme, a2a:clerk, send, allow, mandated, -, A-1", "p, *, acme, a2a:*, send, deny, strange, -, A-2",
        conditions_yaml="""\
mandated: {if: '"urn:mandate" in ctx.extensions', say: with a mandate}
strange: {if: 'not all_in(ctx.url_hosts, ["files.example"]) or ctx.raw_bytes > 1000', say: large or strange}
""",
        **{"grants/guardrails_csv": ""},
    )  # fmt: skip
    ctx: dict[str, object] = {"extensions": ["urn:mandate"], "url_hosts": ["files.example"], "raw_bytes": 10}
    asked = replace(PAUL, resource="a2a:clerk", action="send", arguments={}, context={"ctx": ctx})
    assert engine.decide(asked).allowed
    for change in ({"extensions": []}, {"url_hosts": ["files.example", ""]}, {"raw_bytes": 1001}):
        assert not engine.decide(replace(asked, context={"ctx": ctx | change})).allowed


def test_conditions_see_what_is_registered_of_the_tool_and_fit_tools_alone(make: Make, findings: Any) -> None:
    engine = make(
        "p, role:buyer, acme, erp.*, call, allow, -, -, A-1", "p, *, acme, erp.*, call, deny, finance, -, A-2",
        conditions_yaml="finance: {if: '\"writes:finance\" in tool.labels or tool.risk == \"high\"', say: finance}\n",
        **{"grants/guardrails_csv": ""},
    )  # fmt: skip
    assert engine.decide(replace(PAUL, resource="erp.read")).allowed
    assert engine.decide(PAUL).reason is Reason.GUARDRAIL
    finance = {"conditions.yaml": 'finance: {if: tool.risk == "high", say: x}\n', "grants/guardrails.csv": ""}
    for tool, action in (("a2a:helper", "send"), ("*", "*"), ("res:files/*", "read")):
        line = f"p, *, acme, {tool}, {action}, deny, finance, -, A-3\n"
        assert "unknown-argument" in {f.code for f in findings(finance | {"grants/people.csv": line})}


def test_a_grant_for_a_time_and_office_hours_somewhere(make: Make) -> None:
    engine = make(
        "p, role:buyer, acme, erp.read, call, allow, office, -, A-1",
        conditions_yaml="""\
office:
  if: hour("Europe/Berlin") >= 8 and hour("Europe/Berlin") < 18 and weekday("Europe/Berlin") <= 5
    and time.now < date("2026-12-01")
  say: office hours in Berlin, until December
""",
    )
    asked = replace(PAUL, resource="erp.read")
    hours = [engine.decide(replace(asked, at=AT + n * 3_600_000_000)).allowed for n in range(-8, 6)]  # 04:00 to 17:00 UTC
    assert hours == [False] * 2 + [True] * 10 + [False] * 2
    assert not engine.decide(replace(asked, at=AT + 3 * 86_400_000_000)).allowed  # Saturday
    assert not engine.decide(replace(asked, at=AT + 91 * 86_400_000_000)).allowed  # Wednesday, in December


def test_what_cannot_be_decided_is_a_no_for_allow_and_a_yes_for_deny_and_require(make: Make) -> None:
    engine = make(
        "p, role:buyer, acme, erp.write_po, call, allow, -, -, A-1",
        "p, role:buyer, acme, erp.write_po, call, require, large, full-audit, A-2",
        "p, role:buyer, acme, erp.write_po, call, deny, huge, -, A-3",
        **{
            "conditions_yaml": "large: {if: args.amount > 10, say: x}\nhuge: {if: args.amount > 1000, say: x}\n",
            "grants/guardrails_csv": "",
        },
    )
    assert engine.decide(replace(PAUL, arguments={"amount": 5})).obligations == ()
    assert len(engine.decide(replace(PAUL, arguments={"amount": 50})).obligations) == 1
    for broken in ({}, {"amount": "5"}, {"amount": None}, {"amount": 5.0}):
        assert engine.decide(replace(PAUL, arguments=broken)).reason is Reason.GUARDRAIL


def test_the_tools_of_a_server_are_named_without_it(make: Make) -> None:
    engine = make()
    assert engine.tools_of("erp") == ("read", "write_po")
    assert engine.tools_of("nothing") == ()


def test_the_decision_names_the_bundle_that_decided(make: Make) -> None:
    engine = make()
    assert engine.decide(PAUL).bundle == engine.bundle.digest
    assert engine.decide(replace(PAUL, subject="x")).bundle == engine.bundle.digest


def test_a_message_to_an_agent_that_no_rule_names_is_still_asked(make: Make) -> None:
    engine = make("p, role:buyer, acme, a2a:*, send, allow, -, -, A-1")
    assert engine.decide(replace(PAUL, action="send", resource="a2a:anybody")).allowed
    decision = engine.decide(replace(PAUL, action="send", resource="a2a:anybody", groups=frozenset()))
    assert (decision.reason, decision.visible) == (Reason.USER_LACKS_RIGHT, False)


def test_every_reason_has_a_sentence(make: Make) -> None:
    engine = make()
    changes: dict[str, Any]
    for changes in ({}, {"resource": "x.y"}, {"subject": "x"}, {"groups": frozenset()}, {"arguments": None}):
        request = replace(PAUL, **changes)
        text = explain(request, engine.decide(request))
        assert text.splitlines()[0].endswith(".")
        assert "no reason is on record" not in text
