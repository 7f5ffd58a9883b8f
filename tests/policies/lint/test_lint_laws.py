"""A line that lint calls dead is dead: taken out, the engine answers every question as before."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from policies import bundle as bundle_module
from policies.bundle import load_texts
from policies.engine import Engine
from policies.lint import Facts, Ground, lint
from policies.model import AccessRequest, Decision

MODEL = (Path(bundle_module.__file__).parent / "default/model.conf").read_text()
TEXTS = {
    "model.conf": MODEL,
    "roles.csv": "g, idp:a, role:a, acme\ng, role:a, role:b, acme\ng, agent:x, agents:xs, acme\ng, idp:a, role:c, other\n",
    "tools.yaml": """\
tenants: [acme, other]
tools:
  s.read: {args: {n: number, s: string}}
  s.write: {args: {n: number, s: string}}
  t.read: {args: {n: number, s: string}, tenants: [acme]}
sets:
  "set:reads": [s.read, t.read]
""",
    "conditions.yaml": """\
small: {if: args.n < 10, say: s}
smaller: {if: args.n < 5, say: s}
known: {if: args.n < 10 or args.n >= 10, say: s}
named: {if: 'args.s == "a"', say: s}
either: {if: 'args.s in ["a", "b"]', say: s}
""",
    "obligations.yaml": "d1: {type: audit}\nd2: {type: audit}\n",
}
WHO = {
    "acme": ("*", "idp:a", "role:a", "role:b", "agent:x", "agents:xs"),
    "other": ("*", "idp:a", "role:c"),
    "*": ("*", "idp:a", "idp:a", "role:a", "role:c", "agent:x"),
}
TOOLS = ("s.read", "s.write", "t.read", "s.*", "set:reads", "a2a:*", "a2a:y")
CONDITIONS = ("-", "-", "small", "smaller", "known", "named", "either")


def policy(random: random.Random) -> list[str]:
    lines = []
    for number in range(random.randint(4, 12)):
        tenant = random.choice(("acme", "acme", "other", "*"))
        tool = random.choice([t for t in TOOLS if tenant != "other" or t != "t.read"])
        agent = tool.startswith("a2a:")
        effect = random.choice(("allow", "allow", "allow", "deny", "require"))
        when = "-" if agent else random.choice(CONDITIONS)
        action = random.choice(("send" if agent else "call", "send" if agent else "call", "relay", "*"))
        must = random.choice(("d1", "d2")) if effect == "require" else "-"
        lines.append(f"p, {random.choice(WHO[tenant])}, {tenant}, {tool}, {action}, {effect}, {when}, {must}, R-{number}")
    return lines


def questions(random: random.Random) -> list[AccessRequest]:
    found = []
    for tool in ("s.read", "s.write", "t.read", "a2a:y"):
        for tenant in ("acme", "other"):
            for actors in ((), ("agent:x",), ("agent:x", "agent:z")):
                arguments = random.choice(({}, {"n": 3}, {"n": 7, "s": "a"}, {"n": 30, "s": "b"}, {"n": "3", "s": "c"}, None))
                action, groups = "send" if tool.startswith("a2a:") else "call", frozenset(random.choice((("a",), ("z",))))
                found.append(AccessRequest("user:i/u", actors, tenant, action, tool, at=0, groups=groups, arguments=arguments))
    return found


def answer(decision: Decision, code: str) -> tuple[object, ...]:
    """A line that is denied all the same may still show a tool in a list: that it lets nothing through is all that is claimed."""
    return decision.allowed, code == "denied-allow" or decision.visible, frozenset(duty.name for duty in decision.obligations)


DEAD = ("shadowed-line", "denied-allow", "empty-role", "never-asked")


def tried(seed: int, rounds: int) -> tuple[Counter[str], list[object]]:
    """Take out every line that is called dead, one at a time: how many there were, and the questions answered otherwise then."""
    chance = random.Random(seed)
    count: Counter[str] = Counter()
    wrong: list[object] = []
    for _round in range(rounds):
        lines = policy(chance)
        whole = load_texts(TEXTS | {"grants/g.csv": "\n".join(lines) + "\n"})
        before = Engine(whole)
        wanted = questions(chance)
        for complaint in lint(whole, Facts()).complaints:
            code, line = complaint.finding.code, complaint.finding.line
            if code not in DEAD:
                continue
            less = "\n".join(text for number, text in enumerate(lines, 1) if number != line) + "\n"
            after = Engine(load_texts(TEXTS | {"grants/g.csv": less}))
            for request in wanted:
                first = before.decide(request)
                count.update([code, "asked", "allowed" if first.allowed else "denied"])
                if answer(first, code) != answer(after.decide(request), code):
                    wrong.append((lines, line, request))
    return count, wrong


@pytest.mark.parametrize("seed", range(3))
def test_a_line_that_is_called_dead_changes_no_answer(seed: int) -> None:
    count, wrong = tried(seed, 30)
    assert wrong == []
    assert count["shadowed-line"] > 200
    assert min(count["denied-allow"], count["never-asked"]) > 40
    assert count["asked"] // 50 < count["allowed"] < count["asked"]


def _any_condition(_self: Ground, _first: str | None, _second: str | None) -> bool:
    return True


def _any_tool(_self: Ground, tool: str) -> tuple[str, ...]:
    return (tool, *TOOLS)


def _any_role(_self: Ground, who: str, _tenant: str) -> frozenset[str]:
    return frozenset({who, "role:b", "agents:xs"})


def _any_tenant(self: Ground, who: str, tenant: str) -> frozenset[str]:
    return frozenset().union(*(self.closure.of(who, each) for each in self.bundle.tenants))


@pytest.mark.parametrize(
    ("name", "bug"),
    [("implies", _any_condition), ("wider_tools", _any_tool), ("above", _any_role), ("above", _any_tenant)],
)
def test_the_law_catches_a_planted_bug(monkeypatch: pytest.MonkeyPatch, name: str, bug: object) -> None:
    monkeypatch.setattr(Ground, name, bug)
    assert any(tried(seed, 15)[1] for seed in range(6))


def test_a_large_bundle_is_read_through_in_bounded_time() -> None:
    lines = [f"p, role:a, acme, s.read, call, {'allow' if n % 2 else 'deny'}, named, -, R-{n}" for n in range(20_000)]
    result = lint(load_texts(TEXTS | {"grants/g.csv": "\n".join(lines) + "\n"}))
    assert result.untold > 0
    assert len(result.complaints) < 1000
