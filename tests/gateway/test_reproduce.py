"""A record gives back exactly the question that was decided, or says that it cannot; nothing between."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from a2a.types import a2a_pb2 as pb
from msgspec.structs import replace as varied

from audit.journal import Journal
from audit.model import Entry, Value
from audit.reader import Ledger
from bench import replay as bench
from gateway.a2a.normalise import normalise as normalise_a2a
from gateway.a2a.operations import CARD, Asked
from gateway.cli.audit_reproduce import judge
from gateway.cli.policy.replay import as_markdown, compare
from gateway.mcp.normalise import normalise as normalise_mcp
from gateway.mcp.wire import read
from gateway.model import Arrival, Call, Permit, Principal, Refused, Trace, new_id, wall_clock
from gateway.reasons import Code
from gateway.record import Recorder
from gateway.reproduce import Kept, Past, Undecidable, Why, decisions
from policies.bundle import Bundle, load
from policies.engine import Engine
from policies.model import AccessRequest, Decision, Match, Source
from policies.replay import Direction, Tally, Verdict
from tests.audit.conftest import SEAL_KEY, SIGNING_KEY, tamper

PEOPLE = 20


def caller(subject: str) -> Principal:
    """Somebody in purchasing, through the analyst."""
    return Principal(
        subject, ("agent:procurement-analyst",), "acme", "wf-1", 2**33, "bearer", "0" * 64,
        groups=frozenset({"procurement-managers"}),
    )  # fmt: skip


PAUL = caller("user:dev/paul")
SAID = pb.SendMessageRequest(
    message=pb.Message(parts=[pb.Part(url="https://files.example/a", media_type="text/CSV"), pb.Part(raw=b"1")])
)
HARD = (
    b'{"amount": 1.10}', b'{"amount": 1e2}', b'{"amount": 1.0}', b'{"amount": 9007199254740993}', b'{"amount": -0.0}',
    b'{"amount": 0.1, "supplier": "\\u00e9\\u4e16\\ud83d\\ude00", "x": [1.5, {"y": [null, true, 2.50]}]}', b"{}",
    b'{"supplier": "@subject", "amount": "500"}', b'{"a b": 1, "\\u0000": 2}',
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load(bench.PROCUREMENT)


class Recorded:
    """A ledger that a real recorder filled, and what was really asked and answered, by record."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.engine = Engine(bundle)
        self.asked: dict[str, tuple[AccessRequest, Decision]] = {}

    async def open(self) -> Journal:
        return await Journal.open(
            url=self.url, origin=bench.ORIGIN, signing_key=SIGNING_KEY, seal_key=SEAL_KEY, writer="gw", clock=wall_clock,
        )  # fmt: skip

    async def take(self, recorder: Recorder, call: Call, principal: Principal) -> str:
        normalise = normalise_mcp if call.arrival.protocol == "mcp" else normalise_a2a
        request = normalise(call, principal)
        decision = self.engine.decide(request)
        self.asked[call.arrival.id] = request, decision
        if decision.allowed:
            await recorder.intent(Permit.of(call, principal, request, decision))
        else:
            refused = Refused(Code(decision.reason.value), decision=decision, request=request, call=call, principal=principal)
            await recorder.refusal(call.arrival, refused)
        return call.arrival.id

    def log(self) -> Ledger:
        return Ledger.open(self.url, SEAL_KEY)

    def found(self) -> list[Past | Undecidable]:
        with self.log() as log:
            return list(decisions(log))


def tool_call(target: str, name: str, arguments: bytes = b"{}") -> Call:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%b","arguments":%b}}' % (name.encode(), arguments)
    return read(arrival("mcp", target, body), 64)


def arrival(protocol: str, target: str, body: bytes) -> Arrival:
    at = wall_clock()
    headers = (("content-type", "application/json"), ("mcp-protocol-version", "2025-11-25"))
    return Arrival(new_id(at), protocol, target, headers, body, at, Trace("1" * 32, "2" * 16))  # type: ignore[arg-type]


def exactly(request: AccessRequest) -> object:
    """The question with the type of every number, text and list in it: 1 is not 1.0 and not Decimal(1)."""

    def typed(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: typed(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [typed(inner) for inner in value]
        return type(value).__name__, str(value)

    return varied(request, arguments=None, context={}), typed(request.arguments), typed(request.context)


@pytest.fixture
async def recorded(tmp_path: Path, bundle: Bundle) -> Recorded:
    """Many drawn calls, and the hard ones."""
    made = Recorded(tmp_path / "ledger.db", bundle)
    journal = await made.open()
    recorder = Recorder(journal.append, journal.submit, wall_clock)
    rng = random.Random(5)
    calls: list[tuple[Call, Principal]] = []
    for _ in range(250):
        came, principal = bench.drawn(rng, PEOPLE)
        call = (
            read(came, 64)
            if came.protocol == "mcp"
            else Call(
                came, "SendMessage", came.target, SAID, came.trace, rpc_id=7, version="1.0", kept=Asked(("https://e.example/x",))
            )
        )
        calls.append((call, principal))
    calls += [(tool_call("erp", "write_po", arguments), PAUL) for arguments in HARD]
    card = arrival("a2a", "procurement-analyst", b"")
    calls.append((Call(card, CARD, card.target, None, card.trace, version="1.0"), PAUL))
    calls.append((tool_call("erp", "\N{SNOWMAN}" * 250), PAUL))
    calls.append((tool_call("erp", "read"), caller("role:boss")))  # nobody's name: a decision that failed
    await asyncio.gather(*(made.take(recorder, *each) for each in calls))
    await recorder.refusal(arrival("mcp", "erp", b"no"), Refused(Code.MALFORMED, principal=PAUL))  # no decision, no question
    await journal.close()
    return made


async def test_every_record_gives_back_the_very_question_and_the_very_answer(recorded: Recorded) -> None:
    found = recorded.found()
    assert {past.record.id for past in found} == set(recorded.asked)
    for past in found:
        assert isinstance(past, Past), past
        request, decision = recorded.asked[past.record.id]
        assert exactly(past.request) == exactly(request)
        assert past.verdict == Verdict.of(decision)
        assert past.verdict.bundle == recorded.engine.bundle.digest


async def test_the_drawn_traffic_is_of_every_kind(recorded: Recorded) -> None:
    seen = Counter(decision.reason.value for _, decision in recorded.asked.values())
    every = {"allowed", "user-lacks-right", "agent-lacks-right", "guardrail", "unknown-resource", "decision-error"}
    assert seen.keys() == every
    assert min(seen[reason] for reason in ("allowed", "user-lacks-right", "agent-lacks-right", "unknown-resource")) >= 20
    assert {request.action for request, _ in recorded.asked.values()} == {"call", "send", "list"}
    assert any(request.arguments is None for request, _ in recorded.asked.values())
    kinds = {type(value) for request, _ in recorded.asked.values() for value in (request.arguments or {}).values()}
    assert {int, str, bool, Decimal, list} <= kinds


async def test_all_of_it_comes_out_the_same_under_its_own_bundle(recorded: Recorded) -> None:
    kept = Kept([])
    kept.add(bench.PROCUREMENT)
    with recorded.log() as log:
        result = judge(decisions(log), kept)
    assert result.ok
    assert result.identical == result.decisions == len(recorded.asked)
    assert not result.undecidable


@pytest.mark.parametrize("rule", ["PRO-2", "SEC-1", "AGT-3", "SEC-2", "EMP-2"])
async def test_one_rule_that_reads_otherwise_is_noticed_and_the_record_named(
    recorded: Recorded, bundle: Bundle, rule: str
) -> None:
    class Bugged(Kept):
        def _load(self, digest: str) -> Engine:
            changed = tuple(replace(r, tool="mail.send", when=None) if r.id == rule else r for r in bundle.rules)
            assert digest == bundle.digest
            return Engine(replace(bundle, rules=changed))

    with recorded.log() as log:
        result = judge(decisions(log), Bugged([]))
    assert not result.ok
    assert result.identical + result.differing == result.decisions
    for finding in result.findings:
        assert {"effect", "reason", "asked", "obligations"} & set(finding.differs)
        text = str((finding.recorded, finding.again))
        assert rule in text
        assert finding.record in recorded.asked


async def test_a_line_that_only_moved_within_its_file_is_noticed(recorded: Recorded, bundle: Bundle) -> None:
    class Moved(Kept):
        def _load(self, digest: str) -> Engine:
            moved = tuple(replace(r, source=Source(r.source.file, r.source.line + 1)) for r in bundle.rules)
            return Engine(replace(bundle, rules=moved))

    with recorded.log() as log:
        result = judge(decisions(log), Moved([]))
    assert {name for finding in result.findings for name in finding.differs} == {"asked"}


# ------------------------------------------------------------------------------------------------ what cannot be decided
async def test_an_erased_person_is_counted_and_nobody_else_is_touched(recorded: Recorded) -> None:
    gone = "user:dev/paul"
    journal = await recorded.open()
    await journal.shred(gone, request="R-1", approver="dpo")
    await journal.close()
    found = recorded.found()
    lost = [past for past in found if isinstance(past, Undecidable)]
    assert {past.why for past in lost} == {Why.ERASED}
    assert {past.record.id for past in lost} == {name for name, (asked, _) in recorded.asked.items() if asked.subject == gone}
    assert len(found) == len(recorded.asked)


@pytest.mark.parametrize("name", ["facts", "request"])
async def test_an_opening_that_was_exchanged_is_a_finding_and_is_never_decided_by(recorded: Recorded, name: str) -> None:
    tamper(recorded.path, f"UPDATE ledger_openings SET sealed = randomblob(length(sealed)) WHERE name = '{name}' AND idx % 2 = 0")
    with recorded.log() as log:
        result = judge(decisions(log), Kept([bench.PROCUREMENT]))
    assert result.differing > 50
    assert all(finding.differs[0].startswith(f"damaged: {name}") for finding in result.findings)


async def test_a_missing_opening_is_a_finding_too(recorded: Recorded) -> None:
    tamper(recorded.path, "DELETE FROM ledger_openings WHERE name = 'facts'")
    assert {past.why for past in recorded.found() if isinstance(past, Undecidable)} == {Why.DAMAGED}


async def test_a_persons_key_that_was_exchanged_is_a_finding_too(recorded: Recorded) -> None:
    tamper(recorded.path, "UPDATE ledger_subjects SET dek = randomblob(length(dek)) WHERE pseudonym != 'log'")
    assert {past.why for past in recorded.found() if isinstance(past, Undecidable)} == {Why.DAMAGED}


def fields(**changed: object) -> dict[str, object]:
    """A record's fields, as the gateway writes them."""
    decision = {"effect": "deny", "reason": "user-lacks-right", "policy": "sha256:0", "asked": [], "obligations": []}
    return {
        "proto": "mcp", "target": "erp", "method": "tools/list", "tenant": "acme", "chain": [["user", "@subject"]],
        "action": "list", "resource": "erp", "decision": decision,
    } | changed  # fmt: skip


FACTS = Value("facts", b'{"groups":[],"context":{},"at":1}')
ODD = {
    "no decision, of an older gateway": (fields(decision=None), (FACTS,), Why.NOT_KEPT),
    "no facts": (fields(), (), Why.NOT_KEPT),
    "no request of a tool call": (fields(method="tools/call", action="call", resource="erp.read"), (FACTS,), Why.NOT_KEPT),
    "an action of a tool that is not its call": (fields(action="read", resource="erp.read"), (FACTS,), Why.UNKNOWN_FORM),
    "a chain without its person": (fields(chain=[["agent", "agent:a"]]), (FACTS,), Why.UNKNOWN_FORM),
    "a chain with another person": (fields(chain=[["user", "s_1"]]), (FACTS,), Why.UNKNOWN_FORM),
    "a chain of something else": (fields(chain=["user"]), (FACTS,), Why.UNKNOWN_FORM),
    "facts of another form": (fields(), (Value("facts", b'{"groups":[1],"context":{},"at":1}'),), Why.UNKNOWN_FORM),
    "facts that are none": (fields(), (Value("facts", b"[]"),), Why.UNKNOWN_FORM),
    "facts that are no JSON": (fields(), (Value("facts", b"{"),), Why.UNKNOWN_FORM),
    "a time that is none": (fields(), (Value("facts", b'{"groups":[],"context":{},"at":1.5}'),), Why.UNKNOWN_FORM),
    "a decision of another form": (fields(decision={"effect": "deny"}), (FACTS,), Why.UNKNOWN_FORM),
    "a request that is no call": (
        fields(method="tools/call", action="call", resource="erp.read"),
        (FACTS, Value("request", b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}')),
        Why.UNKNOWN_FORM,
    ),
    "a request that names another tool than its record": (
        fields(method="tools/call", action="call", resource="erp.read"),
        (FACTS, Value("request", b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write_po"}}')),
        Why.DAMAGED,
    ),
    "a record that was cut": (fields(much={f"k{n}": "x" * 2000 for n in range(50)}), (FACTS,), Why.CUT),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_does_not_make_a_question_is_never_guessed(tmp_path: Path, bundle: Bundle, name: str) -> None:
    leaf, values, why = ODD[name]
    made = Recorded(tmp_path / "ledger.db", bundle)
    journal = await made.open()
    kept = {key: value for key, value in leaf.items() if value is not None}
    await journal.append(Entry("decision.deny", "d-1", wall_clock(), "user:dev/ann", kept, values))
    await journal.close()
    (found,) = made.found()
    assert isinstance(found, Undecidable)
    assert found.why is why


async def test_without_the_seal_key_nothing_is_made_of_a_ledger(recorded: Recorded) -> None:
    with Ledger.open(recorded.url) as log, pytest.raises(ValueError, match="seal key"):
        list(decisions(log))


async def test_only_what_is_not_older_is_taken_and_the_rest_is_not_even_counted(recorded: Recorded) -> None:
    with recorded.log() as log:
        times = [past.record.at for past in decisions(log)]
        middle = sorted(times)[len(times) // 2]
        later = [past.record.at for past in decisions(log, middle)]
    assert later == [at for at in times if at >= middle]


async def test_many_are_opened_at_once_and_each_as_it_is_opened_alone(recorded: Recorded) -> None:
    with recorded.log() as log:
        for opened in log.opened(("call.start", "decision.deny"), ("facts", "request", "explanation")):
            for name, value in opened.values.items():
                assert value == log.open_value(opened.record, name)
            assert opened.subject == log.subject_name(str(opened.record.subject))


# ------------------------------------------------------------------------------------------------------ the bundles kept
async def test_a_bundle_in_the_archive_that_is_not_what_its_folder_is_called_is_not_used(tmp_path: Path, bundle: Bundle) -> None:
    digest = "sha256:" + "0" * 64
    (tmp_path / ("0" * 64)).symlink_to(bench.PROCUREMENT)
    kept = Kept([tmp_path])
    assert kept.engine(digest) is None
    assert "another bundle" in kept.missing[digest]
    (tmp_path / bundle.digest.removeprefix("sha256:")).symlink_to(bench.PROCUREMENT)
    found = kept.engine(bundle.digest)
    assert found is not None
    assert found.bundle.digest == bundle.digest


@pytest.mark.parametrize("digest", ["sha256:../" + "0" * 61, "sha256:", "../../etc", "md5:" + "0" * 64, "sha256:" + "F" * 64])
def test_a_digest_that_is_none_names_no_folder(tmp_path: Path, digest: str) -> None:
    kept = Kept([tmp_path])
    assert kept.engine(digest) is None
    assert kept.missing[digest] == "it is no bundle's digest"


async def test_a_bundle_that_is_not_at_hand_is_counted_and_named(recorded: Recorded, tmp_path: Path) -> None:
    with recorded.log() as log:
        result = judge(decisions(log), Kept([tmp_path / "none"]))
    assert result.undecidable == {Why.NO_BUNDLE.value: len(recorded.asked)}
    assert result.missing == {recorded.engine.bundle.digest: "it is not in the archive"}


# ---------------------------------------------------------------------------------------------------------------- replay
async def test_a_replay_under_the_same_rules_changes_nothing(recorded: Recorded, bundle: Bundle) -> None:
    with recorded.log() as log:
        result = compare(decisions(log), Engine(bundle))
    assert result.same == result.decisions == len(recorded.asked)
    assert set(result.tally.changed.values()) == {0}
    assert result.tally.reasons == 0


def candidates(bundle: Bundle) -> Iterator[tuple[str, Bundle]]:
    for rule in bundle.rules:
        yield f"without {rule.id}", replace(bundle, rules=tuple(r for r in bundle.rules if r is not rule))
        wide = tuple(replace(r, who="*") if r is rule else r for r in bundle.rules)
        yield f"{rule.id} for everybody", replace(bundle, rules=wide)


async def test_a_replay_says_exactly_which_decisions_would_have_changed(recorded: Recorded, bundle: Bundle) -> None:
    seen: Counter[Direction] = Counter()
    past = recorded.found()
    for name, candidate in candidates(bundle):
        engine = Engine(candidate)
        expected: Counter[Direction] = Counter()
        for request, before in recorded.asked.values():
            after = engine.decide(request)
            if after.allowed != before.allowed:
                expected[Direction.GRANTED if after.allowed else Direction.TAKEN] += 1
            elif {d.name for d in after.obligations} != {d.name for d in before.obligations}:
                expected[Direction.DUTIES] += 1
        found = compare(iter(past), engine)
        assert Counter({k: n for k, n in found.tally.changed.items() if n}) == expected, name
        seen += expected
        for direction, count in expected.items():
            rules, tools = found.tally.top(direction, "rule"), found.tally.top(direction, "tool")
            rule = name.split()[0 if name.endswith("everybody") else 1]
            lists = all("." not in tool for tool, _ in tools)  # no rule speaks of a list: it is of what each rule lets be called
            assert any(text.startswith(f"{rule} ") for text, _ in rules) or (rule == "PRO-7" and lists), name
            for kind in ("subject", "tool"):
                assert sum(group.count for _, group in found.tally.top(direction, kind)) == count
    assert all(seen[direction] >= 20 for direction in Direction)


def test_the_groups_stay_few_whoever_called() -> None:
    few = Tally(most=3, examples=2)
    before, after = Verdict("allow", "allowed", "a"), Verdict("deny", "user-lacks-right", "b")
    for number in range(100):
        few.add(before, after, record=f"r-{number}", subject=f"s-{number}", tool="erp.read")
    groups = dict(few.top(Direction.TAKEN, "subject"))
    assert len(groups) == 4
    assert groups[few.OTHERS].count == 97
    assert all(len(group.examples) <= 2 for group in groups.values())
    assert few.top(Direction.TAKEN, "rule")[0][0] == "(user-lacks-right)"


async def test_the_comment_for_a_review_puts_new_permissions_first_and_takes_no_markup_from_names(
    recorded: Recorded, bundle: Bundle
) -> None:
    kept = [rule for rule in bundle.rules if rule.id not in {"SEC-1", "PRO-3"}]
    wide = tuple(replace(rule, who="*") if rule.id in {"PRO-2", "AGT-9"} else rule for rule in kept)
    found = compare(iter(recorded.found()), Engine(replace(bundle, rules=wide)))
    text = as_markdown(found, lambda name: f"{name}`|<img>\n#")
    assert found.tally.changed[Direction.GRANTED]
    assert found.tally.changed[Direction.TAKEN]
    assert text.index("would now be ALLOWED") < text.index("would now be DENIED")
    assert "\n#`" not in text
    assert "`|<img>" not in text


def test_a_bench_of_few_calls_meets_its_own_laws(tmp_path: Path, bundle: Bundle) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    asyncio.run(bench.fill(url, bundle, 60))
    report = bench.measure(url)
    assert (report["decisions"], report["changed"], report["undecidable"]) == (60, 0, {})


def test_a_match_of_a_record_is_written_as_the_engine_writes_it() -> None:
    assert Match("PRO-2", "allow", Source("grants/people.csv", 7)).text == "PRO-2 grants/people.csv:7"
