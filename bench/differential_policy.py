"""The engine against stock Casbin and against a naive reading of the same rules, on random policies.

    python bench/differential_policy.py --count 100000 --json

Every check is one principal's question: the answer and the rules that spoke; of each decision also the duties and the reason.
Policies are drawn from a small universe with the asked-for rights planted, so that allows and denials are about as frequent.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import casbin
from msgspec.structs import replace as varied

from policies import engine as engine_module
from policies.bundle import Bundle, Membership, Rule, load
from policies.engine import Engine
from policies.model import AccessRequest, Decision, Reason, Role, Source, questions

USERS = ("user:dev/ada", "user:dev/bob", "svc:nightly")
AGENTS = ("agent:one", "agent:two", "agent:three")
GROUPS = ("red", "blue")
ROLES = ("role:buyer", "role:boss")
CREWS = ("agents:crew", "agents:fleet")
TENANTS = ("north", "south")
TOOLS = ("s1.read", "s1.write", "s2.read")
PEERS = ("a2a:one", "a2a:two")
CONDITIONS = ("-", "small", "open", "marked")
DUTIES = ("audit", "redact")
AT = 1_788_955_200_000_000

FILES = {
    "roles.csv": "",
    "tools.yaml": """\
tenants: [north, south]
tools:
  s1.read: {args: {n: number, flag: boolean, tag: string}}
  s1.write: {args: {n: number, flag: boolean, tag: string}}
  s2.read: {args: {n: number, flag: boolean, tag: string}, tenants: [north]}
sets:
  "set:reading": [s1.read, s2.read]
""",
    "conditions.yaml": """\
small: {if: args.n <= 10, say: small numbers}
open: {if: args.flag == True, say: with the flag}
marked: {if: 'args.tag in ["x", "y"]', say: marked}
""",
    "obligations.yaml": "audit: {type: audit}\nredact: {type: redact-result, fields: [a]}\n",
}
UNDERSTOOD = "shipped"
MATCHERS = {
    UNDERSTOOD: None,
    "no-star": (' && (p.sub == "*" || g(r.sub, p.sub, r.dom))', " && g(r.sub, p.sub, r.dom)"),
    "names-only": ('(p.sub == "*" || g(r.sub, p.sub, r.dom))', '(p.sub == "*" || r.sub == p.sub)'),
    "exact-tools": ("(r.obj == p.obj || keyMatch(r.obj, p.obj) || g2(r.obj, p.obj))", "r.obj == p.obj"),
    "mixed-fields": ('(p.sub == "*" || g(r.sub, p.sub, r.dom))', '(p.sub == "*" || (g(r.sub, p.sub, r.dom) && r.obj == p.obj))'),
}
"""Models: the shipped one and others.  The last cannot be indexed, and takes the stock path."""


@cache
def base() -> Bundle:
    """The universe's bundle, without rules."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "grants").mkdir()
        for name, text in FILES.items():
            (root / name).write_text(text)
        shipped = Path(engine_module.__file__).with_name("default") / "model.conf"
        (root / "model.conf").write_text(shipped.read_text())
        return load(root)


def model_of(matcher: str) -> str:
    """The model's text with one of MATCHERS."""
    change = MATCHERS[matcher]
    text = base().model
    if change is not None:
        assert change[0] in text
        text = text.replace(*change)
    return text


# --- random policies and questions


def scenario(rng: random.Random, matcher: str = UNDERSTOOD, varied: int = 1) -> tuple[Bundle, list[AccessRequest]]:
    """A policy with planted rights, and questions about it: four for which rights are planted, and of each so many variations."""
    roles = [_membership(rng) for _ in range(rng.randrange(1, 7))]
    rules: list[dict[str, str]] = []
    asked = []
    for _ in range(4):
        request = _request(rng)
        asked.append(request)
        if rng.random() < 0.95:
            rules += _planted(rng, request, roles)
    rules += [_line(rng) for _ in range(rng.randrange(0, 6))]
    rng.shuffle(rules)
    return with_rules(rules, roles, matcher), asked + [_varied(rng, request) for _ in range(varied) for request in asked]


def with_rules(rules: list[dict[str, str]], roles: list[tuple[str, str, str]], matcher: str = UNDERSTOOD) -> Bundle:
    """A bundle of lines as {who, tenant, tool, action, effect, when, must} in this order; ids are R-0, R-1 …"""
    made = tuple(
        Rule(
            line.get("id", f"R-{at}"), line["who"], line["tenant"], line["tool"], line["action"], line["effect"],
            None if line["when"] == "-" else line["when"], line["must"] if line["effect"] == "require" else None,
            Source("grants/x.csv", at + 1),
        )
        for at, line in enumerate(rules)
    )  # fmt: skip
    memberships = tuple(Membership(*role, Source("roles.csv", at + 1)) for at, role in enumerate(roles))
    return replace(base(), rules=made, roles=memberships, model=model_of(matcher))


def _membership(rng: random.Random) -> tuple[str, str, str]:
    if rng.random() < 0.2:
        return (*rng.choice([ROLES, CREWS]), rng.choice(TENANTS))
    if rng.random() < 0.5:
        return rng.choice(AGENTS), rng.choice(CREWS), rng.choice(TENANTS)
    return rng.choice([*USERS, *(f"idp:{group}" for group in GROUPS)]), rng.choice(ROLES), rng.choice(TENANTS)


def _request(rng: random.Random) -> AccessRequest:
    peer = rng.random() < 0.35
    return AccessRequest(
        subject=rng.choice(USERS),
        actors=tuple(rng.sample(AGENTS, rng.randrange(0, 4))),
        tenant=rng.choice(TENANTS),
        action="send" if peer else "call",
        resource=rng.choice(PEERS if peer else TOOLS),
        at=AT,
        groups=frozenset(g for g in GROUPS if rng.random() < 0.5),
        arguments=arguments(rng),
    )


def arguments(rng: random.Random) -> dict[str, object]:
    """Arguments that mostly satisfy the conditions, and sometimes are missing or broken."""
    values: dict[str, object] = {
        "n": rng.choice([1, 10, Decimal("9.5"), 50]),
        "flag": rng.random() < 0.8,
        "tag": rng.choice("zzzx"),
    }
    for name in list(values):
        chance = rng.random()
        if chance < 0.05:
            del values[name]
        elif chance < 0.12:
            values[name] = rng.choice([None, "10", Decimal("NaN"), Decimal("Infinity"), 1.5, ["x"], {"n": 1}, 0])
    return values


def _varied(rng: random.Random, request: AccessRequest) -> AccessRequest:
    """Nearly the same question: one thing is different."""
    other = _request(rng)
    field = rng.choice(["subject", "actors", "tenant", "groups", "arguments", "arguments", "order"])
    if field == "order":
        return varied(request, actors=request.actors[::-1])
    return varied(request, **{field: getattr(other, field)})


def _planted(rng: random.Random, request: AccessRequest, roles: list[tuple[str, str, str]]) -> Iterator[dict[str, str]]:
    """A line for each principal of the chain that lets it pass, in one of the ways a line can."""
    for question in questions(request.subject, request.actors, request.action):
        names = [question.principal]
        if question.role is Role.SUBJECT:
            names += [f"idp:{group}" for group in request.groups]
        names += [role for member, role, tenant in roles if member in names and tenant == request.tenant]
        yield _line(
            rng,
            who=rng.choice([*names, "*"] if rng.random() < 0.1 else names),
            tenant=rng.choice([request.tenant, request.tenant, "*"]),
            tool=rng.choice(_patterns(request.resource)),
            action=rng.choice([question.action, question.action, request.action, "*"]),
            effect="allow",
            when=rng.choice(["-", "-", "small", "open"]) if request.action == "call" else "-",
        )


def _patterns(resource: str) -> list[str]:
    wide = "a2a:*" if resource.startswith("a2a:") else resource.split(".", maxsplit=1)[0] + ".*"
    return [resource, wide, *(["set:reading"] if resource.endswith(".read") else [])]


def _line(rng: random.Random, **fixed: str) -> dict[str, str]:
    tool = rng.choice([*TOOLS, *PEERS, "s1.*", "a2a:*", "set:reading", "*"])
    line = {
        "who": rng.choice([*USERS, *AGENTS, *ROLES, *CREWS, "idp:red", "*"]),
        "tenant": rng.choice([*TENANTS, "*"]),
        "tool": tool,
        "action": rng.choice(["call", "send", "relay", "*"]),
        "effect": rng.choices(["allow", "deny", "require"], [4, 3, 3])[0],
        "when": rng.choice(CONDITIONS),
        "must": rng.choice(DUTIES),
    }
    return line | fixed


# --- the two other judges


def holds(condition: str, effect: str, args: Mapping[str, object]) -> bool:
    """Conditions, written out by hand: None is unknown."""
    value: bool | None
    number, flag, tag = args.get("n"), args.get("flag"), args.get("tag")
    if condition == "small":
        exact = (type(number) is int) or (isinstance(number, Decimal) and number.is_finite())
        value = number <= 10 if exact else None  # type: ignore[operator]  # exact says it is a number
    elif condition == "open":
        value = flag if type(flag) is bool else None
    elif condition == "marked":
        value = tag in ("x", "y") if type(tag) is str else None
    else:
        value = True
    return value is True if effect == "allow" else value is not False


def readable(request: AccessRequest) -> Mapping[str, object]:
    """The arguments that conditions may read: a message to an agent has none."""
    return {} if request.resource.startswith("a2a:") or request.arguments is None else request.arguments


class Stock:
    """Casbin as it comes: its own loader's rows, role managers, matcher and effector."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._enforcers: dict[tuple[str, frozenset[str]], Any] = {}
        self._answers: dict[tuple[object, ...], bool] = {}
        self._args: Mapping[str, object] = {}

    def allowed(self, principal: str, groups: frozenset[str], action: str, request: AccessRequest) -> bool:
        """Casbin's answer for one principal; groups are lines of `g`."""
        self._args = readable(request)
        said = tuple([holds(condition, effect, self._args) for condition in CONDITIONS[1:] for effect in ("allow", "deny")])
        asked = (principal, groups, request.tenant, request.resource, action, said)  # all that Casbin's answer hangs on
        answer = self._answers.get(asked)
        if answer is None:
            enforcer = self._enforcers.get((principal, groups)) or self._make(principal, groups)
            answer = bool(enforcer.enforce(principal, request.tenant, request.resource, action, self))
            self._answers[asked] = answer
        return answer

    def _make(self, principal: str, groups: frozenset[str]) -> Any:
        model = casbin.Enforcer.new_model(text=self._bundle.model)
        enforcer = casbin.Enforcer(model)
        for rule in self._bundle.rules:
            row = [rule.who, rule.tenant, rule.tool, rule.action, rule.when or "-", rule.effect, rule.id]
            enforcer.model["p"]["p"].policy.append(row)
        links = {(m.member, m.role, m.tenant) for m in self._bundle.roles}
        links |= {(principal, f"idp:{group}", tenant) for group in groups for tenant in TENANTS}
        enforcer.model["g"]["g"].policy = [list(link) for link in sorted(links)]
        enforcer.model["g"]["g2"].policy = [[tool, name] for name, tools in self._bundle.sets.items() for tool in tools]
        enforcer.build_role_links()
        enforcer.add_function("when", lambda condition, effect, stock: holds(condition, effect, stock._args))
        enforcer.add_function("hit", lambda _rule: True)
        self._enforcers[principal, groups] = enforcer
        return enforcer


def naive(bundle: Bundle, names: set[str], action: str, request: AccessRequest) -> list[Rule]:
    """Every rule that speaks for one principal under the shipped matcher, read rule by rule."""
    for _ in bundle.roles:
        names |= {m.role for m in bundle.roles if m.member in names and m.tenant == request.tenant}
    spoke = []
    for rule in bundle.rules:
        acts = {action, "*"} | ({"call", "send"} if action == "relay" else set())
        wide = rule.tool[:-1] if rule.tool.endswith("*") else None
        covers = request.resource == rule.tool or (wide is not None and request.resource.startswith(wide))
        covers = covers or request.resource in bundle.sets.get(rule.tool, ())
        if (
            rule.action in acts and rule.tenant in (request.tenant, "*") and covers
            and (rule.who == "*" or rule.who in names) and holds(rule.when or "-", rule.effect, readable(request))
        ):  # fmt: skip
            spoke.append(rule)
    return spoke


def differences(decision: Decision, stock: Stock, bundle: Bundle, request: AccessRequest, *, by_hand: bool) -> list[str]:
    """How a decision differs from the other judges; `by_hand`: the model is the shipped one, so the naive reading holds."""
    spec = bundle.tools.get(request.resource)
    if spec is not None and request.tenant not in spec.tenants:
        return (
            []
            if decision.reason.value == "unknown-resource" and not decision.answers
            else ["a tool of another tenant was judged"]
        )
    found, duties, missing = [], [], []
    actors = request.actors
    chain = [(request.subject, request.action), *((a, "relay") for a in actors[:-1]), *((a, request.action) for a in actors[-1:])]
    if [(a.question.principal, a.question.action) for a in decision.answers] != chain:
        return ["other questions were asked"]
    denied = False
    for (principal, action), answer in zip(chain, decision.answers, strict=True):
        groups = request.groups if principal == request.subject else frozenset()
        yes = stock.allowed(principal, groups, action, request)
        if yes != answer.allowed:
            found.append(f"{principal}: casbin says {yes}, the engine {answer.allowed}")
        if not yes:
            missing.append(principal)
        if by_hand:
            spoke = naive(bundle, {principal, *(f"idp:{group}" for group in groups)}, action, request)
            if [rule.id for rule in spoke] != [match.rule for match in answer.matched]:
                found.append(f"{principal}: other rules spoke")
            duties += [rule.must for rule in spoke if rule.effect == "require"]
            denied = denied or any(rule.effect == "deny" for rule in spoke)
    if decision.allowed == bool(missing) or decision.missing != tuple(dict.fromkeys(missing)):
        found.append("the decision does not follow from the answers")
    if by_hand and decision.allowed and [d.name for d in decision.obligations] != list(dict.fromkeys(duties)):
        found.append("other duties")
    if by_hand and not decision.allowed:
        reason = "guardrail" if denied else "user-lacks-right" if request.subject in missing else "agent-lacks-right"
        if decision.reason.value != reason or decision.obligations:
            found.append(f"the reason is {reason}, not {decision.reason.value}")
    return found


_REASONS = frozenset(reason.value for reason in Reason)


def run(count: int, seed: int = 0, *, until_wrong: bool = False, varied: int = 1) -> dict[str, Any]:
    """Make `count` checks (`until_wrong`: at most so many); counts, the allow rate, and the first differences.

    A check is one principal's question: its answer beside stock Casbin's, and its rules beside the naive reading's.
    """
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.perf_counter()
    while seen["checks"] < count and not (until_wrong and wrong):
        matcher = UNDERSTOOD if rng.random() < 0.6 else rng.choice(list(MATCHERS))
        bundle, asked = scenario(rng, matcher, varied)
        engine, stock = Engine(bundle), Stock(bundle)
        seen["policies"] += 1
        seen[engine.path] += len(asked)
        for request in asked:
            decision = engine.decide(request)
            seen["questions"] += 1
            seen["checks"] += max(len(decision.answers), 1)
            seen[decision.reason.value] += 1
            differing = differences(decision, stock, bundle, request, by_hand=matcher == UNDERSTOOD)
            seen["mismatches"] += bool(differing)
            if differing and len(wrong) < 3:
                lines = [f"{r.id} {r.who} {r.tenant} {r.tool} {r.action} {r.effect} {r.when}" for r in bundle.rules]
                wrong.append(f"{matcher}: {request}: {differing} {lines}")
    return {
        "checks": seen["checks"],
        "questions": seen["questions"],
        "policies": seen["policies"],
        "mismatches": seen["mismatches"],
        "allow_rate": round(seen["allowed"] / seen["questions"], 3),
        "reasons": {name: n for name, n in sorted(seen.items()) if name in _REASONS},
        "indexed": seen["indexed"],
        "stock": seen["stock"],
        "seconds": round(time.perf_counter() - began, 1),
        "seed": seed,
        "examples": wrong,
    }


def main() -> int:
    """Run from the command line; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--varied", type=int, default=1, help="variations of each planted question: more of them, fewer policies")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = run(options.count, options.seed, varied=options.varied)
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 1 if result["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
