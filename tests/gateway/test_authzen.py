"""The decision point over HTTP: it says what the road would say, about oneself; about others only to those who may ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from msgspec.structs import replace as structs_replace

from audit.leaf import check
from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway import access as authzen
from gateway.api import _errors
from gateway.identity.killed import Killed
from gateway.model import Principal, Refused
from gateway.reasons import Code
from gateway.state.kills import Kill
from policies import engine as engine_module
from policies.bundle import load_texts
from policies.engine import Engine

AT = 1_788_955_200_000_000
GRANTS = """\
p, role:buyer, acme, erp.write_po, call, allow, small, -, BUY-1
p, *, acme, erp.write_po, call, require, -, full-audit, SEC-1
p, agent:helper, acme, erp.write_po, call, allow, -, -, AGT-1
p, agent:helper, acme, mail.send, call, allow, -, -, AGT-2
p, role:auditor, acme, admin:decisions, ask, allow, key-only, -, AUD-1
p, role:buyer, acme, res:files/file:///data/*, read, allow, -, -, BUY-2
p, role:buyer, acme, a2a:clerk, send, allow, -, -, BUY-3
p, agent:helper, acme, a2a:clerk, send, allow, -, -, AGT-3
"""
FILES = {
    "model.conf": (Path(engine_module.__file__).with_name("default") / "model.conf").read_text(),
    "roles.csv": "g, idp:buyers, role:buyer, acme\ng, idp:auditors, role:auditor, acme\n",
    "tools.yaml": "tenants: [acme]\ntools:\n  erp.write_po: {args: {amount: number}}\n  mail.send: {}\n",
    "conditions.yaml": "small: {if: args.amount <= 100.10, say: x}\nkey-only: {if: 'agent.assurance == \"bearer\"', say: x}\n",
    "obligations.yaml": "full-audit: {type: audit, arguments: full, sample: 0.5}\n",
    "grants/all.csv": GRANTS,
}


def person(subject: str = "user:corp/paul", *groups: str, actors: tuple[str, ...] = (), strong: bool = False) -> Principal:
    made = Principal(subject, actors, "acme", "wf-1", 2**40, "bearer", "c" * 64, frozenset(groups))
    return structs_replace(made, assurance="pop") if strong else made


PAUL = person("user:corp/paul", "buyers")
ANN = person("user:corp/ann", "auditors")


@dataclass
class World:
    """An application with the three routes, the real judge, and a ledger that remembers or fails."""

    principal: Principal | None = PAUL
    entries: list[Entry] = field(default_factory=list)
    broken: bool = False
    kills: tuple[Kill, ...] = ()
    engine: Engine = field(default_factory=lambda: Engine(load_texts(FILES)))

    async def whoami(self, _request: Request) -> Principal:
        if self.principal is None:
            raise Refused(Code.NO_CREDENTIAL)
        return self.principal

    async def append(self, entry: Entry) -> Receipt:
        if self.broken:
            raise LedgerUnavailableError("the disk is full")
        check(entry)
        self.entries.append(entry)
        return Receipt("log", entry.id, len(self.entries), b"")

    def dead(self, principal: Principal) -> bool:
        return Killed(self.kills).of(principal) is not None

    def client(self) -> httpx.AsyncClient:
        api = FastAPI()
        _errors(api)
        authzen.add_access(
            api,
            authzen.Access(
                "https://gate.example.com", self.whoami, lambda _principal: self.engine.decide, self.append, lambda: AT, self.dead
            ),
        )
        return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="https://gate.example.com")

    async def ask(self, body: Any, path: str = authzen.EVALUATION, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client() as client:
            return await client.post(path, content=content, headers={"content-type": "application/json"} | headers)


@pytest.fixture
def world() -> World:
    return World()


def question(subject: str = "corp/paul", tool: str = "erp.write_po", **arguments: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": subject},
        "action": {"name": "call", "properties": {"arguments": arguments}},
        "resource": {"type": "tool", "id": tool},
    }


async def test_an_allow_carries_its_duties_and_the_id_of_its_record(world: World) -> None:
    answer = await world.ask(question(amount=100), **{"x-request-id": "r-1"})
    (entry,) = world.entries
    assert answer.json() == {
        "decision": True,
        "context": {
            "id": entry.id,
            "reason": "allowed",
            "obligations": [{"id": "full-audit", "type": "audit", "properties": {"arguments": "full", "sample": "0.5"}}],
        },
    }
    assert (answer.headers["x-request-id"], answer.headers["cache-control"]) == ("r-1", "no-store")
    assert (entry.kind, entry.subject, entry.fields["about"]) == ("decision.evaluate", "user:corp/paul", "self")
    (asked,) = entry.fields["decision"]["asked"]  # type: ignore[index]
    assert (asked["rules"], asked["duties"], asked["near"]) == (["BUY-1 grants/all.csv:1"], ["SEC-1 grants/all.csv:2"], [])
    assert b'"amount":100' in entry.values[0].data


async def test_the_answer_is_that_of_the_judge_of_the_road(world: World) -> None:
    for amount in (1, 100.1, 100.11, 5000, "5", None):
        for principal in (PAUL, person("user:corp/paul", "buyers", actors=("agent:helper",)), person()):
            world.principal = principal
            decision = world.engine.decide(
                structs_replace(authzen._own(principal, AT), action="call", resource="erp.write_po",
                        arguments={"amount": Decimal(str(amount)) if isinstance(amount, float) else amount})
            )  # fmt: skip
            said = (await world.ask(question(amount=amount))).json()
            assert said["decision"] == decision.allowed
            assert said["context"]["reason"] == (decision.reason.value if decision.visible else "unknown-resource")


async def test_numbers_are_asked_as_they_were_written(world: World) -> None:
    body = json.dumps(question(amount=1)).replace('"amount": 1', '"amount": 100.1000000000000000001').encode()
    assert (await world.ask(body)).json()["decision"] is False
    assert (await world.ask(body.replace(b"0001}", b"}"))).json()["decision"] is True


async def test_arguments_that_are_left_out_are_none_and_decide_nothing(world: World) -> None:
    bare = question() | {"action": {"name": "call"}}
    assert (await world.ask(bare)).json()["decision"] is False


async def test_every_kind_of_object_can_be_asked_about_and_another_kind_is_unknown(world: World) -> None:
    page = question() | {"action": {"name": "read"}, "resource": {"type": "resource", "id": "res:files/file:///data/a"}}
    assert (await world.ask(page)).json()["decision"] is True
    for other in ("tool", "res", "nothing"):
        answer = await world.ask(page | {"resource": {"type": other, "id": "res:files/file:///data/a"}})
        assert (answer.json()["decision"], answer.json()["context"]["reason"]) == (False, "unknown-resource")
    assert (await world.ask(page | {"resource": {"type": "resource", "id": "res:files/file:///data/../a"}})).json()[
        "decision"
    ] is False


async def test_what_one_may_not_know_of_is_answered_as_what_is_not_there(world: World) -> None:
    answers = [(await world.ask(question(tool=tool))).json() for tool in ("mail.send", "mail.nothing", "nothing.at_all")]
    for answer in answers:
        del answer["context"]["id"]
    assert answers[0] == answers[1] == answers[2] == {"decision": False, "context": {"reason": "unknown-resource"}}


FOREIGN: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda q: q | {"subject": {"type": "user", "id": "corp/ann"}},
    lambda q: q | {"subject": {"type": "svc", "id": "nightly"}},
    lambda q: q | {"subject": {"type": "user", "id": "corp/paul", "properties": {"actors": ["agent:helper"]}}},
    lambda q: q | {"subject": {"type": "user", "id": "corp/paul", "properties": {"groups": ["buyers", "auditors"]}}},
    lambda q: q | {"subject": {"type": "user", "id": "corp/paul", "properties": {"groups": []}}},
    lambda q: q | {"context": {"agent": {"assurance": "delegation+key"}}},
    lambda q: q | {"context": {"ctx": {"protocol": "mcp"}}},
    lambda q: q | {"subject": {"type": "role", "id": "buyer"}},
]


@pytest.mark.parametrize("change", FOREIGN, ids=range(len(FOREIGN)))
async def test_nobody_learns_anything_about_others_without_the_right_to_ask(world: World, change: Any) -> None:
    texts = set()
    for tool, amount in (("erp.write_po", 5), ("erp.write_po", 5000), ("mail.send", 1), ("nothing.at_all", 1)):
        world.entries.clear()
        answer = await world.ask(change(question(tool=tool, amount=amount)))
        assert answer.status_code == 403
        texts.add(answer.text)
        (entry,) = world.entries
        assert (entry.fields["resource"], entry.fields["decision"]["effect"]) == ("admin:decisions", "deny")  # type: ignore[index]
    assert len(texts) == 1, "the refusal is the same whatever was asked"


async def test_one_question_about_another_in_a_batch_refuses_the_whole_batch(world: World) -> None:
    body = {"evaluations": [question(amount=1), FOREIGN[0](question(amount=1))]}
    assert (await world.ask(body, authzen.EVALUATIONS)).status_code == 403
    assert [entry.fields["resource"] for entry in world.entries] == ["admin:decisions"]


async def test_an_agent_in_the_chain_needs_the_right_to_ask_too(world: World) -> None:
    world.principal = person("user:corp/ann", "auditors", actors=("agent:helper",))
    assert (await world.ask(question(amount=1))).status_code == 403


async def test_who_may_ask_learns_about_others_and_no_name_of_theirs_is_in_the_leaf(world: World) -> None:
    world.principal = ANN
    asked = question(amount=5)
    asked["subject"]["properties"] = {"groups": ["buyers"], "actors": ["agent:helper"]}
    answer = await world.ask(asked)
    assert answer.json()["decision"] is True
    (entry,) = world.entries
    assert (entry.subject, entry.fields["about"]) == ("user:corp/ann", "other")
    assert "paul" not in str(entry.fields)
    assert b"corp/paul" in entry.values[0].data
    asked["resource"]["id"] = "mail.send"
    assert (await world.ask(asked)).json()["context"]["reason"] == "user-lacks-right"


@pytest.mark.parametrize(
    ("kind", "target"), [("user", "user:corp/paul"), ("agent", "agent:helper"), ("agent", "agent:clerk"), ("tenant", "acme")]
)
async def test_of_whom_a_kill_is_in_force_nobody_is_told_yes(world: World, kind: str, target: str) -> None:
    world.principal = ANN
    about = question()
    about["subject"]["properties"] = {"groups": ["buyers"], "actors": ["agent:helper"]}
    about |= {"action": {"name": "send"}, "resource": {"type": "agent", "id": "a2a:clerk"}}
    assert (await world.ask(about)).json()["decision"] is True
    world.kills = (Kill("k", kind, target, None, "why", "api", "user:corp/fiona", AT),)
    answer = (await world.ask(about)).json()
    assert (answer["decision"], answer["context"]["reason"]) == (False, "revoked")
    assert [entry.fields["revoked"] for entry in world.entries] == [False, True]
    world.kills = (replace(world.kills[0], before=AT // 1_000_000 - 1),)
    assert (await world.ask(about)).json()["decision"] is True  # whoever signs in again goes on


async def test_the_right_to_ask_is_judged_by_the_callers_own_facts(world: World) -> None:
    world.principal = person("user:corp/ann", "auditors", strong=True)
    asked = question(amount=5) | {"context": {"agent": {"assurance": "bearer"}}}
    assert (await world.ask(asked)).status_code == 403


@pytest.mark.parametrize(("duty", "status"), [("full-audit", 200), ("approval", 403)])
async def test_a_right_to_ask_counts_only_where_its_duties_are_fulfilled_by_a_record(
    world: World, duty: str, status: int
) -> None:
    extra = f"p, *, acme, admin:*, ask, require, -, {duty}, SEC-9\n"
    duties = FILES["obligations.yaml"] + "approval: {type: human-approval, by: role:boss}\n"
    world.engine = Engine(load_texts(FILES | {"grants/all.csv": GRANTS + extra, "obligations.yaml": duties}))
    world.principal = ANN
    answer = await world.ask(question(amount=5))
    assert answer.status_code == status
    assert status == 200 or answer.json()["title"] == "duty-failed"


@pytest.mark.parametrize(
    ("semantic", "decisions"),
    [
        (None, [True, False, True]),
        ("execute_all", [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
async def test_a_batch_stops_where_its_semantics_say(world: World, semantic: str | None, decisions: list[bool]) -> None:
    shared = question()
    acts = [{"action": {"name": "call", "properties": {"arguments": {"amount": n}}}} for n in (1, 500, 2)]
    body = shared | {"evaluations": acts} | ({"options": {"evaluations_semantic": semantic}} if semantic else {})
    answer = (await world.ask(body, authzen.EVALUATIONS)).json()
    assert [each["decision"] for each in answer["evaluations"]] == decisions
    assert [each["context"]["id"] for each in answer["evaluations"]] == [entry.id for entry in world.entries]


async def test_a_batch_without_evaluations_is_one_question(world: World) -> None:
    for body in (question(amount=1), question(amount=1) | {"evaluations": []}):
        assert (await world.ask(body, authzen.EVALUATIONS)).json()["decision"] is True


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", ""), (b"[]", ""), (b"{", ""), (b'{"subject":1,"subject":2}', ""), (b"\xff", ""), (b'{"a":NaN}', ""),
        (b"[" * 100, ""),
        ({}, "subject"), (question() | {"subject": "user:corp/paul"}, "subject"), (question() | {"extra": 1}, "extra"),
        (question() | {"subject": {"type": "user"}}, "subject.id"),
        (question() | {"subject": {"type": "", "id": "x"}}, "subject.type"),
        (question() | {"subject": {"type": "user", "id": "x" * 1001}}, "subject.id"),
        (question() | {"subject": {"type": "user", "id": "x", "properties": {"department": 1}}}, "subject.properties.department"),
        (question() | {"action": {"name": 5}}, "action.name"), (question() | {"action": {"name": "call", "x": 1}}, "action.x"),
        (question() | {"action": {"name": "call", "properties": {"arguments": []}}}, "action.properties.arguments"),
        (question() | {"context": {"time": 1}}, "context.time"), (question() | {"context": {"ctx": 1}}, "context.ctx"),
        (question() | {"evaluations": [{}]}, "evaluations"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_question_is_refused_with_its_place_and_nothing_is_recorded(world: World, body: Any, where: str) -> None:
    answer = await world.ask(body)
    assert (answer.status_code, answer.json()["title"], answer.json().get("instance", "")) == (400, "malformed", where)
    assert world.entries == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"evaluations": [question()] * 51}, "evaluations"),
        ({"evaluations": {}}, "evaluations"),
        ({"evaluations": [question(), 5]}, "evaluations[1]"),
        ({"evaluations": [question(), question() | {"resource": {"type": "tool"}}]}, "evaluations[1].resource.id"),
        (question() | {"options": {"evaluations_semantic": "first"}}, "options.evaluations_semantic"),
        (question() | {"options": {"evaluations_semantic": ["execute_all"]}}, "options.evaluations_semantic"),
        (question() | {"options": {"x": 1}}, "options.x"),
    ],
    ids=str,
)
async def test_a_batch_that_is_none_is_refused_with_its_place(world: World, body: Any, where: str) -> None:
    answer = await world.ask(body, authzen.EVALUATIONS)
    assert (answer.status_code, answer.json()["instance"]) == (400, where)
    assert world.entries == []


async def test_the_body_is_bounded_and_of_one_type(world: World) -> None:
    assert (await world.ask(b" " * (authzen.MAX_BODY + 1))).status_code == 413
    assert (await world.ask(question(), **{"content-type": "text/plain"})).status_code == 400
    assert world.entries == []


async def test_a_small_batch_does_not_fill_the_ledger_by_what_its_questions_share(world: World) -> None:
    shared = question(amount=1, padding="x" * 200_000)
    answer = await world.ask({**shared, "evaluations": [{}] * authzen.MAX_EVALUATIONS}, authzen.EVALUATIONS)
    assert (answer.status_code, answer.json()["instance"]) == (400, "evaluations")
    assert world.entries == []
    assert (await world.ask({**shared, "evaluations": [{}] * 4}, authzen.EVALUATIONS)).status_code == 200


async def test_a_stranger_is_refused_before_the_body_is_read(world: World) -> None:
    world.principal = None
    answer = await world.ask(b"x" * (authzen.MAX_BODY + 1))
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_an_answer_that_cannot_be_recorded_is_not_given(world: World) -> None:
    world.broken = True
    for body, path in ((question(amount=1), authzen.EVALUATION), ({"evaluations": [question(amount=1)]}, authzen.EVALUATIONS)):
        answer = await world.ask(body, path)
        assert (answer.status_code, "decision" in answer.json()) == (503, False)
    assert "disk" not in answer.text


async def test_the_metadata_names_the_two_endpoints(world: World) -> None:
    async with world.client() as client:
        said = (await client.get(authzen.METADATA)).json()
    assert said == {
        "policy_decision_point": "https://gate.example.com",
        "access_evaluation_endpoint": "https://gate.example.com/access/v1/evaluation",
        "access_evaluations_endpoint": "https://gate.example.com/access/v1/evaluations",
    }


async def test_a_request_id_that_is_no_plain_word_is_not_echoed(world: World) -> None:
    answer = await world.ask(question(amount=1), **{"x-request-id": "a b"})
    assert "x-request-id" not in answer.headers


async def test_a_workflow_that_was_begun_for_less_is_told_no_where_the_rules_say_yes(world: World) -> None:
    world.principal = structs_replace(PAUL, scope=("mail.*",))
    assert (await world.ask(question(amount=5))).json()["context"]["reason"] == "insufficient-scope"
    assert world.entries[-1].fields["outside"] is True
    world.principal = structs_replace(PAUL, scope=("erp.*",))
    assert (await world.ask(question(amount=5))).json()["decision"] is True


async def test_a_workflow_that_was_begun_for_less_asks_about_nobody_else(world: World) -> None:
    world.principal = structs_replace(ANN, scope=("erp.*",))
    assert (await world.ask(question(amount=5))).status_code == 403
    world.principal = ANN
    assert (await world.ask(question(amount=5))).status_code == 200
