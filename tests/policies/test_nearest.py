"""Every suggested change really allows the call, opens what it says, and never lifts a guardrail in silence."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from policies.bundle import Bundle, load, load_texts
from policies.cells import Resources, names_of
from policies.engine import Engine
from policies.model import AccessRequest, Reason
from policies.nearest import Remedy, nearest

from .conftest import FILES

AT = 1_788_955_200_000_000
PROCUREMENT = Path(__file__).resolve().parents[2] / "examples" / "procurement" / "policies"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load(PROCUREMENT)


def asked(group: str, via: str, resource: str, **arguments: object) -> AccessRequest:
    actors = tuple(f"agent:{name}" for name in via.split(",") if name)
    action = "send" if resource.startswith("a2a:") else "call"
    return AccessRequest("user:dev/x", actors, "acme", action, resource, AT, frozenset({group}), arguments)


def questions() -> Iterator[AccessRequest]:
    chains = ("", "campaign-reporter", "campaign-reporter,procurement-analyst,erp-integration")
    resources = ("erp.write_po", "sandbox.run_python", "a2a:erp-integration")
    for group, via, resource in itertools.product(("marketing-managers", "procurement-managers"), chains, resources):
        for supplier, amount in (("S-13", 500), ("S-77", 300_000)):
            if supplier == "S-77" and resource != "erp.write_po":
                continue
            yield asked(group, via, resource, supplier=supplier, amount=amount, currency="EUR", network=True, memory_mb=64)


def edited(bundle: Bundle, remedy: Remedy) -> Bundle:
    texts = dict(bundle.texts)
    for edit in remedy.edits:
        texts = edit.apply(texts)
    return load_texts(texts)


def test_every_suggestion_was_denied_and_is_allowed_under_the_changed_bundle(bundle: Bundle) -> None:
    seen = Counter[str]()
    for request in questions():
        before = Engine(bundle).decide(request)
        found = nearest(bundle, request)
        assert bool(found) == (not before.allowed), request
        for remedy in found:
            after = Engine(edited(bundle, remedy)).decide(request)
            if remedy.arguments:
                assert not remedy.edits
                continue
            assert after.allowed == remedy.enough
            answers = {a.question.principal: a.allowed for a in after.answers}
            assert any(answers[who] for who in remedy.principals)
            seen["enough" if remedy.enough else "part"] += 1
        seen["denied"] += not before.allowed
        assert before.allowed or any(remedy.enough for remedy in found), request
    assert min(seen["enough"], seen["part"]) > 5, seen


def test_a_change_of_arguments_is_enough_and_stays_near_what_was_asked(bundle: Bundle) -> None:
    request = asked("procurement-managers", "procurement-analyst,erp-integration", "erp.write_po",
                    supplier="S-77", amount=Decimal("300000.50"), currency="USD")  # fmt: skip
    first = nearest(bundle, request)[0]
    assert first.arguments == {"amount": ("300000.50", "250000"), "currency": ('"USD"', '"EUR"')}
    assert (first.opens, first.edits, first.guardrail) == (0, (), False)
    changed = replace(request, arguments={"supplier": "S-77", "amount": 250_000, "currency": "EUR"})
    assert Engine(bundle).decide(changed).allowed


def test_a_deny_line_is_never_taken_out_without_saying_that_it_is_a_guardrail_and_comes_last(bundle: Bundle) -> None:
    lifted = 0
    for request in questions():
        found = nearest(bundle, request)
        for remedy in found:
            removes = [edit for edit in remedy.edits if edit.remove is not None]
            assert bool(removes) == remedy.guardrail
            assert not remedy.guardrail or remedy.rules == ("SEC-1",)
            lifted += remedy.guardrail
        order = [remedy.guardrail for remedy in found]
        assert order == sorted(order)
    assert lifted > 2


def test_an_agent_that_only_passes_the_call_on_gets_a_relay_line_and_no_more(bundle: Bundle) -> None:
    request = asked(
        "procurement-managers", "supplier-risk,erp-integration", "erp.write_po", supplier="S-7", amount=5, currency="EUR"
    )
    first = nearest(bundle, request)[0]
    assert [edit.add for edit in first.edits] == ["p, agent:supplier-risk, acme, erp.write_po, relay, allow, -, -, NEW-1"]
    assert first.enough
    assert first.opens == 0


def pairs(engine: Engine, others: list[str], resources: list[str]) -> set[tuple[str, str]]:
    """Everything that a name may do for itself, decided one by one; no arguments but the ones of an ordinary order."""
    found = set()
    for who, resource in itertools.product(others, resources):
        if not who.startswith(("user:", "idp:")):
            continue
        request = asked(who[4:] if who.startswith("idp:") else "none", "", resource, supplier="S-7", amount=5, currency="EUR")
        if who.startswith("user:"):
            request = replace(request, subject=who)
        if engine.decide(request).allowed:
            found.add((who, resource))
    return found


def test_what_else_a_change_opens_is_counted_as_deciding_one_by_one_counts_it() -> None:
    texts = FILES | {
        "roles.csv": FILES["roles.csv"] + "g, user:dev/ann, role:buyer, acme\ng, idp:boss, role:boss, acme\n",
        "grants/people.csv": "p, role:buyer, acme, erp.*, call, allow, -, -, A\n"
        "p, role:boss, acme, mail.send, call, allow, -, -, B\n"
        "p, role:boss, acme, erp.read, call, allow, -, -, C\n",
    }
    bundle = load_texts(texts)
    request = replace(asked("none", "", "erp.read"), subject="user:dev/new")
    found = nearest(bundle, request)
    assert [remedy.opens for remedy in found] == [0, 1, 1]
    for remedy in found:
        changed = edited(bundle, remedy)
        others, resources = names_of(bundle, changed), [r for r in Resources(bundle, changed) if r in bundle.tools]
        opened = pairs(Engine(changed), others, resources) - pairs(Engine(bundle), others, resources)
        assert len(opened - {("user:dev/new", "erp.read")}) == remedy.opens


def test_nothing_is_suggested_for_what_is_not_registered_for_lists_and_for_what_is_allowed(bundle: Bundle) -> None:
    assert Engine(bundle).decide(asked("none", "", "no.tool")).reason is Reason.UNKNOWN_RESOURCE
    assert nearest(bundle, asked("none", "", "no.tool")) == ()
    assert nearest(bundle, replace(asked("none", "", "erp"), action="list")) == ()
    assert nearest(bundle, asked("procurement-managers", "", "erp.read")) == ()


def test_arguments_beyond_counting_and_of_any_kind_are_survived(bundle: Bundle) -> None:
    for amount in (Decimal("1e999999999"), Decimal("NaN"), 10**400, "x", None, [], {"a": 1}, True):
        assert nearest(bundle, asked("procurement-managers", "", "erp.write_po", amount=amount, currency="EUR", supplier="S-7"))


def test_a_name_that_cannot_stand_in_a_line_gets_no_line(bundle: Bundle) -> None:
    request = replace(asked("none", "", "erp.read"), subject="user:dev/a,b")
    assert all("a,b" not in edit.add for remedy in nearest(bundle, request) for edit in remedy.edits)


def test_what_is_not_counted_is_said_to_be_unknown_and_not_to_be_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.nearest.MAX_COUNTED", 5)
    found = nearest(bundle, asked("marketing-managers", "", "erp.read"))
    assert found
    assert {remedy.opens for remedy in found} == {None}
