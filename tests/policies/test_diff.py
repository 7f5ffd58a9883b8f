"""What a comparison reports covers every verdict that turns, in random pairs of bundles; and every example really turns it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as ask_with

from bench import differential_policy as campaign
from policies import cells as cells_module
from policies import diff as diff_module
from policies import terms as terms_module
from policies.bundle import Bundle, Condition, Rule, load_texts
from policies.cells import Cells, Resources
from policies.diff import Change, Diff, Kind, TooLargeError, diff
from policies.engine import Engine
from policies.expression import parse
from policies.index import IndexedEnforcer
from policies.model import AccessRequest, Decision, Role, Source

from .conftest import FILES

PAIRS = 120

TEXTS = (
    "args.n <= 10",
    "args.n <= 40",
    "args.n < 10 and args.flag == True",
    "args.n != 10",
    'args.tag in ["x", "y"] or args.n == 1',
    'not (args.tag == "z")',
    "has(args.flag) and args.flag",
    'like(args.tag, "x*")',
    'like(args.tag, "*")',
    "lower(args.tag) == args.tag",
    'user.id == "user:dev/ada"',
    '"red" in user.groups and args.n < 60',
)


def varied(rng: random.Random, bundle: Bundle) -> Bundle:
    """Nearly the same bundle: a few things are different."""
    rules, roles = list(bundle.rules), list(bundle.roles)
    changes: dict[str, Any] = {}
    for _ in range(rng.randrange(1, 4)):
        what = rng.choice(
            ["out", "in", "in", "effect", "when", "role-out", "role-in", "condition", "condition", "tool", "set", "who"]
        )
        at = rng.randrange(len(rules)) if rules else 0
        if what == "out" and rules:
            rules.pop(at)
        elif what == "in":
            made = campaign.with_rules([campaign._line(rng) | {"id": f"NEW-{len(rules)}-{rng.random()}"}], []).rules[0]
            rules.insert(at, made)
        elif what == "effect" and rules:
            effect = rng.choice(["allow", "deny", "require"])
            rules[at] = replace(rules[at], effect=effect, must="audit" if effect == "require" else None)
        elif what == "when" and rules:
            rules[at] = replace(rules[at], when=rng.choice([None, "small", "open", "marked"]))
        elif what == "who" and rules:
            rules[at] = replace(rules[at], who=campaign._line(rng)["who"])
        elif what == "role-out" and roles:
            roles.pop(rng.randrange(len(roles)))
        elif what == "role-in":
            roles += campaign.with_rules([], [campaign._membership(rng)]).roles
        elif what == "condition":
            name, text = rng.choice(["small", "open", "marked"]), rng.choice(TEXTS)
            known = dict(changes.get("conditions", bundle.conditions))
            known[name] = Condition(name, text, parse(text), Source("conditions.yaml", 1))
            changes["conditions"] = known
        elif what == "tool":
            tools = dict(changes.get("tools", bundle.tools))
            name = rng.choice(sorted(tools))
            if rng.random() < 0.4:
                del tools[name]
            else:
                spec = tools[name]
                tools[name] = replace(
                    spec, args=rng.choice([spec.args, dict(spec.args) | {"n": "integer"}]), tenants=frozenset({"north"})
                )
            changes["tools"] = tools
        elif what == "set":
            changes["sets"] = {"set:reading": tuple(rng.sample(campaign.TOOLS, rng.randrange(3)))}
    return replace(bundle, rules=tuple(rules), roles=tuple(roles), **changes)


def pairs(count: int, seed: int = 20261122) -> Iterator[tuple[random.Random, Bundle, Bundle, list[AccessRequest]]]:
    rng = random.Random(seed)
    for _ in range(count):
        first, asked = campaign.scenario(rng)
        second = varied(rng, first)
        if rng.random() < 0.5:
            first, second = second, first
        yield rng, first, second, [*asked, *(ask_with(r, arguments=campaign.arguments(rng)) for r in asked)]


def base_of(request: AccessRequest, principal: str, role: Role) -> set[str]:
    return {"*", principal} | ({f"idp:{group}" for group in request.groups} if role is Role.SUBJECT else set())


def covering(changes: tuple[Change, ...], label: str, request: AccessRequest, old: Decision, new: Decision) -> list[Change]:
    """The changes that speak of one of the questions whose answer is another one, or could not be asked before."""
    found = []
    for decision in (old, new):
        for answer in decision.answers:
            question = answer.question
            who = base_of(request, question.principal, question.role)
            found += [
                change
                for change in changes
                if change.tenant == request.tenant
                and who & set(change.who)
                and label in change.tools
                and question.action in change.actions
            ]
    return found


def uncovered(found: Diff, old: Engine, new: Engine, asked: list[AccessRequest], seen: Counter[str]) -> list[str]:
    wrong = []
    resources = Resources(old.bundle, new.bundle)
    for request in asked:
        label = resources.label(request.resource)
        then, now = old.decide(request), new.decide(request)
        seen["asked"] += 1
        if then.allowed == now.allowed:
            if then.allowed and {(d.name, str(d.params)) for d in then.obligations} != {
                (d.name, str(d.params)) for d in now.obligations
            }:
                seen["other duties"] += 1
                if not covering(found.duties, label, request, then, now):
                    wrong.append(f"duties: {request}")
            continue
        seen["opened" if now.allowed else "closed"] += 1
        changes = found.granting if now.allowed else found.taking
        if not covering(changes, label, request, then, now):
            wrong.append(f"{'gain' if now.allowed else 'loss'}: {request}")
    return wrong


def campaign_of(count: int, seed: int = 20261122) -> tuple[list[str], Counter[str]]:
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    for _, first, second, asked in pairs(count, seed):
        found = diff(first, second)
        seen.update(change.kind.value for change in found.changes)
        seen["pairs"] += 1
        wrong += uncovered(found, Engine(first), Engine(second), asked, seen)
    return wrong, seen


@pytest.fixture(scope="module")
def result() -> tuple[list[str], Counter[str]]:
    return campaign_of(PAIRS)


def test_every_verdict_that_turns_in_random_pairs_is_covered_by_a_gain_or_a_loss(result: tuple[list[str], Counter[str]]) -> None:
    assert result[0] == []


def test_the_random_pairs_turn_verdicts_both_ways_and_show_every_kind_of_change(result: tuple[list[str], Counter[str]]) -> None:
    seen = result[1]
    assert min(seen["opened"], seen["closed"]) > PAIRS // 4, seen
    assert seen["other duties"] > 4, seen
    assert all(seen[kind.value] > 2 for kind in Kind), seen


def test_a_bundle_against_itself_differs_in_nothing() -> None:
    for _, first, second, _asked in pairs(40, seed=7):
        for bundle in (first, second):
            found = diff(bundle, bundle)
            assert found.empty
            assert not found.grants


def test_lines_that_move_or_are_renamed_are_no_change() -> None:
    for rng, first, _second, _asked in pairs(30, seed=8):
        rules = [replace(r, id=f"X-{at}", source=Source("grants/y.csv", at + 5)) for at, r in enumerate(first.rules)]
        rng.shuffle(rules)
        found = diff(first, replace(first, rules=tuple(rules), roles=first.roles[::-1]))
        assert found.changes == ()
        assert found.same == len({Cells(first).content(rule) for rule in first.rules})


def test_the_other_way_round_gains_are_losses() -> None:
    for _, first, second, _asked in pairs(40, seed=9):
        there, back = diff(first, second), diff(second, first)

        def cells(changes: tuple[Change, ...]) -> set[tuple[str, str, str, str]]:
            return {(c.tenant, w, t, a) for c in changes for w in c.who for t in c.tools for a in c.actions}

        assert cells(there.granting) == cells(back.taking)
        assert cells(there.duties) == cells(back.duties)


def test_an_example_that_opens_or_closes_was_denied_under_the_one_and_is_allowed_under_the_other() -> None:
    tried = Counter[str]()
    for _, first, second, _asked in pairs(120, seed=10):
        old, new = Engine(first), Engine(second)
        for change in diff(first, second).changes:
            for case, wanted in ((change.opens, (False, True)), (change.closes, (True, False))):
                who = next(iter(change.felt_by or change.who))
                if case is None or change.actions == ("relay",) or who.startswith("agent:") or change.felt_by:
                    continue
                action = next(a for a in change.actions if a != "relay")
                subject = who if who.startswith(("user:", "svc:")) else case.subject
                request = AccessRequest(
                    subject=subject,
                    actors=(),
                    tenant=change.tenant,
                    action=action,
                    resource=change.tools[0].replace("*", "server/x" if change.tools[0] == "res:*" else "stranger"),
                    at=case.at,
                    groups=case.groups | ({who[4:]} if who.startswith("idp:") else frozenset()),
                    arguments=case.arguments,
                    context=case.context,
                )
                if "user.id" in str(case) and subject != case.subject:
                    continue
                if case.groups and who != "*":  # a group that the example names may bring lines of its own
                    continue
                assert (old.decide(request).allowed, new.decide(request).allowed) == wanted, (
                    old.decide(request),
                    new.decide(request),
                )
                tried["opens" if wanted[1] else "closes"] += 1
    assert min(tried.values()) > 15, tried


# --- planted mistakes

Patch = pytest.MonkeyPatch


def deny_lines_are_not_compared(patch: Patch) -> None:
    real = diff_module._of
    patch.setattr(diff_module, "_of", lambda lines, effect: () if effect == "deny" else real(lines, effect))


def roles_are_not_followed(patch: Patch) -> None:
    patch.setattr(Cells, "names", lambda _self, who, _tenant: frozenset((who,)))


def sets_are_not_followed(patch: Patch) -> None:
    real = cells_module._sets_of
    patch.setattr(cells_module, "_sets_of", lambda bundle: dict.fromkeys(real(bundle), ()))


def a_changed_role_is_not_noticed(patch: Patch) -> None:
    real = diff_module._Comparison._cells

    def cells(self: Any) -> Iterator[tuple[str, str, str]]:
        changed = {rule.who for _, rule in diff_module._changed(self._old, self._new)}
        return (cell for cell in real(self) if self._old.names(*cell[1::-1]) & changed)

    patch.setattr(diff_module._Comparison, "_cells", cells)


def a_changed_tool_is_not_noticed(patch: Patch) -> None:
    patch.setattr(Cells, "types", lambda *_given: campaign.base().tools["s1.read"].args)
    patch.setattr(Cells, "registered", lambda *_given: True)


def unknown_is_a_no_for_every_line(patch: Patch) -> None:
    real = terms_module.Term.speaks
    patch.setattr(terms_module.Term, "speaks", lambda self, case, _effect: real(self, case, "allow"))


def every_term_is_only_wider(patch: Patch) -> None:
    patch.setattr(diff_module, "_kind", lambda before, *_given: Kind.WIDER if before.conditions else Kind.GAIN)


def nothing_found_is_taken_for_nothing_there(patch: Patch) -> None:
    real = terms_module.cases_of

    def cases(*given: Any) -> Any:
        found = real(*given)
        found.values = {path: values[-1:] for path, values in found.values.items()}
        found.complete = True
        return found

    patch.setattr(terms_module, "cases_of", cases)


def relay_is_not_asked(patch: Patch) -> None:
    real = Resources.actions
    patch.setattr(Resources, "actions", lambda *given: real(*given)[:-1])


def other_agents_are_not_asked(patch: Patch) -> None:
    real = Resources.__iter__
    patch.setattr(Resources, "__iter__", lambda self: (r for r in real(self) if not r.startswith("a2a:")))


def groups_are_not_asked(patch: Patch) -> None:
    real = diff_module.names_of
    patch.setattr(diff_module, "names_of", lambda *b: [n for n in real(*b) if not n.startswith("idp:")])


def everybody_is_not_asked(patch: Patch) -> None:
    real = diff_module.names_of
    patch.setattr(diff_module, "names_of", lambda *b: [n for n in real(*b) if n != "*"])


def only_the_first_line_counts(patch: Patch) -> None:
    real = IndexedEnforcer.enforce_ex

    def first(self: Any, *asked: Any) -> Any:
        answer = real(self, *asked)
        if isinstance(asked[4], cells_module._Heard):
            del asked[4].hits[1:]
        return answer

    patch.setattr(IndexedEnforcer, "enforce_ex", first)


def the_same_name_is_the_same_condition(patch: Patch) -> None:
    def content(self: Cells, rule: Rule) -> tuple[object, ...]:
        return (rule.who, rule.tenant, rule.tool, rule.action, rule.effect, rule.when, rule.must)

    patch.setattr(Cells, "content", content)


def duties_are_not_compared(patch: Patch) -> None:
    patch.setattr(diff_module._Comparison, "_duties", lambda *_given: iter(()))


PLANTED = (
    deny_lines_are_not_compared,
    roles_are_not_followed,
    sets_are_not_followed,
    a_changed_role_is_not_noticed,
    a_changed_tool_is_not_noticed,
    unknown_is_a_no_for_every_line,
    every_term_is_only_wider,
    nothing_found_is_taken_for_nothing_there,
    relay_is_not_asked,
    other_agents_are_not_asked,
    groups_are_not_asked,
    everybody_is_not_asked,
    only_the_first_line_counts,
    the_same_name_is_the_same_condition,
    duties_are_not_compared,
)


@pytest.mark.parametrize("mistake", PLANTED, ids=lambda mistake: mistake.__name__)
def test_a_planted_mistake_is_found_by_the_random_pairs(mistake: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mistake(monkeypatch)
    for seed in range(1, 40):
        if campaign_of(15, seed)[0]:
            return
    pytest.fail("nobody noticed")


# --- one thing at a time


def made(**changes: str) -> Bundle:
    """The small bundle, some of its files changed; `grants_people` stands for grants/people.csv."""
    names = {"grants_people": "grants/people.csv", "grants_guardrails": "grants/guardrails.csv"}
    named = {names.get(key, key + (".csv" if key == "roles" else ".yaml")): text for key, text in changes.items()}
    return load_texts(FILES | named)


FLOW = """\
workflow: leaks
taint: [{after: source:books, deny: sink:mail, unless: small, id: books}]
once: [{tool: erp.write_po}]
"""
LABELS = "labels: {'res:books/*': [source:books], 'a2a:*': [sink:mail]}\n"


def flowing(text: str = FLOW, labels: str = LABELS, **more: str) -> Bundle:
    return load_texts(FILES | {"tools.yaml": FILES["tools.yaml"] + labels, "workflows/leaks.yaml": text} | more)


@pytest.mark.parametrize(
    ("text", "labels", "workflows", "labelled", "grants"),
    [
        (FLOW, LABELS, ((), (), ()), ((), (), ()), False),
        ("# a comment\n" + FLOW, LABELS, ((), (), ()), ((), (), ()), False),
        (FLOW + "within: [{tool: erp.write_po, time: 1h}]\n", LABELS, (("leaks/within-1",), (), ()), ((), (), ()), False),
        (FLOW.replace(", unless: small", ""), LABELS, ((), (), ("leaks/books",)), ((), (), ()), True),
        (FLOW.replace("once", "mode: shadow\nonce"), LABELS, ((), (), ("leaks",)), ((), (), ()), True),
        (FLOW.split("once", 1)[0], LABELS, ((), ("leaks/once-1",), ("leaks",)), ((), (), ()), True),
        (FLOW, LABELS.replace("books]", "books, source:x]"), ((), (), ()), (("res:books/*: source:x",), (), ()), False),
        (FLOW, LABELS.replace("[sink:mail]", "[]"), ((), (), ("leaks", "leaks/books")), ((), ("a2a:*: sink:mail",), ()), True),
    ],
)  # fmt: skip
def test_what_became_of_rules_of_workflows_and_of_labels_is_told(
    text: str, labels: str, workflows: tuple[tuple[str, ...], ...], labelled: tuple[tuple[str, ...], ...], grants: bool
) -> None:
    found = diff(flowing(), flowing(text, labels))
    assert (found.workflows.added, found.workflows.removed, found.workflows.changed) == workflows
    assert (found.labels.added, found.labels.removed, found.labels.changed) == labelled
    assert (found.grants, found.loosened) == (grants, grants)


def test_an_exemption_that_says_more_is_a_change_of_its_rule() -> None:
    wider = flowing(**{"conditions.yaml": "small: {if: args.amount <= 250, say: orders}\n"})
    assert diff(flowing(), wider).workflows.changed == ("leaks/books",)


def test_a_wider_limit_is_wider_with_the_first_amount_that_passes() -> None:
    (change,) = diff(made(), made(conditions="small: {if: args.amount <= 250, say: orders}\n")).changes
    assert (change.kind, change.who, change.tools, change.actions) == (
        Kind.WIDER, ("idp:buyers",), ("erp.write_po",), ("call", "relay"),
    )  # fmt: skip
    assert str(change.newly) == "args.amount = 101"
    assert change.no_longer is None
    assert change.opens is not None
    assert change.proof.value == "every case was tried"


def test_a_lifted_guardrail_is_a_gain_felt_by_those_who_have_the_right() -> None:
    guard = "p, *, acme, erp.write_po, call, deny, -, -, SEC-9\n"
    (change,) = diff(made(grants_guardrails=guard), made(grants_guardrails="")).changes
    assert (change.kind, change.effect, change.who, change.felt_by) == (Kind.GAIN, "deny", ("*",), ("idp:buyers",))
    assert diff(made(grants_guardrails=guard), made(grants_guardrails="")).grants
    assert not diff(made(grants_guardrails=""), made(grants_guardrails=guard)).grants


def test_a_line_under_a_guardrail_that_never_yields_is_a_gain_that_opens_nothing_today() -> None:
    guard = "p, *, acme, erp.read, *, deny, -, -, SEC-9\n"
    line = FILES["grants/people.csv"] + "p, role:buyer, acme, erp.read, call, allow, -, -, BUY-2\n"
    (change,) = diff(made(grants_guardrails=guard), made(grants_guardrails=guard, grants_people=line)).changes
    assert (change.kind, change.opens) == (Kind.GAIN, None)


def test_a_new_member_gains_everything_of_the_role_in_one_line() -> None:
    found = diff(made(), made(roles=FILES["roles.csv"] + "g, idp:interns, role:buyer, acme\n"))
    (change,) = found.changes
    assert (change.kind, change.who) == (Kind.GAIN, ("idp:interns",))
    assert found.roles.added == ("idp:interns → role:buyer (acme)",)
    assert diff(made(), made(roles=FILES["roles.csv"] + "g, idp:interns, role:buyer, acme\n"), tenant="other").changes == ()


def test_a_duty_that_goes_and_one_whose_meaning_changes_are_told_and_grant_nothing() -> None:
    gone = diff(made(), made(grants_guardrails=""))
    assert [(c.kind, c.duty, c.who) for c in gone.changes] == [(Kind.DUTY_REMOVED, "full-audit", ("*",))]
    other = diff(made(), made(obligations="full-audit: {type: audit, arguments: hash}\n"))
    assert [(c.kind, c.duty) for c in other.changes] == [(Kind.DUTY_CHANGED, "full-audit")]
    assert not gone.grants
    assert not other.grants


def test_a_matcher_that_knows_somebody_by_name_cannot_be_compared_and_counts_as_a_gain() -> None:
    model = FILES["model.conf"].replace('p.sub == "*" ||', 'p.sub == "*" || r.sub == "user:dev/eve" ||')
    assert model != FILES["model.conf"]
    found = diff(load_texts(FILES | {"model.conf": model}), load_texts(FILES))
    assert found.incomparable
    assert found.grants


def test_what_is_too_large_to_compare_is_said_and_not_cut(monkeypatch: Patch) -> None:
    monkeypatch.setattr(diff_module, "MAX_CELLS", 0)
    with pytest.raises(TooLargeError):
        diff(made(), made(grants_people="p, role:buyer, acme, erp.*, call, allow, -, -, BUY-1\n"))


def test_tests_sets_tools_and_watched_lines_are_listed() -> None:
    more = FILES | {"tests/a.yaml": "tests: []\n", "shadow/next.csv": "p, role:buyer, acme, erp.read, call, allow, -, -, S-1\n"}
    more["tools.yaml"] = FILES["tools.yaml"].replace("[erp.read]", "[erp.read, mail.send]").replace("risk: low", "risk: high")
    found = diff(load_texts(FILES), load_texts(more))
    assert found.tests.added == ("tests/a.yaml",)
    assert found.shadow.added == ("S-1",)
    assert found.tools.changed == ("erp.read",)
    assert found.sets.changed == ("set:reading",)
    assert found.changes == ()
    assert not found.empty


def test_a_risk_that_a_condition_reads_is_a_change_of_terms_and_one_that_none_reads_is_not() -> None:
    texts = {"conditions": 'small: {if: tool.risk == "low" or args.amount <= 100, say: orders}\n'}
    calmer = FILES["tools.yaml"].replace("labels: [writes:finance], risk: high", "labels: [writes:finance], risk: low")
    found = diff(made(**texts), made(**texts, tools=calmer))
    (change,) = found.changes
    assert change.kind in (Kind.WIDER, Kind.CHANGED)
    assert change.newly is not None
    assert change.opens is not None
    assert diff(made(), made(tools=calmer)).changes == ()


def test_the_hour_of_a_zone_is_compared_by_really_asking() -> None:
    text = "small: {if: 'hour(\"Europe/Berlin\") < 9', say: orders}\n"
    then, now = text, text.replace("9", "12")
    found = diff(made(conditions=then), made(conditions=now))
    assert [change.kind in (Kind.WIDER, Kind.CHANGED) for change in found.changes] == [True]
    assert found.changes[0].newly is not None
