"""The golden table: who is asked what, in which order, and what comes of it.

A chain judged in the wrong order is the worst mistake this product can make.  Every row states each question and its answer
literally; planted mistakes prove that the table would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from policies import engine as engine_module
from policies.bundle import load
from policies.engine import Engine
from policies.model import AccessRequest, Decision, Question, Role, questions

TENANT = "acme"
WEDNESDAY_NOON = 1_788_955_200_000_000  # 2026-09-09T12:00:00Z

ROLES = """\
g, idp:marketing-managers,    role:marketing-manager,   acme
g, idp:procurement-managers,  role:procurement-manager, acme
g, idp:finance-controllers,   role:finance-controller,  acme
g, role:marketing-manager,    role:employee,            acme
g, role:procurement-manager,  role:employee,            acme
g, role:finance-controller,   role:employee,            acme
g, agent:procurement-analyst, agents:procurement,       acme
g, agent:contract-review,     agents:procurement,       acme
g, agent:supplier-risk,       agents:procurement,       acme
g, agent:erp-integration,     agents:procurement,       acme
g, agent:campaign-reporter,   agents:marketing,         acme
"""
PEOPLE = """\
p, role:employee,            acme, sandbox.run_python,  call, allow, no-network,      -, EMP-1
p, role:employee,            acme, a2a:*,               send, allow, -,               -, EMP-2
p, role:marketing-manager,   acme, crm.campaign_report, call, allow, -,               -, MKT-1
p, role:procurement-manager, acme, set:reading,         call, allow, -,               -, PRO-1
p, role:procurement-manager, acme, erp.write_po,        call, allow, po-within-limit, -, PRO-2
p, role:procurement-manager, acme, mail.send,           call, allow, -,               -, PRO-3
p, role:finance-controller,  acme, erp.*,               call, allow, -,               -, FIN-1
p, role:finance-controller,  acme, contracts.search,    call, allow, -,               -, FIN-2
"""
AGENTS = """\
p, agents:procurement,        acme, a2a:*,                   send,  allow, -,          -, AGT-1
p, agent:procurement-analyst, acme, set:reading,             call,  allow, -,          -, AGT-2
p, agent:procurement-analyst, acme, erp.write_po,            relay, allow, -,          -, AGT-3
p, agent:procurement-analyst, acme, sandbox.run_python,      call,  allow, -,          -, AGT-4
p, agent:procurement-analyst, acme, mail.send,               call,  allow, -,          -, AGT-5
p, agent:contract-review,     acme, contracts.search,        call,  allow, -,          -, AGT-6
p, agent:supplier-risk,       acme, risk.score,              call,  allow, -,          -, AGT-7
p, agent:supplier-risk,       acme, sandbox.run_python,      call,  allow, no-network, -, AGT-8
p, agent:erp-integration,     acme, erp.*,                   call,  allow, -,          -, AGT-9
p, agent:campaign-reporter,   acme, crm.campaign_report,     call,  allow, -,          -, AGT-10
p, agent:campaign-reporter,   acme, a2a:procurement-analyst, send,  allow, -,          -, AGT-11
p, agent:contract-review,     acme, mail.send,               relay, allow, -,          -, AGT-12
p, agent:contract-review,     acme, a2a:erp-integration,     relay, deny,  -,          -, AGT-13
"""
GUARDRAILS = """\
p, *, acme, erp.write_po, call, deny, blocked-supplier, -, SEC-1
"""
CONDITIONS = """\
po-within-limit:  {if: 'args.amount > 0 and args.amount <= 250000 and args.currency == "EUR"', say: up to 250 000 EUR}
no-network:       {if: args.network == False and args.memory_mb <= 512, say: no network}
blocked-supplier: {if: 'args.supplier in ["S-13", "S-99"]', say: suppliers on the blocked list}
"""
TOOLS = """\
tenants: [acme]
tools:
  erp.read: {args: {entity: string, id: string}}
  erp.write_po: {args: {supplier: string, amount: number, currency: string}}
  contracts.search: {args: {supplier: string, query: string}}
  risk.score: {args: {supplier: string}}
  sandbox.run_python: {args: {code: string, network: boolean, memory_mb: number}}
  crm.campaign_report: {args: {campaign: string}}
  mail.send: {args: {to: string, body: string}}
sets:
  "set:reading": [erp.read, contracts.search, risk.score]
"""

PEOPLE_OF = {
    "mia": ("user:dev/mia", frozenset({"marketing-managers"})),
    "paul": ("user:dev/paul", frozenset({"procurement-managers"})),
    "fiona": ("user:dev/fiona", frozenset({"finance-controllers"})),
    "zoe": ("user:dev/zoe", frozenset()),
}
AGENTS_OF = {
    "reporter": "agent:campaign-reporter",
    "analyst": "agent:procurement-analyst",
    "contracts": "agent:contract-review",
    "risk": "agent:supplier-risk",
    "erp": "agent:erp-integration",
}
ARGUMENTS: dict[str, dict[str, object]] = {
    "erp.write_po": {"supplier": "S-77", "amount": 500, "currency": "EUR"},
    "erp.write_po blocked": {"supplier": "S-13", "amount": 500, "currency": "EUR"},
    "erp.write_po huge": {"supplier": "S-77", "amount": 300_000, "currency": "EUR"},
    "erp.write_po text": {"supplier": "S-77", "amount": "500", "currency": "EUR"},
    "sandbox.run_python": {"code": "x", "network": False, "memory_mb": 64},
    "sandbox.run_python net": {"code": "x", "network": True, "memory_mb": 64},
}

Asked = tuple[str, str, str, bool]


class Row(NamedTuple):
    """One call, every question it raises with its answer, and what comes of it."""

    who: str
    via: str
    action: str
    what: str
    asked: list[Asked]
    reason: str


MIA, PAUL, FIONA, ZOE = (subject for subject, _ in PEOPLE_OF.values())
REPORTER, ANALYST, CONTRACTS, RISK, ERP = AGENTS_OF.values()
YES, NO = True, False
PO = "erp.write_po"

TABLE = [
    # --- no agent: the person's own hands
    Row("paul", "", "call", PO, [(PAUL, "subject", "call", YES)], "allowed"),
    Row("fiona", "", "call", PO, [(FIONA, "subject", "call", YES)], "allowed"),
    Row("mia", "", "call", PO, [(MIA, "subject", "call", NO)], "user-lacks-right"),
    Row("mia", "", "call", "crm.campaign_report", [(MIA, "subject", "call", YES)], "allowed"),
    Row("zoe", "", "call", "crm.campaign_report", [(ZOE, "subject", "call", NO)], "user-lacks-right"),
    Row("paul", "", "call", "erp.write_po huge", [(PAUL, "subject", "call", NO)], "user-lacks-right"),
    Row("paul", "", "call", "erp.write_po text", [(PAUL, "subject", "call", NO)], "user-lacks-right"),
    Row("paul", "", "send", "a2a:contract-review", [(PAUL, "subject", "send", YES)], "allowed"),
    Row("zoe", "", "send", "a2a:contract-review", [(ZOE, "subject", "send", NO)], "user-lacks-right"),
    # --- one agent: it acts, it does not relay
    Row("mia", "reporter", "call", "crm.campaign_report",
        [(MIA, "subject", "call", YES), (REPORTER, "actor", "call", YES)], "allowed"),
    Row("paul", "reporter", "call", "crm.campaign_report",
        [(PAUL, "subject", "call", NO), (REPORTER, "actor", "call", YES)], "user-lacks-right"),
    Row("paul", "erp", "call", PO, [(PAUL, "subject", "call", YES), (ERP, "actor", "call", YES)], "allowed"),
    Row("mia", "erp", "call", PO, [(MIA, "subject", "call", NO), (ERP, "actor", "call", YES)], "user-lacks-right"),
    Row("paul", "analyst", "call", PO, [(PAUL, "subject", "call", YES), (ANALYST, "actor", "call", NO)], "agent-lacks-right"),
    Row("paul", "analyst", "call", "erp.read",
        [(PAUL, "subject", "call", YES), (ANALYST, "actor", "call", YES)], "allowed"),
    Row("fiona", "reporter", "call", PO,
        [(FIONA, "subject", "call", YES), (REPORTER, "actor", "call", NO)], "agent-lacks-right"),
    Row("paul", "contracts", "call", "contracts.search",
        [(PAUL, "subject", "call", YES), (CONTRACTS, "actor", "call", YES)], "allowed"),
    Row("paul", "contracts", "call", "mail.send",
        [(PAUL, "subject", "call", YES), (CONTRACTS, "actor", "call", NO)], "agent-lacks-right"),
    Row("paul", "risk", "call", "sandbox.run_python",
        [(PAUL, "subject", "call", YES), (RISK, "actor", "call", YES)], "allowed"),
    Row("paul", "analyst", "send", "a2a:contract-review",
        [(PAUL, "subject", "send", YES), (ANALYST, "actor", "send", YES)], "allowed"),
    Row("mia", "reporter", "send", "a2a:procurement-analyst",
        [(MIA, "subject", "send", YES), (REPORTER, "actor", "send", YES)], "allowed"),
    Row("mia", "reporter", "send", "a2a:erp-integration",
        [(MIA, "subject", "send", YES), (REPORTER, "actor", "send", NO)], "agent-lacks-right"),
    Row("zoe", "analyst", "send", "a2a:erp-integration",
        [(ZOE, "subject", "send", NO), (ANALYST, "actor", "send", YES)], "user-lacks-right"),
    # --- two agents: the first relays, the last acts
    Row("paul", "analyst > erp", "call", PO,
        [(PAUL, "subject", "call", YES), (ANALYST, "relay", "relay", YES), (ERP, "actor", "call", YES)], "allowed"),
    Row("paul", "erp > analyst", "call", PO,
        [(PAUL, "subject", "call", YES), (ERP, "relay", "relay", YES), (ANALYST, "actor", "call", NO)], "agent-lacks-right"),
    Row("mia", "analyst > erp", "call", PO,
        [(MIA, "subject", "call", NO), (ANALYST, "relay", "relay", YES), (ERP, "actor", "call", YES)], "user-lacks-right"),
    Row("fiona", "reporter > erp", "call", PO,
        [(FIONA, "subject", "call", YES), (REPORTER, "relay", "relay", NO), (ERP, "actor", "call", YES)], "agent-lacks-right"),
    Row("paul", "contracts > analyst", "call", "mail.send",
        [(PAUL, "subject", "call", YES), (CONTRACTS, "relay", "relay", YES), (ANALYST, "actor", "call", YES)], "allowed"),
    Row("paul", "analyst > contracts", "call", "mail.send",
        [(PAUL, "subject", "call", YES), (ANALYST, "relay", "relay", YES), (CONTRACTS, "actor", "call", NO)],
        "agent-lacks-right"),
    Row("paul", "analyst > risk", "call", "sandbox.run_python net",
        [(PAUL, "subject", "call", NO), (ANALYST, "relay", "relay", YES), (RISK, "actor", "call", NO)], "user-lacks-right"),
    Row("paul", "analyst > erp", "call", "erp.write_po blocked",
        [(PAUL, "subject", "call", NO), (ANALYST, "relay", "relay", NO), (ERP, "actor", "call", NO)], "guardrail"),
    Row("paul", "analyst > contracts", "send", "a2a:supplier-risk",
        [(PAUL, "subject", "send", YES), (ANALYST, "relay", "relay", YES), (CONTRACTS, "actor", "send", YES)], "allowed"),
    Row("mia", "reporter > analyst", "send", "a2a:erp-integration",
        [(MIA, "subject", "send", YES), (REPORTER, "relay", "relay", NO), (ANALYST, "actor", "send", YES)],
        "agent-lacks-right"),
    Row("mia", "reporter > analyst", "send", "a2a:procurement-analyst",
        [(MIA, "subject", "send", YES), (REPORTER, "relay", "relay", YES), (ANALYST, "actor", "send", YES)], "allowed"),
    Row("paul", "analyst > contracts", "send", "a2a:erp-integration",
        [(PAUL, "subject", "send", YES), (ANALYST, "relay", "relay", YES), (CONTRACTS, "actor", "send", YES)], "allowed"),
    Row("paul", "contracts > analyst", "send", "a2a:erp-integration",
        [(PAUL, "subject", "send", YES), (CONTRACTS, "relay", "relay", NO), (ANALYST, "actor", "send", YES)], "guardrail"),
    # --- three agents: two relay
    Row("mia", "reporter > analyst > erp", "call", PO,
        [(MIA, "subject", "call", NO), (REPORTER, "relay", "relay", NO), (ANALYST, "relay", "relay", YES),
         (ERP, "actor", "call", YES)], "user-lacks-right"),
    Row("paul", "reporter > analyst > erp", "call", PO,
        [(PAUL, "subject", "call", YES), (REPORTER, "relay", "relay", NO), (ANALYST, "relay", "relay", YES),
         (ERP, "actor", "call", YES)], "agent-lacks-right"),
    Row("paul", "analyst > contracts > erp", "call", PO,
        [(PAUL, "subject", "call", YES), (ANALYST, "relay", "relay", YES), (CONTRACTS, "relay", "relay", NO),
         (ERP, "actor", "call", YES)], "agent-lacks-right"),
    Row("fiona", "analyst > erp > analyst", "call", "erp.read",
        [(FIONA, "subject", "call", YES), (ANALYST, "relay", "relay", YES), (ERP, "relay", "relay", YES),
         (ANALYST, "actor", "call", YES)], "allowed"),
    Row("paul", "erp > analyst > erp", "call", PO,
        [(PAUL, "subject", "call", YES), (ERP, "relay", "relay", YES), (ANALYST, "relay", "relay", YES),
         (ERP, "actor", "call", YES)], "allowed"),
    Row("paul", "analyst > contracts > risk", "send", "a2a:erp-integration",
        [(PAUL, "subject", "send", YES), (ANALYST, "relay", "relay", YES), (CONTRACTS, "relay", "relay", NO),
         (RISK, "actor", "send", YES)], "guardrail"),
    Row("paul", "analyst > risk > contracts", "send", "a2a:erp-integration",
        [(PAUL, "subject", "send", YES), (ANALYST, "relay", "relay", YES), (RISK, "relay", "relay", YES),
         (CONTRACTS, "actor", "send", YES)], "allowed"),
    Row("mia", "reporter > analyst > contracts", "send", "a2a:supplier-risk",
        [(MIA, "subject", "send", YES), (REPORTER, "relay", "relay", NO), (ANALYST, "relay", "relay", YES),
         (CONTRACTS, "actor", "send", YES)], "agent-lacks-right"),
]  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("golden")
    model = Path(engine_module.__file__).with_name("default") / "model.conf"
    (folder / "grants").mkdir()
    for name, text in {
        "model.conf": model.read_text(),
        "roles.csv": ROLES,
        "tools.yaml": TOOLS,
        "conditions.yaml": CONDITIONS,
        "obligations.yaml": "",
        "grants/people.csv": PEOPLE,
        "grants/agents.csv": AGENTS,
        "grants/guardrails.csv": GUARDRAILS,
    }.items():
        (folder / name).write_text(text)
    return Engine(load(folder))


def chain_of(row: Row) -> tuple[str, ...]:
    return tuple(AGENTS_OF[name.strip()] for name in row.via.split(">") if name.strip())


def ask(engine: Engine, row: Row) -> Decision:
    subject, groups = PEOPLE_OF[row.who]
    return engine.decide(
        AccessRequest(
            subject=subject,
            actors=chain_of(row),
            tenant=TENANT,
            action=row.action,
            resource=row.what.split(" ")[0],
            at=WEDNESDAY_NOON,
            groups=groups,
            arguments=ARGUMENTS.get(row.what, {}),
        )
    )


def asked(decision: Decision) -> list[Asked]:
    return [(a.question.principal, a.question.role.value, a.question.action, a.allowed) for a in decision.answers]


def label(row: Row) -> str:
    return " > ".join(part for part in (row.who, row.via) if part) + f" {row.action} {row.what}"


@pytest.mark.parametrize("row", TABLE, ids=label)
def test_every_principal_is_asked_the_right_question_in_the_order_of_the_chain(row: Row) -> None:
    subject, _ = PEOPLE_OF[row.who]
    assert [(q.principal, q.role.value, q.action) for q in questions(subject, chain_of(row), row.action)] == [
        question[:3] for question in row.asked
    ]


@pytest.mark.parametrize("row", TABLE, ids=label)
def test_the_answers_and_the_decision_are_those_of_the_golden_table(engine: Engine, row: Row) -> None:
    decision = ask(engine, row)
    assert asked(decision) == row.asked
    assert decision.reason.value == row.reason
    assert decision.allowed == all(answer for *_, answer in row.asked)
    assert decision.missing == tuple(principal for principal, _, _, answer in row.asked if not answer)


def test_the_table_covers_chains_of_no_to_three_agents_for_tools_and_for_agents_with_both_answers() -> None:
    seen = {(len(chain_of(row)), row.action, row.reason == "allowed") for row in TABLE}
    assert seen >= {(agents, action, True) for agents in range(4) for action in ("call", "send")}
    assert seen >= {(agents, action, False) for agents in range(4) for action in ("call", "send")}


# --- planted mistakes: each must change some row of the table

Asker = Callable[[str, tuple[str, ...], str], tuple[Question, ...]]


def reversed_chain(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, actors[::-1], action)


def only_the_person_and_the_last_agent(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, actors[-1:], action)


def only_the_person(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, (), action)


def only_the_agents(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, actors, action)[1:] or questions(subject, (), action)


def first_agent_acts(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    real = [Question(subject, Role.SUBJECT, action)]
    real += [Question(actor, Role.ACTOR, action) for actor in actors[:1]]
    real += [Question(actor, Role.RELAY, "relay") for actor in actors[1:]]
    return tuple(real)


def relays_are_asked_the_action(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return tuple(Question(q.principal, q.role, action) for q in questions(subject, actors, action))


def everybody_but_the_person_relays(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return tuple(Question(q.principal, q.role, "relay" if q.role is Role.ACTOR else q.action)
                 for q in questions(subject, actors, action))  # fmt: skip


def the_person_is_asked_to_relay(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return tuple(Question(q.principal, q.role, "relay" if q.role is Role.SUBJECT else q.action)
                 for q in questions(subject, actors, action))  # fmt: skip


def the_first_relay_is_skipped(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, actors[1:] if len(actors) > 1 else actors, action)


def middle_relays_are_skipped(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, actors[:1] + actors[-1:] if len(actors) > 1 else actors, action)


def the_last_agent_is_skipped(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, actors[:-1], action)


def a_send_is_asked_as_a_call(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    return questions(subject, actors, "call" if action == "send" else action)


def the_person_is_asked_last(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    first, *rest = questions(subject, actors, action)
    return (*rest, first)


CHANGE_THE_OUTCOME: list[Asker] = [
    reversed_chain,
    only_the_person_and_the_last_agent,
    only_the_person,
    only_the_agents,
    first_agent_acts,
    relays_are_asked_the_action,
    everybody_but_the_person_relays,
    the_first_relay_is_skipped,
    middle_relays_are_skipped,
    the_last_agent_is_skipped,
    a_send_is_asked_as_a_call,
]
CHANGE_THE_RECORD: list[Asker] = [the_person_is_asked_to_relay, the_person_is_asked_last]


@pytest.mark.parametrize("mistake", CHANGE_THE_OUTCOME, ids=lambda f: f.__name__)
def test_the_table_notices_a_mistake_that_would_change_who_may_do_what(
    engine: Engine, mistake: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "questions", mistake)
    assert any(ask(engine, row).allowed != (row.reason == "allowed") for row in TABLE)


@pytest.mark.parametrize("mistake", CHANGE_THE_RECORD, ids=lambda f: f.__name__)
def test_the_table_notices_a_mistake_that_would_only_show_in_the_record(
    engine: Engine, mistake: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "questions", mistake)
    assert any(asked(ask(engine, row)) != row.asked for row in TABLE)
